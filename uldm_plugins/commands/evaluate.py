"""``uldm evaluate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uldm_core.cli.common import FilePath, json_option, plugin_option
from uldm_core.cli.run_options import Given, device_options, run_overrides
from uldm_plugins.commands.parameters import SIDE, as_run_options, not_empty, run_argument

if TYPE_CHECKING:
    from uldm_core.engine.device import Device
    from uldm_core.engine.opened_run import TrainedRun
    from uldm_core.protocols import Dataset, Metric
    from uldm_plugins.commands.image_sets import ImageSet
    from uldm_plugins.stages.evaluate import Evaluate

_OF_DIGITS = ({"use": "frechet_mnist"}, {"use": "class_balance"})
SETS = ("samples", "reconstructions", "floor", "originals")


def _split_names(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> list[str]:
    """Take names apart at commas."""
    found = [name.strip() for names in given for name in names.split(",") if name.strip()]
    if given and not found:
        raise click.BadParameter("it names none", context, parameter)
    return found


@click.command()
@run_argument
@click.option("--samples", type=FilePath(), help="An .npz or folder instead of the run's.")
@click.option(
    "--against",
    callback=not_empty,
    metavar="WHAT",
    help="Real images: a folder, an .npz, or a dataset's test split.",
)
@click.option(
    "--metrics",
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME[,NAME...]",
    callback=_split_names,
    help="Instead of the run's. Repeatable.",
)
@click.option("--backbone", metavar="NAME", help="The feature network of the named metrics that take one.")
@click.option("--size", type=SIDE, help="Resize the middle squares of a folder's images to this side.")
@json_option
@device_options
@plugin_option
def evaluate(
    run: Path,
    samples: Path | None,
    against: str | None,
    metrics: list[str],
    backbone: str | None,
    size: int | None,
    as_json: bool,
    run_options: Given,
) -> None:
    """Measure images against real ones, and print a table.

    RUN is a folder that `uldm run` made: its samples and its reconstructions are measured against the test
    set, or its samples --against other images, and the result is kept in RUN/evaluations and shown in its
    report. Or RUN is a folder of images or an .npz (uint8 [N, H, W, C]) made by anything, which is measured
    --against a folder, an .npz or a registered dataset.

    `floor` is what real images score, `originals` what the test set itself scores. Files of two folders are
    pairs by their names, images of others by their order.
    """
    from uldm_plugins.shared.diagnostics import copies_diagnostics

    if backbone and not metrics:
        raise click.UsageError("--backbone is for metrics that are named: --metrics NAME")
    specs = _specs(metrics, backbone)
    flags = run_overrides(run_options)
    is_run = any((run / name).exists() for name in ("recipe.toml", "run.json"))  # also one that is damaged
    if is_run:
        report = _of_run(run, flags, samples, against, specs, size)
    elif samples:
        raise click.UsageError("--samples is for a run; name the images in its place")
    else:
        report = _of_images(run, against, specs, size, run_options)
    click.echo(json.dumps(report, indent=2) if as_json else _table(report["results"]))
    for found in copies_diagnostics(report["results"]):
        click.echo(f"warning: {found.what}\n    {found.fix}", err=True)
    if is_run:
        _keep(run, report, against)


def _specs(names: Sequence[str], backbone: str | None) -> list[dict[str, Any]]:
    """Return the named metrics as a recipe has them, those that have an option ``backbone`` with this one."""
    from uldm_core import MistakeError, registry

    specs: list[dict[str, Any]] = []
    for name in names:
        declared = [option.name for option in registry.describe("metric", name).options]
        specs.append({"use": name, **({"backbone": backbone} if backbone and "backbone" in declared else {})})
    if backbone and not any("backbone" in spec for spec in specs):
        raise MistakeError(f"--backbone: {', '.join(names)} has no such option")
    return specs


def _of_run(
    run: Path,
    flags: tuple[str, ...],
    samples: Path | None,
    against: str | None,
    specs: Sequence[dict[str, Any]],
    size: int | None,
) -> dict[str, Any]:
    """Measure a run's samples, and unless they are compared with other images, its reconstructions."""
    import torch

    from uldm_core.cli.progress import reporter
    from uldm_core.engine.opened_run import TrainedRun
    from uldm_plugins.commands.image_sets import found

    trained = TrainedRun.open(run, overrides=flags)
    trained.require_trained("autoencoder")
    stage = _stage(trained, specs)
    images = _samples(trained, samples, size)
    if against:
        pairs = ("samples",) if specs else ()
        return _compared("samples", images, found(against, size), stage.metrics, pairs)
    test = stage.reference
    images = _of_shape(images, test)
    with reporter() as notify:
        context = trained.context("evaluate", trained.resolved.seed, notify)
        drawn = torch.cat(list(images.batches()))
        return stage.report(drawn, stage.reconstructions(test, context), test, context)


def _stage(trained: TrainedRun, specs: Sequence[dict[str, Any]]) -> Evaluate:
    """Return the run's own way of measuring, or one by the named metrics."""
    from attrs import evolve

    from uldm_core import MistakeError, registry
    from uldm_core.cli.console import show_problems
    from uldm_core.recipe.graph import measured_by_a_loss
    from uldm_core.spec.building import validate
    from uldm_plugins.stages.evaluate import Evaluate

    if not specs:
        own_stage: Evaluate = trained.stage("evaluate")[1]
        return own_stage
    autoencoder = trained.component("autoencoder")
    own, resolved = registry.default(), trained.resolved
    found = [validate(own, "metric", spec, {}, components=resolved.components) for spec in specs]
    named = [evolve(spec, key=(spec.use,)) for spec in found]
    show_problems(measured_by_a_loss(resolved.components, resolved.stages, named))
    metrics = [trained.store.build(spec) for spec in found]
    try:
        return Evaluate(trained.component("dataset"), autoencoder, metrics)
    except ValueError as error:  # one is named twice
        raise MistakeError(str(error)) from error


def _samples(trained: TrainedRun, path: Path | None, size: int | None) -> ImageSet:
    """Return the images to be measured: the run's samples unless others are named.

    Raises:
        MistakeError: they are not there, or no images.
    """
    from uldm_core import MistakeError
    from uldm_plugins.commands.image_sets import found, of_array
    from uldm_plugins.stages.sample import load_images

    if path is None:
        own = trained.artifact("samples.npz")
        if own.exists():
            return of_array(own, load_images(own))
    if path is None or not path.exists():
        what = f"there are no samples {path or own}"
        raise MistakeError(what, hint="finish the run, or name others: --samples")
    return found(str(path), size)


def _of_shape(images: ImageSet, test: Dataset) -> ImageSet:
    """Return images with the dataset's channels; raises ``MistakeError`` if their shape is another."""
    from uldm_core import MistakeError

    if images.adapts:
        images = images.with_channels(test.channels)
    wanted = (test.channels, *test.size)
    if images.shape != wanted:
        own, theirs = [
            f"{height}x{width} with {channels} channels" for channels, height, width in (images.shape, wanted)
        ]
        raise MistakeError(f"{images.name}: images are {own}; those of the run's dataset are {theirs}")
    return images


def _of_images(
    path: Path,
    against: str | None,
    specs: Sequence[dict[str, Any]],
    size: int | None,
    run_options: Given,
) -> dict[str, Any]:
    """Measure a folder of images, or an ``.npz``."""
    from uldm_core import MistakeError
    from uldm_core.engine.device import choose_device
    from uldm_plugins.commands.image_sets import alike, found

    if not path.exists():
        raise MistakeError(
            f"{path} is not a run, a folder of images or an .npz: there is no such path",
            hint="make a run with: uldm run RECIPE",
        )
    images = found(str(path), size)
    if not against:
        raise MistakeError(
            f"{path} is not a run: real images to compare it with are missing",
            hint="--against FOLDER, FILE.npz, or a dataset such as mnist",
        )
    images, reference = alike(images, found(against, size))
    device = choose_device(as_run_options(run_options))
    return _compared("images", images, reference, _metrics(specs, images, device), ("images",))


def _metrics(specs: Sequence[dict[str, Any]], images: ImageSet, device: Device) -> list[Metric]:
    """Return the named metrics, or those of digits where images look like digits.

    Raises:
        MistakeError: none is named, and the images are no digits; or one cannot be had without a run.
    """
    from uldm_core import MistakeError, registry
    from uldm_plugins.stages.evaluate import check_once

    if not specs and images.shape != (1, 28, 28):
        raise MistakeError(
            "name the metrics: --metrics NAME,NAME",
            hint=f"there are: {', '.join(registry.names('metric'))}; those on vgg16 or inception fetch its "
            "weights once, --backbone dummy needs none",
        )
    metrics = [registry.build("metric", spec) for spec in specs or _OF_DIGITS]
    try:
        check_once(metrics)
    except ValueError as error:
        raise MistakeError(str(error)) from error
    return device.place(metrics)


def _compared(
    name: str, images: ImageSet, reference: ImageSet, metrics: Sequence[Metric], pairs: Sequence[str]
) -> dict[str, Any]:
    """Return the metrics of images against any others."""
    from uldm_plugins.commands.image_sets import alike, check_pairs
    from uldm_plugins.stages.evaluate import compare

    images, reference = alike(images, reference)
    if pairs:
        check_pairs(metrics, images, reference)
    real = {"test": reference.batches}
    counts = {name: len(images)}
    if reference.other:
        real["train"] = reference.other.batches
        counts["floor"] = len(reference.other)
    results = compare(metrics, {name: images.batches}, real, pairs)
    described = {type(metric).__name__: dict(metric.description) for metric in metrics}
    return {"results": results, "counts": counts, "reference": len(reference), "metrics": described}


def _keep(run: Path, report: dict[str, Any], against: str | None) -> None:
    """Keep the result, and show it in the run's report."""
    from datetime import datetime, timezone

    from uldm_core.cli.console import show_warning
    from uldm_core.paths import inside
    from uldm_core.run_folder.files import write_record
    from uldm_plugins.report.page import write_report

    now = datetime.now(timezone.utc)
    path = inside(run, "evaluations", f"{now:%Y-%m-%dT%H-%M-%S.%f}Z.json")
    record = {
        "command": click.get_current_context().find_root().obj,
        "when": now.isoformat(timespec="seconds"),
        "against": against or "test",
    }
    write_record(path, record | {key: report[key] for key in ("results", "counts", "metrics")})
    click.echo(f"{path}: kept, and shown in {write_report(run, show_warning)}", err=True)


def _table(results: dict[str, Any]) -> str:
    sets = [name for name in ("images", *SETS) if results.get(name)]
    names = list(dict.fromkeys(name for found in sets for name in results[found]))
    rows = [("metric", *sets), *((name, *(_cell(results[found], name) for found in sets)) for name in names)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def _cell(found: dict[str, float], name: str) -> str:
    return f"{found[name]:.4g}" if name in found else ""
