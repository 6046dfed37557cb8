"""``uldm evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uldm_core.cli.common import (
    device_option,
    json_option,
    plugin_option,
    precision_option,
    run_argument,
    run_overrides,
    threads_option,
)

if TYPE_CHECKING:
    from torch import Tensor

    from uldm_core.engine.trained import TrainedRun
    from uldm_core.protocols import Dataset
    from uldm_plugins.stages.evaluate import Evaluate

SETS = ("samples", "reconstructions", "floor", "originals")


@click.command(short_help="Measure a run's samples and reconstructions.")
@run_argument
@click.option("--samples", type=click.Path(path_type=Path), help="An .npz of others than the run's.")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Instead of the run's. Repeatable.")
@json_option
@device_option
@precision_option
@threads_option
@plugin_option
def evaluate(
    run: Path,
    samples: Path | None,
    metrics: tuple[str, ...],
    as_json: bool,
    device: str | None,
    precision: str | None,
    threads: int | None,
) -> None:
    """Measure samples and reconstructions of RUN, a folder that `uldm run` made, against its test set.

    `floor` is what real images score, `originals` what the test set itself scores. Nothing is written.
    """
    from uldm_core.cli.progress import reporter
    from uldm_core.engine.trained import TrainedRun

    flags = run_overrides(device=device, precision=precision, threads=threads)
    trained = TrainedRun.open(run, overrides=flags)
    trained.require_trained("autoencoder")
    stage = _stage(trained, metrics)
    test = stage.reference
    images = _images(trained, samples, test)
    with reporter() as tell:
        context = trained.context("evaluate", trained.plan.seed, tell)
        report = stage.report(images, stage.reconstructions(test, context), test)
    click.echo(json.dumps(report, indent=2) if as_json else _table(report["results"]))


def _stage(trained: TrainedRun, names: tuple[str, ...]) -> Evaluate:
    """Return the run's own way of measuring, or one by the named metrics."""
    from uldm_core import MistakeError, registry
    from uldm_core.blueprint import Builder
    from uldm_plugins.stages.evaluate import Evaluate

    if not names:
        _, stage = trained.stage("evaluate")
        return stage
    autoencoder = trained.noun("autoencoder")
    builder = Builder(trained.plan.nouns, built=trained.workshop.builder.built)
    own = registry.default()
    metrics = [builder.build(own.plan("metric", name, {}, nouns=trained.plan.nouns)) for name in names]
    try:
        return Evaluate(trained.noun("dataset"), autoencoder, metrics)
    except ValueError as error:  # its objection to one that is named twice
        raise MistakeError(str(error)) from error


def _images(trained: TrainedRun, path: Path | None, test: Dataset) -> Tensor:
    """Return the images to be measured, uint8 [N, C, H, W].

    Raises:
        MistakeError: they are not there, or not images of the dataset's shape.
    """
    from uldm_core import MistakeError
    from uldm_plugins.stages.sample import load_images

    if path is None:
        name, _ = trained.stage("sample")
        path = trained.folder.stage(name).artifact("samples.npz")
    if not path.is_file():
        raise MistakeError(f"there are no samples {path}", hint="finish the run, or name others: --samples")
    _check_images(path, [test.size, test.size, test.channels])
    return load_images(path)


def _check_images(path: Path, shape: list[int]) -> None:
    """Raise ``MistakeError`` unless a file holds one or more ``images`` of a shape, [H, W, C]."""
    import numpy as np

    from uldm_core import MistakeError

    wanted = f"uint8 [N, {str(shape)[1:]}"
    try:
        with np.load(path) as file:
            images = file["images"]
    except Exception as error:  # numpy has many ways to say that a file is no archive of arrays
        raise MistakeError(f"{path}: no .npz with images, {wanted}", hint=str(error)) from error
    if images.dtype != np.uint8 or list(images.shape[1:]) != shape or not len(images):
        found = f"{images.dtype} {list(images.shape)}"
        raise MistakeError(f"{path}: images are {found}; those of the run's dataset are {wanted}")


def _table(results: dict[str, Any]) -> str:
    names = list(dict.fromkeys(name for found in SETS for name in results[found]))
    rows = [("metric", *SETS), *((name, *(_cell(results[found], name) for found in SETS)) for name in names)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def _cell(found: dict[str, float], name: str) -> str:
    return f"{found[name]:.4g}" if name in found else ""
