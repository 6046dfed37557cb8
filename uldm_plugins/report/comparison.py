"""Several runs on one page: what differs between them, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from uldm_core.errors import Problem, dotted
from uldm_core.recipe.compare import differences, flattened
from uldm_core.spec.format_types import format_value
from uldm_plugins.report.curves import chart_of
from uldm_plugins.report.labels import METRICS, scalar_label
from uldm_plugins.report.page import NOTHING, environment, state_of
from uldm_plugins.report.pictures import Picture, larger_side, picture, shown_at
from uldm_plugins.report.run_reader import Measured, RunFiles, read_run
from uldm_plugins.report.sections import Chart

NOT_COMPARED = ("run", "versions")
"""Tables of a recipe that have no influence on what is trained."""


@frozen
class Drawn:
    """Samples that were drawn from a run for the comparison.

    Args:
        images: uint8 [N, H, W, C]; the n-th of each run is of the same noise. None if there are none.
        why_not: why there are none.
    """

    images: NDArray[np.uint8] | None = None
    why_not: str = ""


@frozen(eq=False)
class Compared:
    """One run of the comparison, under a label of its own."""

    label: str
    files: RunFiles
    state: str
    why_not: str
    samples: list[Picture] = field(factory=list)
    side: int = 0


def comparison_of(
    paths: Sequence[Path],
    drawn: Sequence[Drawn] = (),
    warn: Callable[[Problem], object] = lambda problem: None,
) -> str:
    """Return the page that lays runs side by side.

    Args:
        paths: folders of runs, two or more; finished or not.
        drawn: samples of each, in the order of ``paths``.
        warn: called with each file that cannot be read; the page lists them as well.
    """
    files = [read_run(path) for path in paths]
    runs = [
        _compared(label, run, one)
        for label, run, one in zip(labels(paths), files, [*drawn, *(Drawn() for _ in paths[len(drawn) :])])
    ]
    groups = _charts(runs)
    charts = [chart for group in groups for chart in group["charts"]]
    options, metrics, alike = _options(runs), _metrics(runs), _measured_alike(runs)
    unreadable = [problem for run in files for problem in run.unreadable.problems.values()]
    for problem in unreadable:
        warn(problem)
    return (
        environment()
        .get_template("compare.html")
        .render(
            runs=runs,
            options=options,
            metrics=metrics,
            same_measure=alike,
            unreadable=unreadable,
            groups=groups,
            data={"charts": {chart.id: chart.data for chart in charts}, "refresh": 0},
        )
    )


def labels(paths: Sequence[Path]) -> list[str]:
    """Return the folders' names, or their paths where two have one name; a path that is twice is numbered."""
    names = [path.resolve().name for path in paths]
    names = [str(path) if names.count(name) > 1 else name for path, name in zip(paths, names)]
    return [
        f"{name} ({names[:index].count(name) + 1})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


def _compared(label: str, files: RunFiles, drawn: Drawn) -> Compared:
    images = drawn.images if drawn.images is not None else np.empty((0, 1, 1, 1), np.uint8)
    pictures = [picture(image, f"{label}, sample {number}") for number, image in enumerate(images, 1)]
    return Compared(label, files, state_of(files), drawn.why_not, pictures, shown_at(larger_side(images)))


def _options(runs: Sequence[Compared]) -> list[tuple[str, list[str]]]:
    """Return the options in which any run differs from the first, with each run's value."""
    recipes = [
        {name: table for name, table in run.files.recipe.items() if name not in NOT_COMPARED} for run in runs
    ]
    keys = dict.fromkeys(found.key for other in recipes[1:] for found in differences(recipes[0], other))
    flat = [flattened(recipe) for recipe in recipes]
    return [(dotted(key), [_format(values.get(key)) for values in flat]) for key in keys]


def _format(value: Any) -> str:
    return NOTHING if value is None else format_value(value)


def _metrics(runs: Sequence[Compared]) -> list[dict[str, Any]]:
    """Return a row a measured number: its value in each run, the best of them, and the floor."""
    found = [(run.files.record("metrics.json", Measured) or Measured()).results for run in runs]
    sets = ("samples", "reconstructions")
    names = dict.fromkeys((of, name) for results in found for of in sets for name in results.get(of, ()))
    return [_metric_row(of, name, found) for of, name in names]


def _metric_row(of: str, name: str, found: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    values = [results.get(of, {}).get(name) for results in found]
    floors = [results["floor"][name] for results in found if name in results.get("floor", ())]
    label = METRICS.get(name)
    return {
        "name": name,
        "of": of,
        "values": values,
        "best": _best(values, label.better if label else ""),
        "floor": floors[0] if floors else None,
        "label": label,
    }


def _best(values: Iterable[float | None], better: str) -> float | None:
    finite = [value for value in values if value is not None and np.isfinite(value)]
    if len(finite) < 2 or not better:
        return None
    return min(finite) if better == "lower" else max(finite)


def _measured_alike(runs: Sequence[Compared]) -> bool:
    """Whether all numbers are of as many images, by the same features."""
    found = [run.files.record("metrics.json", Measured) for run in runs]
    ways = [(one.counts.get("samples"), one.reference, one.metrics) for one in found if one]
    return all(way == ways[0] for way in ways)


def _charts(runs: Sequence[Compared]) -> list[Mapping[str, Any]]:
    """Return a group of charts a stage; in each, a curve a run, in that run's colour."""
    stages = dict.fromkeys(stage.name for run in runs for stage in run.files.stages if stage.curves)
    return [{"stage": stage, "charts": _charts_of(stage, runs)} for stage in stages]


def _charts_of(stage: str, runs: Sequence[Compared]) -> list[Chart]:
    found = {run.label: one for run in runs for one in run.files.stages if one.name == stage}
    colours = {run.label: index for index, run in enumerate(runs)}
    names = dict.fromkeys(name for one in found.values() for name in one.curves)
    charts = []
    for name in sorted(names, key=lambda name: name == "images_per_second"):
        curves = {label: one.curves[name] for label, one in found.items() if name in one.curves}
        data = chart_of(curves, "smooth")
        for series in data["series"]:
            series["colour"] = colours[series["label"]]
        use = next(iter(found.values())).use
        charts.append(Chart(f"{stage}/{name}", name.replace("_", " "), scalar_label(use, name), data))
    return charts
