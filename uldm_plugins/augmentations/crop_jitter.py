"""Parts of images, enlarged."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Generator, Tensor

from uldm_plugins.augmentations.parameters import Probability, for_some, gathered, uniform


class CropJitter:
    """Enlarges a part of some images to the whole size; the part has the image's own shape.

    Its parameters are the size of the part, from 0 for the whole image to 1 for the smallest part, and its
    place, from -1 for top and left to 1 for bottom and right. Enlarged bilinearly, in whole source pixels.

    Source: ``RandomResizedCrop`` of torchvision, at one aspect ratio.

    Args:
        smallest: the side of the smallest part, as a share of the image's.
        probability: of an image to be cropped.
        leaks: samples are enlarged as well; else the denoiser is given the parts in training, and draws
            whole images.
    """

    parameters = 3

    def __init__(
        self,
        smallest: Annotated[float, Interval(ge=0.1, lt=1)] = 0.8,
        probability: Probability = 0.3,
        leaks: bool = False,
    ) -> None:
        self.smallest = smallest
        self.probability = probability
        self.leaks = leaks

    def draw(self, n: int, generator: Generator) -> Tensor:
        """Return sizes and places of parts for n images, float32 [n, 3]."""
        values = uniform(n, self.parameters, generator)
        values[:, 0] = (1 + values[:, 0]) / 2
        return for_some(values, self.probability, generator)

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Enlarge parts of images [B, C, H, W]."""
        zoom, *places = parameters.T
        rows, columns = (
            _sources(side, 1 - zoom * (1 - self.smallest), place)
            for side, place in zip(images.shape[2:], places)
        )
        return _interpolated(images, rows, columns)


def _sources(side: int, share: Tensor, place: Tensor) -> Tensor:
    """Return where each pixel of a side comes from in parts of these shares and places [B]: [B, side]."""
    length = (share * side).round().clamp(min=1)
    first = ((side - length) * (place + 1) / 2).round()
    centres = torch.arange(side, device=share.device) + 0.5
    within = centres * (length / side)[:, None] - 0.5
    return first[:, None] + within.clamp(min=0).minimum(length[:, None] - 1)


def _interpolated(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the pixels at fractional rows [B, H] and columns [B, W], rounded to uint8."""
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top)[:, None, :, None], (columns - left)[:, None, None, :]
    upper, lower = (
        gathered(images, row.long(), left.long())
        .float()
        .lerp(gathered(images, row.long(), columns.ceil().long()).float(), right)
        for row in (top, rows.ceil())
    )
    return upper.lerp(lower, down).round().to(torch.uint8)
