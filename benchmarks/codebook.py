"""The same VQ-VAE on MNIST with each quantizer: codes in use, their perplexity, the reconstructions' error.

Run ``python benchmarks/codebook.py``, with the names of rows if not all are wanted, ``--steps N`` for
another length. About a minute a quantizer on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uldm_core import registry
from uldm_core.engine.opened_run import TrainedRun
from uldm_core.engine.run import run
from uldm_core.recipe import Recipe
from uldm_plugins.stages.latents import reconstruct

CODES = 512
BATCH = 500
QUANTIZERS: dict[str, dict[str, Any]] = {
    "vq": {"use": "vq", "codebook_size": CODES},
    "vq, no k-means, none revived": {
        "use": "vq",
        "codebook_size": CODES,
        "kmeans_iterations": 0,
        "revive_below": 0.0,
    },
    "vq_ema": {"use": "vq_ema", "codebook_size": CODES},
    "vq_ema, no k-means, none revived": {
        "use": "vq_ema",
        "codebook_size": CODES,
        "kmeans_iterations": 0,
        "revive_below": 0.0,
    },
    "sim_vq": {"use": "sim_vq", "codebook_size": CODES},
    "residual_vq (2 of 512)": {"use": "residual_vq", "codebook_size": CODES},
    "fsq (8, 8, 8)": {"use": "fsq", "levels": [8, 8, 8]},
    "lfq (9 bits)": {"use": "lfq", "codebook_size": CODES},
    "vector_quantize_pytorch/vector_quantize": {
        "use": "vector_quantize_pytorch/vector_quantize",
        "codebook_size": CODES,
    },
}


def recipe(quantizer: dict[str, Any], steps: int) -> Recipe:
    """Return a recipe that trains with the quantizer and measures on the test set."""
    return Recipe.from_dict(
        {
            "uldm": 1,
            "seed": 0,
            "dataset": {"use": "mnist"},
            "autoencoder": {"use": "vqvae_fast", "quantizer": quantizer},
            "stages": {
                "first": {
                    "use": "train_autoencoder",
                    "steps": steps,
                    "batch_size": 64,
                    "losses": [{"use": "l1"}, {"use": "l2"}],
                },
            },
        }
    )


def measured(quantizer: dict[str, Any], steps: int) -> dict[str, float]:
    """Train, and return what the test set shows: codes in use, and its reconstructions' distance."""
    with tempfile.TemporaryDirectory() as folder:
        trained = TrainedRun.open(run(recipe(quantizer, steps), out=Path(folder) / "run"))
        autoencoder, test = trained.component("autoencoder"), trained.component("dataset").split("test")
        metrics = [
            registry.build("metric", "codebook_usage", autoencoder=autoencoder.eval()),
            registry.build("metric", "psnr"),
            registry.build("metric", "frechet_mnist"),
        ]
        originals = torch.arange(len(test)).split(BATCH)
        context = trained.context("measure", 0)
        for indices, images in zip(originals, batched(reconstruct(test, autoencoder, context), BATCH)):
            for metric in metrics:
                metric.update(test.images(indices), real=metric.compares)
                if metric.compares:
                    metric.update(images, real=False)
    return {name: value for metric in metrics for name, value in metric.compute().items()}


def batched(images: Iterable[Tensor], size: int) -> tuple[Tensor, ...]:
    """Return all images, cut anew."""
    return torch.cat([*images]).split(size)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="ROW", help=f"of {list(QUANTIZERS)}")
    parser.add_argument("--steps", type=int, default=800)
    arguments = parser.parse_args()
    print("| quantizer | codes used | perplexity | PSNR, dB | Fréchet distance |\n|---|---|---|---|---|")
    for name in arguments.names or QUANTIZERS:
        found = measured(QUANTIZERS[name], arguments.steps)
        used, perplexity = found["used_codes"], found["perplexity"]
        print(
            f"| {name} | {used:.0f} | {perplexity:.0f} | {found['psnr']:.2f} "
            f"| {found['frechet_mnist']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
