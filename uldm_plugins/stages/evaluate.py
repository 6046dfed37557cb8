"""Measuring samples and reconstructions against the test set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from uldm_core import MistakeError, RunError, use
from uldm_core.errors import OptionError
from uldm_core.protocols import (
    Autoencoder,
    ComparesWithUnseen,
    Context,
    Dataset,
    HasBackbone,
    HasDirection,
    HasLogits,
    HasReference,
    Metric,
    Paired,
)
from uldm_core.run_folder.files import write_json
from uldm_plugins.shared.diagnostics import copies_diagnostics
from uldm_plugins.shared.images import images_at_a_time, in_batches
from uldm_plugins.stages.evaluation_artifacts import (
    save_classes,
    save_codebook,
    save_nearest,
    save_reconstructions,
)
from uldm_plugins.stages.held_out import some
from uldm_plugins.stages.latents import held_out, image_batches, passed_with_codes, unless_stopped
from uldm_plugins.stages.sample import load_images
from uldm_plugins.stages.training import read_batches

MOST_REAL = 10_000
"""Images that ``show_some`` shows at most."""
Batches = Callable[[], Iterable[Tensor]]
"""Images, uint8 [B, C, H, W], as often as they are asked for."""


class Evaluate:
    """Measures samples, reconstructions of the test set, and real images for what is to be expected.

    ``floor`` is what the training set scores against the test set (or the other way, where a metric compares
    with the training set), ``originals`` what the test set itself scores.

    Writes ``metrics.json``, with what each number was measured with, and what can be looked at:
    ``reconstructions.png`` and ``.npz``; ``nearest.npz``, the training images nearest to some samples, in
    pixels; with a quantizer ``codebook.json``, how often each code is used; and where a metric's backbone
    classifies, ``classes.json``, how often each class occurs.

    Args:
        dataset: its ``test`` split is the reference; the training set against it is the floor. A dataset
            without that split is itself the reference, and there is no floor.
        autoencoder: reconstructs.
        metrics: what to measure.
    """

    trains: Sequence[str] = ()
    makes: Sequence[str] = ()
    needs = ("samples.npz",)
    reads = ("train", "test")

    def __init__(
        self,
        dataset: Dataset,
        autoencoder: Autoencoder,
        metrics: list[Metric] = [use("frechet_mnist"), use("class_balance")],  # noqa: B006 - read only
    ) -> None:
        check_once(metrics)
        self.dataset = dataset
        self.autoencoder = autoencoder
        self.metrics = metrics

    @property
    def reference(self) -> Dataset:
        """What samples and reconstructions are measured against: the test split, if the dataset has one."""
        return held_out(self.dataset)

    def run(self, context: Context) -> Mapping[str, float]:
        """Measure and write."""
        test = self.reference
        samples = load_images(context.products["samples.npz"])
        reconstructions, codes = self._reconstruct(test, context)
        save_reconstructions(test, reconstructions, codes, context)
        if codes is not None:
            save_codebook(codes, self.autoencoder, context)
        save_nearest(samples, self.dataset, context)
        if classifier := self._classifier():
            save_classes(samples, test, classifier, context)
        report = self.report(samples, reconstructions, test, context)
        write_json(context.artifact("metrics.json"), report)
        context.publish("metrics.json")
        for line in report_lines(report["results"]):
            context.message(f"[{context.name}] {line}")
        for found in copies_diagnostics(report["results"]):
            context.message(f"[{context.name}] warning: {found.what}\n    {found.fix}")
        return report["results"]["samples"]

    def report(
        self, samples: Tensor, reconstructions: Tensor, test: Dataset, context: Context
    ) -> dict[str, Any]:
        """Return the metrics' numbers, of how many images, and what each was measured with."""
        sets = {"samples": samples, "reconstructions": reconstructions}
        with context.interruptible():
            results = self._results(sets, test, context)
        counts = {"samples": len(samples), "reconstructions": len(test), "floor": len(self.dataset)}
        described = {type(metric).__name__: dict(metric.description) for metric in self.metrics}
        return {"results": results, "counts": counts, "reference": len(test), "metrics": described}

    def reconstructions(self, test: Dataset, context: Context) -> Tensor:
        """Return the test set after a pass through the autoencoder, uint8 [N, C, H, W]."""
        return self._reconstruct(test, context)[0]

    def _reconstruct(self, test: Dataset, context: Context) -> tuple[Tensor, Tensor | None]:
        """Return the reconstructions and, of a quantizer, the codes: int64 [N, h, w] or [N, Q, h, w]."""
        context.begin("reconstructing images", len(test))
        images, codes = [], []
        for batch, indices in passed_with_codes(image_batches(test), self.autoencoder, context):
            images.append(batch.cpu())
            codes += [] if indices is None else [indices.cpu()]
            context.advance(sum(map(len, images)))
        return torch.cat(images), torch.cat(codes) if codes else None

    def _classifier(self) -> HasLogits | None:
        """Return the first backbone of the metrics that classifies."""
        backbones = (metric.backbone for metric in self.metrics if isinstance(metric, HasBackbone))
        return next((backbone for backbone in backbones if isinstance(backbone, HasLogits)), None)

    def _results(
        self, sets: Mapping[str, Tensor], test: Dataset, context: Context
    ) -> dict[str, dict[str, float]]:
        """Measure each set, then real images for what is to be expected."""
        splits = {"test": test} if test is self.dataset else {"test": test, "train": self.dataset}
        images = {name: partial(_checked, in_batches, images, context) for name, images in sets.items()}
        real = {name: partial(_checked, image_batches, split, context) for name, split in splits.items()}
        return compare(self.metrics, images, real, pairs=("reconstructions",))


def _checked(batches: Callable[[Any], Iterable[Tensor]], images: Any, context: Context) -> Iterator[Tensor]:
    return unless_stopped(batches(images), context)


def report_lines(results: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Yield a line a metric: its number for each set of images."""
    for metric in dict.fromkeys(name for result in results.values() for name in result):
        known = {name: result[metric] for name, result in results.items() if metric in result}
        yield f"{metric}: {', '.join(f'{name} {value:.4g}' for name, value in known.items())}"


def check_once(metrics: Sequence[Metric]) -> None:
    """Raise ``ValueError`` if two metrics are of one kind."""
    kinds = [type(metric).__name__ for metric in metrics]
    if twice := {kind for kind in kinds if kinds.count(kind) > 1}:
        raise OptionError(f"metrics: {', '.join(sorted(twice))} is listed twice: once is enough")


def check_compares(metric: Metric, option: str) -> None:
    """Raise ``ValueError`` if a metric does not compare samples with real images; the option names it."""
    if not metric.compares or (isinstance(metric, Paired) and metric.paired):
        raise OptionError(f"{option}: {type(metric).__name__} does not compare samples with real images")


def higher_is_better(metric: Metric, name: str, option: str = "metric") -> bool:
    """Return the direction of one of a metric's numbers; of a metric that has none, lower is better.

    Raises:
        RunError: neither is better; the option names the metric.
    """
    higher = metric.higher_is_better if isinstance(metric, HasDirection) else False
    if not isinstance(higher, Mapping):
        return higher
    if name not in higher:
        raise RunError(f"{option}: neither more nor less of {name} is better", hint="take frechet_mnist")
    return higher[name]


def compare(
    metrics: Sequence[Metric],
    sets: Mapping[str, Batches],
    real: Mapping[str, Batches],
    pairs: Collection[str] = (),
) -> dict[str, dict[str, float]]:
    """Measure sets of images against real ones, then real ones for what is to be expected.

    Args:
        metrics: what to measure.
        sets: the images, uint8.
        real: the real images: ``test``, and ``train`` for metrics that refer to it and for the floor.
        pairs: which sets belong to ``test`` image by image; metrics of pairs are measured of them only.

    Returns:
        The metrics' numbers for each set, for ``train`` against ``test`` where there are both (``floor``),
        and for ``test`` alone (``originals``).
    """
    for metric in metrics:
        _show_real(metric, real)
    unpaired = [metric for metric in metrics if not (isinstance(metric, Paired) and metric.paired)]
    results = {
        name: measure(metrics if name in pairs else unpaired, batches()) for name, batches in sets.items()
    }
    floor: dict[str, float] = {}
    for split, other in (("test", "train"), ("train", "test")) if "train" in real else ():
        against = [metric for metric in unpaired if metric.compares and _reference(metric, real) == split]
        floor |= measure(against, real[other]()) if against else {}
    absolute = [metric for metric in unpaired if not metric.compares]
    return {**results, "floor": floor, "originals": measure(absolute, real["test"]()) if absolute else {}}


def _show_real(metric: Metric, real: Mapping[str, Batches]) -> None:
    """Give a metric the real images that it compares with, and those that no training has seen."""
    metric.reset()
    if not metric.compares:
        return
    split = _reference(metric, real)
    with _refusals(metric):
        for batch in real[split]():
            metric.update(batch, real=True)
        if isinstance(metric, ComparesWithUnseen) and split == "train":
            for batch in real["test"]():
                metric.update_unseen(batch)


def _reference(metric: Metric, real: Mapping[str, Batches]) -> str:
    """Return which real images a metric compares with."""
    wanted = metric.reference if isinstance(metric, HasReference) else "test"
    return wanted if wanted in real else "test"


def measure(metrics: Sequence[Metric], batches: Iterable[Tensor]) -> dict[str, float]:
    """Return the metrics' numbers for uint8 batches; real images that they hold stay.

    Raises:
        MistakeError: a metric cannot be measured on these images, on so few or so small ones say.
    """
    for metric in metrics:
        metric.reset(keep_real=True)
    for batch in batches:
        for metric in metrics:
            with _refusals(metric):
                metric.update(batch, real=False)
    found: dict[str, float] = {}
    for metric in metrics:
        with _refusals(metric):
            found |= metric.compute()
    return found


def show_some(
    metric: Metric, dataset: Dataset, indices: Tensor, generator: Generator, context: Context
) -> Tensor:
    """Give a metric some images of a dataset to compare with, and return the indices of those, int64.

    Args:
        metric: one that compares; what it held before is dropped.
        dataset: the images.
        indices: of those to choose from, int64 [N].
        generator: chooses, where there are more than ``MOST_REAL``.
        context: of the stage.

    Raises:
        MistakeError: the metric cannot be measured on these images.
    """
    metric.reset()
    chosen = some(indices, MOST_REAL, generator)
    batches = chosen.split(images_at_a_time(*dataset.size))
    for images in unless_stopped(read_batches(dataset, batches), context):
        with _refusals(metric):
            metric.update(images, real=True)
    return chosen


@contextmanager
def _refusals(metric: Metric) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise MistakeError(f"{type(metric).__name__} cannot be measured: {error}") from error
