"""A registry of small fake components, so that the core is tested without the built-ins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from annotated_types import Ge, Gt
from torch import nn

from uldm_core import Component, Partial, Registry, Weighted, use
from uldm_core.protocols import (
    Autoencoder,
    Dataset,
    Denoiser,
    Loss,
    LRSchedule,
    Optimizer,
    Quantizer,
)


class Points:
    """A dataset of grey 4x4 images."""

    channels, size, splits, fingerprint = 1, (4, 4), ("train", "test"), "points"

    def __init__(self, count: Annotated[int, Ge(1)] = 10) -> None:
        self.count = count

    def __len__(self):
        return self.count

    def images(self, indices):
        return torch.zeros(len(indices), 1, 4, 4, dtype=torch.uint8)

    def split(self, name):
        return self


class Codes(nn.Module):
    """A quantizer that does nothing."""

    def __init__(self, codebook_size: Annotated[int, Ge(1)], dim: int = 4, decay: float = 0.5) -> None:
        super().__init__()
        if codebook_size == 13:
            raise ValueError("thirteen codes bring bad luck")
        self.codebook_size, self.dim, self.decay = codebook_size, dim, decay

    def forward(self, latents):
        return latents, {}, latents[:, 0].long()

    def lookup(self, indices):
        return indices


class Coder(nn.Module):
    """An autoencoder with one weight."""

    downscale = 1

    def __init__(self, in_channels: int, quantizer: Quantizer = use("codes", codebook_size=8)) -> None:
        super().__init__()
        self.quantizer, self.latent_channels, self.in_channels = quantizer, quantizer.dim, in_channels
        self.weight = nn.Parameter(torch.randn(3))

    def encode(self, x):
        return x[:, :1].repeat(1, self.latent_channels, 1, 1), {}

    def decode(self, latents):
        return latents[:, :1].repeat(1, self.in_channels, 1, 1)

    def forward(self, x):
        latents, losses = self.encode(x)
        return self.decode(latents), latents, losses


class Net(nn.Module):
    """A denoiser with one weight."""

    def __init__(self, channels: int, width: int = 2, mode: Literal["fast", "slow"] = "fast") -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.randn(width))

    def forward(self, latents, conditioning):
        return latents


def distance(prediction, target, /, power: Annotated[float, Gt(0)] = 2.0):
    return (prediction - target).abs().pow(power).mean()


class Distance:
    """A loss."""

    def __init__(self, power: Annotated[float, Gt(0)] = 2.0) -> None:
        self.power = power

    def __call__(self, prediction, target):
        return distance(prediction, target, self.power)


def sgd(parameters, /, lr: Annotated[float, Gt(0)] = 0.1) -> torch.optim.SGD:
    """Plain descent.

    Args:
        lr: learning rate,
            the only option.
    """
    return torch.optim.SGD(parameters, lr, momentum=0.9)


class Flat:
    """A schedule."""

    def __init__(self, steps, /, height: float = 1.0) -> None:
        self.height = height

    def __call__(self, step):
        return self.height


class Train:
    """Trains the autoencoder's weight towards a random draw."""

    trains, makes, needs = ("autoencoder",), (), ()
    fail_at = None

    def __init__(
        self,
        dataset: Dataset,
        autoencoder: Autoencoder,
        steps: Annotated[int, Ge(1)] = 5,
        batch_size: int = 2,
        losses: list[Weighted[Loss]] = [use("distance")],  # noqa: B006
        optimizer: Partial[Optimizer] = use("sgd"),
        lr_schedule: Partial[LRSchedule] = use("flat"),
    ) -> None:
        self.dataset, self.autoencoder, self.losses = dataset, autoencoder, losses
        self.steps, self.batch_size = steps, batch_size
        self.make, self.schedule = optimizer, lr_schedule(steps)

    def prepare(self, context):
        self.optimizer = self.make(self.autoencoder.parameters())

    def step(self, step, context):
        target = torch.randn(3) + context.batch(len(self.dataset), 2, step).sum()
        loss = sum(term.weight * term.component(self.autoencoder.weight, target) for term in self.losses)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss * float("nan") if step == self.fail_at else loss}

    def stateful(self):
        return {"autoencoder": self.autoencoder, "optimizer": self.optimizer}

    def finish(self, context):
        return {"weight": self.autoencoder.weight[0].item()}


class Draw:
    """Makes a drawing with the denoiser and the trained autoencoder."""

    trains, makes, needs = (), ("drawing.txt",), ()

    def __init__(self, autoencoder: Autoencoder, denoiser: Denoiser, text: str = "hello") -> None:
        self.autoencoder, self.text = autoencoder, text

    def run(self, context):
        context.begin("drawing", 1)
        context.artifact("drawing.txt").write_text(f"{self.text} {self.autoencoder.weight.tolist()}")
        context.advance(1)
        return {}


class Frame:
    """Needs a drawing."""

    trains, makes, needs = (), (), ("drawing.txt",)

    def __init__(self, folder: Path = Path(".")) -> None:
        self.folder = folder

    def run(self, context):
        return {"length": float(len(context.products["drawing.txt"].read_text()))}


COMPONENTS = [
    Component("dataset", "points", Points),
    Component("quantizer", "codes", Codes),
    Component("autoencoder", "coder", Coder),
    Component("denoiser", "net", Net),
    Component("loss", "distance", Distance),
    Component("optimizer", "sgd", sgd),
    Component("lr_schedule", "flat", Flat),
    Component("stage", "train", Train),
    Component("stage", "draw", Draw),
    Component("stage", "frame", Frame),
]
LOG = Component("tracker", "jsonl", "uldm_plugins.trackers.jsonl:Jsonl", always=True)

RECIPE = """\
uldm = 1
seed = 3

[dataset]
use = "points"

[autoencoder]
use = "coder"
quantizer = { use = "codes", codebook_size = 16 }

[denoiser]
use = "net"

[stages.first]
use = "train"
steps = 6
losses = [{ use = "distance", weight = 0.5 }]

[stages.second]
use = "draw"

[stages.third]
use = "frame"
"""


def forge(path, record):
    """Write a stage's record as the versions did that knew no checksum, and remove its copy.

    Args:
        path: of ``stage.json``.
        record: its content, as bytes, as text, or a dictionary.
    """
    if isinstance(record, dict):
        record = json.dumps({name: record[name] for name in record.keys() - {"format", "uldm", "checksum"}})
    path.write_bytes(record if isinstance(record, bytes) else record.encode())
    (path.parent / "stage_copy.json").unlink(missing_ok=True)


@pytest.fixture
def registry():
    own = Registry()
    for component in [*COMPONENTS, LOG]:
        own.register(component)
    return own


@pytest.fixture
def write(tmp_path):
    """Write a recipe, with replacements, and return its path."""

    def write(*replacements, text=RECIPE):
        for old, new in replacements:
            assert old in text, old
            text = text.replace(old, new)
        path = tmp_path / "r.toml"
        path.write_text(text, "utf-8")
        return path

    return write
