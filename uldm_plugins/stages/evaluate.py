"""Measuring samples and reconstructions against the test set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from uldm_core import spec
from uldm_core.engine.context import Context
from uldm_core.engine.files import write_json
from uldm_core.protocols import Autoencoder, Dataset, Metric
from uldm_plugins.nn.images import save_grid
from uldm_plugins.stages.latents import BATCH, index_batches, reconstruct
from uldm_plugins.stages.sample import load_images

PAIRS = 40


class Evaluate:
    """Measures samples, reconstructions of the test set, and the training set as the floor.

    Writes ``metrics.json``, with what each number was measured with, and ``reconstructions.png``.

    Args:
        dataset: its ``test`` split is the reference; the training set against it is the floor.
        autoencoder: reconstructs.
        metrics: what to measure.
    """

    trains: Sequence[str] = ()
    makes: Sequence[str] = ()
    needs = ("samples.npz",)

    def __init__(
        self,
        dataset: Dataset,
        autoencoder: Autoencoder,
        metrics: list[Metric] = [spec("frechet_mnist"), spec("class_balance")],  # noqa: B006 - read only
    ) -> None:
        self.dataset = dataset
        self.autoencoder = autoencoder
        self.metrics = metrics

    def run(self, context: Context) -> Mapping[str, float]:
        """Measure and write."""
        test = self.dataset.split("test")
        samples = load_images(context.products["samples.npz"])
        sets = {"samples": samples, "reconstructions": torch.cat(list(self._reconstructions(test, context)))}
        self._save_pairs(test, sets["reconstructions"], context)
        results = self._results(sets, test)
        counts = {"samples": len(samples), "reconstructions": len(test), "floor": len(self.dataset)}
        described = {type(metric).__name__: dict(metric.description) for metric in self.metrics}
        report = {"results": results, "counts": counts, "reference": len(test), "metrics": described}
        write_json(context.artifact("metrics.json"), report)
        context.publish("metrics.json")
        for metric in results["samples"]:
            known = {name: result[metric] for name, result in results.items() if metric in result}
            values = ", ".join(f"{name} {value:.4g}" for name, value in known.items())
            context.reporter.message(f"[{context.name}] {metric}: {values}")
        return results["samples"]

    def _reconstructions(self, test: Dataset, context: Context) -> Iterable[Tensor]:
        context.begin("reconstructing images", len(test))
        done = 0
        for batch in reconstruct(test, self.autoencoder, context):
            yield batch.cpu()
            done += len(batch)
            context.advance(done)

    def _results(self, sets: Mapping[str, Tensor], test: Dataset) -> dict[str, dict[str, float]]:
        """Measure each set, and the training set as the floor of what compares with real images."""
        for metric in self.metrics:
            metric.reset()
            for batch in batches_of(test) if metric.compares else ():
                metric.update(batch, real=True)
        results = {name: measure(self.metrics, images.split(BATCH)) for name, images in sets.items()}
        comparing = [metric for metric in self.metrics if metric.compares]
        return {**results, "floor": measure(comparing, batches_of(self.dataset))}

    def _save_pairs(self, test: Dataset, reconstructions: Tensor, context: Context) -> None:
        originals = test.images(torch.arange(min(PAIRS, len(test))))
        pairs = torch.stack([originals, reconstructions[: len(originals)]], 1).flatten(0, 1)
        save_grid(pairs, context.artifact("reconstructions.png"), columns=10)
        context.publish("reconstructions.png")


def measure(metrics: Sequence[Metric], batches: Iterable[Tensor]) -> dict[str, float]:
    """Return what the metrics say of uint8 batches; real images that they have seen stay."""
    for metric in metrics:
        metric.reset(keep_real=True)
    for batch in batches:
        for metric in metrics:
            metric.update(batch, real=False)
    return {name: value for metric in metrics for name, value in metric.compute().items()}


def batches_of(dataset: Dataset) -> Iterable[Tensor]:
    """Yield a dataset's images, uint8, in batches."""
    return (dataset.images(indices) for indices in index_batches(len(dataset)))
