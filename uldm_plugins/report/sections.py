"""The parts of the page: what each shows of a run's folder. One that has nothing to show is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from attrs import Factory, evolve, field, frozen
from numpy.typing import NDArray

from uldm_plugins.pictures.codes import code_colours
from uldm_plugins.report.curves import Curve, chart_of, rounded
from uldm_plugins.report.diagnostics import are_neighbours, copied
from uldm_plugins.report.history import history_of
from uldm_plugins.report.labels import CLASSES, CONDITIONS, METRICS, STAGES, scalar_label
from uldm_plugins.report.pictures import Picture, how_many, larger_side, picture, shown_at
from uldm_plugins.report.run_reader import (
    MOST_CODES,
    Candidate,
    Classes,
    Codebook,
    Codebooks,
    DataCounts,
    Measured,
    RunFiles,
    StageFiles,
    Tuning,
)

SETS = {
    "samples": "samples",
    "reconstructions": "reconstructions",
    "floor": "floor",
    "originals": "originals",
}
GAN = ("generator", "discriminator")
HELD_OUT = "held_out_loss_"
WATCHED = ("held_out_loss", "trained_loss")
MOST_SAMPLES = 100
MOST_PAIRS = 24
MOST_FRAMES = 24
MOST_CODEBOOKS = 4
MOST_ENTRIES = 200
MOST_REASONS = 10
MOST_CLASSES, MOST_OF_A_CLASS = 20, 10
MOST_SEARCHED = 4000
"""Samples that are searched for some of each class."""


@frozen
class Section:
    """A part of the page: ``templates/sections/<name>.html`` writes what it ``shows``."""

    name: str
    title: str
    shows: Mapping[str, Any]
    short: str = field(default=Factory(lambda self: self.title, takes_self=True))


@frozen
class Chart:
    """Curves that share their axes; ``data`` is what ``report.js`` draws."""

    id: str
    title: str
    description: str
    data: Mapping[str, Any]


@frozen
class Frame:
    """A picture that was kept at a step."""

    step: int
    picture: Picture


def sections_of(run: RunFiles) -> list[Section]:
    """Return the parts that there is something to show in, in the order of the page.

    Samples come first; while the run goes, its stages do.
    """
    made = [
        _samples(run),
        _metrics(run),
        _tuning(run),
        _stages(run),
        _data(run),
        _curves(run),
        _reconstructions(run),
        _codebook(run),
        _path(run),
        _nearest(run),
        _by_class(run),
        _classes(run),
        _history(run),
    ]
    there = [section for section in made if section]
    return sorted(there, key=lambda section: section.name != "stages") if run.running else there


def charts_of(sections: list[Section]) -> dict[str, Mapping[str, Any]]:
    """Return the data of all charts by their ids."""
    groups = [group for section in sections for group in section.shows.get("groups", ())]
    return {chart.id: chart.data for group in groups for chart in group["charts"]}


def _stages(run: RunFiles) -> Section | None:
    longest = max((stage.state.seconds for stage in run.stages), default=0) or 1
    rows = [
        {
            "name": stage.name,
            "use": stage.use,
            "does": STAGES.get(stage.use, ""),
            "seconds": stage.state.seconds,
            "share": stage.state.seconds / longest,
            "step": stage.step,
            "steps": stage.steps,
            "state": _state(run, stage),
            "left": _seconds_left(stage),
        }
        for stage in run.stages
    ]
    return Section("stages", "Stages", {"rows": rows}) if rows else None


def _data(run: RunFiles) -> Section | None:
    rows = [(name, what, count) for name, found in run.data.items() for what, count in _found_in(found)]
    return Section("data", "Images", {"rows": rows}) if rows else None


def _found_in(found: DataCounts) -> Iterator[tuple[str, str]]:
    """Yield what was found in a dataset, and how often; the commonest reasons for leaving files out."""
    twice = found.duplicates
    if twice.exact:
        yield "test images that are copies of a training image", f"{twice.exact:,}"
    if twice.near:
        yield "test images that look nearly like a training image", f"{twice.near:,} of {twice.compared:,}"
    reasons = sorted(found.left_out.items(), key=lambda reason: -reason[1])
    yield from ((f"left out: {why}", f"{count:,}") for why, count in reasons[:MOST_REASONS])
    if rest := sum(count for _, count in reasons[MOST_REASONS:]):
        yield "left out for other reasons", f"{rest:,}"


def _state(run: RunFiles, stage: StageFiles) -> str:
    if stage.state.done:
        return "done"
    if not stage.begun:
        return "waiting"
    return "running" if run.running else "unfinished"


def _seconds_left(stage: StageFiles) -> float:
    """Return the seconds left at the recent speed, 0 if it is unknown."""
    speed, batch = stage.curves.get("images_per_second"), stage.options.get("batch_size")
    if stage.state.done or speed is None or not len(speed.finite) or not isinstance(batch, int):
        return 0.0
    return max(stage.steps - stage.step, 0) * batch / max(float(np.median(speed.finite[-10:])), 1e-9)


def _samples(run: RunFiles) -> Section | None:
    trainer = run.stage_using("train_diffusion")
    frames = _frames(trainer, "samples") if trainer else []
    head = run.first_images("samples.npz", MOST_SAMPLES)
    images, total = head if head else (np.empty((0, 1, 1, 1), np.uint8), 0)
    images = images[: how_many(larger_side(images), MOST_SAMPLES)]
    pictures = [picture(image, f"sample {number}") for number, image in enumerate(images, 1)]
    if not pictures and not frames:
        return None
    drawn = run.stage_using("sample")
    shows = {
        "pictures": pictures,
        "total": total,
        "calls": drawn.state.summary.get("denoiser_calls_per_image") if drawn else None,
        "side": shown_at(larger_side(images)),
        "frames": frames,
        "trainer": trainer.name if trainer else "",
        "steps": trainer.steps if trainer else 0,
    }
    return Section("samples", "Samples", shows)


def _frames(stage: StageFiles, name: str) -> list[Frame]:
    """Return some of the pictures that were kept while a stage trained, the first and the last among them."""
    shown = stage.shown(name)
    chosen = np.unique(np.linspace(0, len(shown) - 1, min(len(shown), MOST_FRAMES)).astype(int))
    found = (
        (step, stage.picture(path, f"{name} at step {step}")) for step, path in map(shown.__getitem__, chosen)
    )
    return [Frame(step, picture) for step, picture in found if picture]


def _curves(run: RunFiles) -> Section | None:
    groups = [
        {"stage": stage.name, "does": STAGES.get(stage.use, stage.use), "charts": list(_charts(stage))}
        for stage in run.stages
        if stage.curves
    ]
    return Section("curves", "Training curves", {"groups": groups}, "Curves") if groups else None


def _charts(stage: StageFiles) -> Iterator[Chart]:
    """Yield a chart a number, the speed last; those that belong together share one."""
    names = sorted(stage.curves, key=lambda name: name == "images_per_second")
    averages = tuple(name for name in names if name.startswith(HELD_OUT))
    together = [averages, *(pair for pair in (GAN, WATCHED) if set(pair) <= set(names))]
    shared = {name: group for group in together for name in group}
    for drawn in dict.fromkeys(shared.get(name, (name,)) for name in names):
        if drawn == WATCHED:
            yield _watched(stage)
            continue
        title = HELD_OUT.strip("_") if drawn == averages else " and ".join(drawn)
        yield Chart(
            id=f"{stage.name}/{drawn[0]}",
            title=title.replace("_", " "),
            description=" ".join(filter(None, dict.fromkeys(scalar_label(stage.use, one) for one in drawn))),
            data=chart_of({one: stage.curves[one] for one in drawn}),
        )


def _watched(stage: StageFiles) -> Chart:
    """Return the losses on images that are held out and on trained ones, and where the former was best."""
    curves = {name: stage.curves[name] for name in WATCHED}
    held_out, kept = curves[WATCHED[0]], stage.state.summary.get("best_step", 0)
    lowest = held_out.steps[held_out.values == np.min(held_out.finite)] if len(held_out.finite) else []
    best = int(kept) if kept else int(lowest[0]) if len(lowest) else 0
    marked = f" The line is at step {best:,}, {'whose weights are kept' if kept else 'the lowest'}."
    mark = {"mark": {"x": best, "label": f"best: {best:,}"}} if best else {}
    return Chart(
        id=f"{stage.name}/{WATCHED[0]}",
        title="loss on held-out and on trained images",
        description=scalar_label(stage.use, WATCHED[0]) + (marked if best else ""),
        data={**chart_of(curves, "raw"), "points": True, **mark},
    )


def _reconstructions(run: RunFiles) -> Section | None:
    arrays = run.arrays("reconstructions.npz", _are_pairs)
    trainer = run.stage_using("train_autoencoder")
    frames = _frames(trainer, "reconstructions") if trainer else []
    if not arrays:
        shows = {"rows": [], "frames": frames, "steps": trainer.steps if trainer else 0}
        return Section("reconstructions", "Reconstructions", shows) if frames else None
    images, decoded = arrays["originals"], arrays["reconstructions"]
    count = min(how_many(larger_side(images), MOST_PAIRS), len(images), len(decoded))
    maps = _code_maps(run, arrays.get("codes"), count)
    rows = [
        [
            picture(images[index], f"image {index + 1}"),
            picture(decoded[index], f"reconstruction {index + 1}"),
            *maps[index],
        ]
        for index in range(count)
    ]
    shows = {
        "rows": rows,
        "side": shown_at(larger_side(images)),
        "grid": _grid(arrays["codes"]) if maps[0] else "",
        "frames": frames,
        "steps": trainer.steps if trainer else 0,
    }
    return Section("reconstructions", "Reconstructions", shows)


def _are_images(found: NDArray[Any] | None) -> bool:
    return found is not None and found.dtype == np.uint8 and found.ndim == 4 and found.size > 0


def _are_pairs(arrays: Mapping[str, NDArray[Any]]) -> bool:
    return _are_images(arrays.get("originals")) and _are_images(arrays.get("reconstructions"))


def _grid(codes: NDArray[Any]) -> str:
    return f"{codes.shape[-2]} by {codes.shape[-1]}"


def _code_maps(run: RunFiles, codes: NDArray[Any] | None, count: int) -> list[list[Picture]]:
    """Return each image's codes as pictures, one a codebook, a pixel a place; none without a quantizer."""
    if (
        codes is None
        or codes.dtype.kind != "i"
        or codes.ndim not in (3, 4)
        or len(codes) < count
        or not codes.size
    ):
        return [[] for _ in range(count)]
    books = run.record("codebook.json", Codebooks)
    sizes = [book.size for book in books.codebooks] if books else []
    colours = code_colours(min(max([*sizes, int(codes.max()) + 1, 1]), MOST_CODES)).numpy()
    codes = codes.clip(0) % len(colours)
    stacked = codes if codes.ndim == 4 else codes[:, None]
    return [
        [
            picture(colours[book], f"codes {', '.join(map(str, book.ravel()[:64]))}")
            for book in image[:MOST_CODEBOOKS]
        ]
        for image in stacked[:count]
    ]


def _codebook(run: RunFiles) -> Section | None:
    found = run.record("codebook.json", Codebooks)
    books = [book for book in found.codebooks if book.counts] if found else []
    if not books:
        return None
    charts = [
        Chart(f"codebook/{number}", f"Codebook {number}" if len(books) > 1 else "Use of each code", "", data)
        for number, data in enumerate(map(_ranked, books), 1)
    ]
    return Section("codebook", "Codebook usage", {"books": books, "groups": [{"charts": charts}]}, "Codebook")


def _ranked(book: Codebook) -> dict[str, Any]:
    """Return how often codes are used, the commonest first, beside what even use would give."""
    counts = np.sort(np.array(book.counts, np.float64))[::-1]
    ranks = np.arange(1, len(counts) + 1)
    even = np.full(len(counts), counts.mean())
    curves = {"uses of this code": Curve(ranks, counts), "if all were used alike": Curve(ranks, even)}
    chart = chart_of(curves, "raw")
    chart["series"][1]["dashed"] = True
    return {**chart, "counted": "code"}


def _path(run: RunFiles) -> Section | None:
    arrays = run.arrays("path.npz", _is_path)
    if not arrays:
        return None
    frames, times = arrays["frames"], arrays.get("times")
    count = how_many(larger_side(frames), 10 * len(frames)) // len(frames) or 1
    rows = [
        [picture(frame, f"sample {number + 1} at moment {moment}") for moment, frame in enumerate(path, 1)]
        for number, path in enumerate(frames.swapaxes(0, 1)[:count])
    ]
    labels = times.tolist() if times is not None and times.shape == (len(frames),) else []
    shows = {"rows": rows, "times": labels, "side": shown_at(larger_side(frames))}
    return Section("path", "From noise to image", shows, "Noise to image")


def _is_path(arrays: Mapping[str, NDArray[Any]]) -> bool:
    frames = arrays.get("frames")
    return frames is not None and frames.dtype == np.uint8 and frames.ndim == 5 and frames.size > 0


def _nearest(run: RunFiles) -> Section | None:
    arrays = run.arrays("nearest.npz", are_neighbours)
    if not arrays:
        return None
    samples, nearest, distance = (arrays[name] for name in ("samples", "nearest", "distance"))
    count = how_many(larger_side(samples), 12 * nearest.shape[1]) // nearest.shape[1] or 1
    rows = [
        {
            "sample": picture(samples[index], f"sample {index + 1}"),
            "nearest": [
                (picture(image, f"training image at distance {far:.3g}"), float(far))
                for image, far in zip(nearest[index], distance[index])
            ],
            "copied": bool(copied(distance[index : index + 1])[0]),
        }
        for index in range(min(count, len(samples)))
    ]
    measured = run.record("metrics.json", Measured) or Measured()
    shares = [measured.results.get(name, {}).get("copies") for name in ("samples", "floor")]
    shows = {"rows": rows, "side": shown_at(larger_side(samples)), "copies": shares}
    return Section("nearest", "Nearest training images", shows, "Nearest")


def _by_class(run: RunFiles) -> Section | None:
    """Return samples of the largest classes of the condition, with the share of each."""
    drawn, head = run.drawn_classes(), run.first_images("samples.npz", MOST_SEARCHED)
    if drawn is None or head is None or len(drawn) != head[1]:
        return None
    images, assigned, names = head[0], run.training_classes(), run.class_names()
    samples, training = _shares(drawn), None if assigned is None else _shares(assigned)
    largest = sorted(training or samples, key=lambda number: -(training or samples)[number])[:MOST_CLASSES]
    each = max(1, how_many(larger_side(images), MOST_OF_A_CLASS * len(largest)) // len(largest))
    rows = [
        {
            "name": _name(names, number),
            "pictures": [
                picture(images[index], f"sample {index + 1}, class {_name(names, number)}")
                for index in np.flatnonzero(drawn[: len(images)] == number)[:each]
            ],
            "samples": samples.get(number, 0.0),
            "training": training.get(number, 0.0) if training else None,
        }
        for number in largest
    ]
    condition = run.recipe.get("condition")
    shows = {
        "rows": rows,
        "classes": len(training or samples),
        "side": shown_at(larger_side(images)),
        "condition": CONDITIONS.get(condition.get("use", "") if isinstance(condition, dict) else "", CLASSES),
    }
    return Section("by_class", "Samples by class", shows, "By class")


def _name(names: Sequence[str], number: int) -> str:
    """Return what a class is called: its number if it has no name."""
    return names[number] if 0 <= number < len(names) else str(number)


def _shares(classes: NDArray[np.int64]) -> dict[int, float]:
    """Return the share of each class that occurs."""
    found, counts = np.unique(classes, return_counts=True)
    return dict(zip(found.tolist(), (counts / len(classes)).tolist()))


def _classes(run: RunFiles) -> Section | None:
    found = run.record("classes.json", Classes)
    if found is None or not found.labels:
        return None
    most = max([*found.samples, *found.real]) or 1
    rows = [
        {"label": label, "drawn": drawn, "real": real, "drawn_width": drawn / most, "real_width": real / most}
        for label, drawn, real in zip(found.labels, found.samples, found.real)
    ]
    return Section("classes", "Balance of classes", {"rows": rows}, "Classes")


def _history(run: RunFiles) -> Section | None:
    entries = list(history_of(run.events))
    left = max(0, len(entries) - MOST_ENTRIES)
    return Section("history", "History", {"entries": entries[left:], "left": left}) if entries else None


def _tuning(run: RunFiles) -> Section | None:
    found = run.record("candidates.json", Tuning)
    if found is None or not found.candidates:
        return None
    rows = [
        {"candidate": one, "score": rounded(_score(found, one)), "best": place == found.best}
        for place, one in enumerate(found.candidates)
    ]
    charts = [chart for chart in (_tuning_chart(found, option) for option in ("weight", "steps")) if chart]
    shows = {"found": found, "rows": rows, "groups": [{"charts": charts}]}
    return Section("tuning", "How samples are drawn", shows, "Tuning")


def _score(found: Tuning, candidate: Candidate) -> float:
    return candidate.numbers.get(found.metric, np.nan)


def _tuning_chart(found: Tuning, option: Literal["weight", "steps"]) -> Chart | None:
    """Return the metric by an option, of candidates that differ in nothing else; None of less than two."""
    last = next((one for one in reversed(found.candidates) if one.option == option), None)
    alike = [one for one in found.candidates if last and evolve(one, **_same(last, option)) == last]
    points = {getattr(one, option): rounded(_score(found, one)) for one in alike}
    points = {at: points[at] for at in sorted(at for at in points if at is not None)}
    if len(points) < 2:
        return None
    series = [{"label": found.metric, "line": list(points.values())}]
    data = {"x": list(points), "series": series, "counted": option, "points": True}
    return Chart(f"tuning/{option}", f"{found.metric.replace('_', ' ')} by {option}", "", data)


def _same(other: Candidate, but: str) -> dict[str, Any]:
    """Return what does not tell candidates apart: an option, and what was found."""
    return {name: getattr(other, name) for name in (but, "option", "calls", "numbers", "seconds")}


def _metrics(run: RunFiles) -> Section | None:
    own = run.record("metrics.json", Measured)
    tables = [metric_table(measured) for measured in ([own] if own else []) + run.evaluations]
    tables = [table for table in tables if table["rows"]]
    return Section("metrics", "Metrics", {"tables": tables}) if tables else None


def metric_table(measured: Measured) -> dict[str, Any]:
    """Return the rows and columns of what was measured."""
    sets = [name for name in {**SETS, **dict.fromkeys(measured.results)} if measured.results.get(name)]
    names = dict.fromkeys(name for found in sets for name in measured.results[found])
    rows = [
        {
            "name": name,
            "label": METRICS.get(name),
            "values": [rounded(measured.results[found].get(name, np.nan)) for found in sets],
        }
        for name in names
    ]
    counts = {"originals": measured.reference, **measured.counts}
    return {
        "measured": measured,
        "sets": sets,
        "counts": [counts.get(name, 0) for name in sets],
        "rows": rows,
    }


def components_of(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the recipe's components, each with its name and those of the components nested in it."""
    components = {name: table for name, table in recipe.items() if isinstance(table, dict) and "use" in table}
    return [(name.replace("_", " "), _nested_names(table)) for name, table in components.items()]


def _nested_names(table: Mapping[str, Any]) -> str:
    inner = [(key, value) for key, value in table.items() if isinstance(value, dict) and "use" in value]
    within = "".join(f", {key} {_nested_names(value)}" for key, value in inner)
    size = f" of {table['codebook_size']:,} codes" if isinstance(table.get("codebook_size"), int) else ""
    return f"{table['use']}{size}{within}"


def command_of(run: RunFiles, path: Path) -> str:
    """Return the command that repeats or resumes the run."""
    from uldm_core.run_folder.files import command_for

    return run.state.command or command_for(path)
