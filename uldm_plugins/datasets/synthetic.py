"""Images drawn by a formula, for tests and first tries."""

from __future__ import annotations

from typing import Annotated, cast

import torch
from annotated_types import Ge
from torch import Tensor

from uldm_core.shapes import height_and_width, written_size
from uldm_plugins.datasets.arrays import Subset
from uldm_plugins.shared.split_names import check_split

_SHAPES = 3
_SEEDS = {"train": 1, "test": 2}


class Synthetic:
    """A disc, a square or a ring of one colour on another, anti-aliased, at a random place and size.

    Nothing is stored or fetched: images are drawn from a few numbers when they are asked for. The label is
    the shape.

    Args:
        count: images for training; a tenth as many for testing, ten at least.
        size: height and width of the images, one number for a square; 8 at least.
        channels: of the images; 1 is grey, 3 is RGB.
        seed: of the numbers.
        subset: which split this is.
    """

    splits = ("train", "test")
    class_names = ("disc", "square", "ring")

    def __init__(
        self,
        count: Annotated[int, Ge(1)] = 10_000,
        size: Annotated[int, Ge(8)] | tuple[Annotated[int, Ge(8)], Annotated[int, Ge(8)]] = 32,
        channels: Annotated[int, Ge(1)] = 3,
        seed: Annotated[int, Ge(0)] = 0,
        subset: Subset = "train",
    ) -> None:
        self.size, self.channels, self.subset = height_and_width(size), channels, subset
        self._options = (count, written_size(self.size), channels, seed)
        number = count if subset == "train" else max(10, count // 10)
        generator = torch.Generator().manual_seed(2 * seed + _SEEDS[subset])
        self.labels = torch.randint(_SHAPES, (number,), generator=generator)
        self.places = torch.rand(number, 3, generator=generator)
        self.colours = torch.rand(number, 2, channels, generator=generator)
        self.fingerprint = f"{self._options}:{subset}"

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor) -> Tensor:
        """Return images, uint8 [B, channels, height, width]."""
        x, y, radius = (self.places[indices] * torch.tensor([0.5, 0.5, 0.2])).T[:, :, None, None]
        short = min(self.size)
        (down, high), (across, wide) = (
            ((torch.arange(side) + 0.5) / short, side / short) for side in self.size
        )
        across = across[None, None, :] - x * wide - 0.25 * wide
        down = down[None, :, None] - y * high - 0.25 * high
        distance = _distance(across, down, radius + 0.1, self.labels[indices])
        cover = (0.5 - distance * short).clamp(0, 1).unsqueeze(1)
        front, back = self.colours[indices].unbind(1)
        # dark before bright, else a grey shape might vanish in its background
        image = cover * (0.5 + 0.5 * front)[:, :, None, None] + (1 - cover) * (0.4 * back)[:, :, None, None]
        return (image * 255).round().to(torch.uint8)

    def split(self, name: str) -> Synthetic:
        """Return the ``train`` or ``test`` split."""
        check_split(name, self.splits)
        return self if name == self.subset else Synthetic(*self._options, cast(Subset, name))


def _distance(across: Tensor, down: Tensor, radius: Tensor, shapes: Tensor) -> Tensor:
    """Return each pixel's signed distance from the shape's edge, below 0 inside; the shorter side is 1."""
    centre = (across.square() + down.square()).sqrt()
    disc = centre - radius
    square = torch.maximum(across.abs(), down.abs()) - radius
    ring = (centre - 0.75 * radius).abs() - 0.25 * radius
    return torch.stack([disc, square, ring]).gather(0, shapes[None, :, None, None].expand(1, *disc.shape))[0]
