"""A made-up run, written in a moment, with everything in its folder that a report can show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

RECIPE = """\
uldm = 1
seed = 0

[dataset]
kind = "dataset"
use = "mnist"

[autoencoder]
kind = "autoencoder"
use = "vqvae_fast"

[autoencoder.quantizer]
use = "vq_ema"
codebook_size = 64

[denoiser]
kind = "denoiser"
use = "mlp"

[condition]
kind = "condition"
use = "clusters"
classes = 30

[stages.first]
use = "train_autoencoder"
steps = 400
batch_size = 64

[stages.second]
use = "train_diffusion"
steps = 600
batch_size = 128

[stages.tuning]
use = "tune"

[stages.samples]
use = "sample"
count = 5000

[stages.scores]
use = "evaluate"
"""
METRICS = {
    "results": {
        "samples": {"frechet_mnist": 4.4812, "smallest_class": 0.0898},
        "reconstructions": {"frechet_mnist": 2.2307, "smallest_class": 0.0891},
        "floor": {"frechet_mnist": 1.9317},
        "originals": {"smallest_class": 0.089},
    },
    "counts": {"samples": 5000, "reconstructions": 10000, "floor": 60000},
    "reference": 10000,
    "metrics": {"FrechetMnist": {"features": "MnistJudge ec75b2dac225e6d5"}, "ClassBalance": {}},
}


def candidate(option, weight, steps, score):
    """Return one of ``candidates.json``."""
    return {"option": option, "weight": weight, "interval": None, "average": "trained", "steps": steps,
            "calls": 4 * steps - 2, "numbers": {"frechet_mnist": score}, "seconds": 12.5}  # fmt: skip


TUNING = {
    "metric": "frechet_mnist",
    "higher_is_better": False,
    "count": 1000,
    "against": "3,000 training images that the denoiser was not trained on",
    "planned": 6,
    "worse": 1.05,
    "best": 4,
    "candidates": [
        candidate("", 2.0, 10, 4.7),
        candidate("weight", 1.0, 10, 7.25),
        candidate("weight", 1.5, 10, 4.4812),
        candidate("weight", 3.0, 10, 5.5),
        candidate("steps", 1.5, 6, 4.5317),
    ],
}


def drawings(count, size=28, channels=1, seed=0):
    """Return soft rings of different sizes: uint8 [count, size, size, channels]."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size, 0:size] / size - 0.5
    radius, thickness = random.uniform(0.1, 0.4, (2, count, 1, 1))
    rings = np.exp(-(((np.hypot(rows, columns) - radius) / (0.03 + thickness / 6)) ** 2))
    tint = random.uniform(0.5, 1, (count, 1, 1, channels))
    return (rings[..., None] * tint * 255).astype(np.uint8)


class MadeUpRun:
    """Writes a run's folder, piece by piece."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def json(self, name, value):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), "utf-8")

    def arrays(self, name, **arrays):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **arrays)

    def recipe(self, text=RECIPE):
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "recipe.toml").write_text(text, "utf-8")

    def state(self, state="done", **more):
        times = {"started": "2025-11-24T20:41:00+00:00", "updated": "2025-11-24T20:52:26+00:00"}
        self.json(
            "run.json", {"state": state, **times, "command": "uldm run mnist.toml", "error": "", **more}
        )

    def stage(self, name, seconds, done=True):
        self.json(f"stages/{name}/stage.json", {"key": {"content": "1"}, "done": done, "seconds": seconds})

    def log(self, stage, lines):
        path = self.path / "stages" / stage / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")

    def shown(self, stage, name, steps):
        for step in steps:
            path = self.path / "stages" / stage / "images" / name / f"{step:08d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            sheet = np.hstack(drawings(10, seed=step)[..., 0])
            Image.fromarray(sheet).resize((560, 56), Image.Resampling.NEAREST).save(path)

    def curves(self):
        random = np.random.default_rng(0)
        noisy = lambda value: float(value * random.uniform(0.9, 1.1))  # noqa: E731
        first = [{"step": step, "distance": noisy(0.2 + 3 / (1 + step / 20))} for step in range(10, 401, 10)]
        for line in first[20:]:
            line |= {"generator": noisy(0.4) - 0.4, "discriminator": noisy(0.9 - line["step"] / 1500)}
        for line in first:
            line |= {"commitment": noisy(0.02), "images_per_second": noisy(800)}
        self.log("first", first)
        second = [
            {"step": step, "loss": noisy(1 + 1 / (1 + step / 60)), "images_per_second": noisy(4000)}
            for step in range(10, 601, 10)
        ]
        self.log("second", second)

    def artifacts(self, channels=1, size=28, width=None):
        random = np.random.default_rng(0)
        width = width or size
        images = lambda count, seed: drawings(count, size, channels, seed)[:, :, :width]  # noqa: E731
        samples, scores = "stages/samples/artifacts/", "stages/scores/artifacts/"
        self.arrays(samples + "samples.npz", images=images(120, 1), classes=np.arange(120) ** 2 % 30)
        assigned = torch.arange(600) ** 2 % 30
        (self.path / "stages/second/weights").mkdir(parents=True, exist_ok=True)
        save_file({"assigned": assigned}, self.path / "stages/second/weights/condition.safetensors")
        noise = random.integers(0, 256, (8, 6, size, width, channels))
        times = np.linspace(1, 0, 8, dtype=np.float32)
        kept = times[:, None, None, None, None]
        frames = (kept * noise + (1 - kept) * images(6, 2)).astype(np.uint8)
        self.arrays(samples + "path.npz", frames=frames, times=times)
        codes = random.integers(0, 64, (40, 4, 4), dtype=np.int32)
        originals = images(40, 3)
        decoded = (originals * 0.9).astype(np.uint8)
        self.arrays(scores + "reconstructions.npz", originals=originals, reconstructions=decoded, codes=codes)
        counts = (3000 / np.arange(1, 65) ** 0.7).astype(int).tolist()
        self.json(
            scores + "codebook.json",
            {"codebooks": [{"size": 64, "counts": counts, "used": 64, "perplexity": 48.5}]},
        )
        distance = np.sort(random.uniform(4, 8, (12, 4)), axis=1).astype(np.float32)
        nearest = images(48, 4).reshape(12, 4, size, width, channels)
        self.arrays(scores + "nearest.npz", samples=images(12, 1), nearest=nearest, distance=distance)
        labels = [str(digit) for digit in range(10)]
        shares = {"samples": [0.09] * 5 + [0.11] * 5, "real": [0.1] * 10}
        self.json(scores + "classes.json", {"labels": labels, **shares})
        self.json(scores + "metrics.json", METRICS)
        self.json("stages/tuning/artifacts/candidates.json", TUNING)

    def everything(self, **options):
        self.recipe()
        self.state()
        self.json("environment.json", {"python": "3.11.7", "machine": "cpu, float32, 2 threads"})
        for name, seconds in {
            "first": 128.2,
            "second": 289.2,
            "tuning": 0.0,
            "samples": 6.5,
            "scores": 40.9,
        }.items():
            self.stage(name, seconds)
        self.curves()
        self.shown("first", "reconstructions", (0, 200, 400))
        self.shown("second", "samples", (0, 200, 400, 600))
        self.artifacts(**options)
        self.json(
            "evaluations/1.json",
            {
                **METRICS,
                "command": "uldm evaluate digits",
                "when": "2025-11-25T08:00:00+00:00",
                "against": "test",
            },
        )
        return self.path


@pytest.fixture
def make_run(tmp_path):
    return lambda name: MadeUpRun(tmp_path / name)


@pytest.fixture
def run(make_run):
    return make_run("digits")
