"""Shifted images."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Generator, Tensor

from uldm_plugins.augmentations.parameters import Probability, for_some, gathered, uniform


class Translate:
    """Shifts some images by whole pixels; what enters at a border is the image reflected there.

    Its parameters are the shifts down and to the right, from -1 to 1, of the greatest there is.

    Source: "x/y-translation" of Karras et al. 2022 (arXiv 2206.00364), table 6.

    Args:
        share: the greatest shift, as a share of the height and of the width.
        probability: of an image to be shifted.
        leaks: samples are shifted as well; else the denoiser is given the shifts in training, and draws
            images that are not.
    """

    parameters = 2

    def __init__(
        self,
        share: Annotated[float, Interval(gt=0, le=0.5)] = 0.125,
        probability: Probability = 0.3,
        leaks: bool = False,
    ) -> None:
        self.share = share
        self.probability = probability
        self.leaks = leaks

    def draw(self, n: int, generator: Generator) -> Tensor:
        """Return shifts for n images, float32 [n, 2] in [-1, 1]."""
        return for_some(uniform(n, self.parameters, generator), self.probability, generator)

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Shift images [B, C, H, W]."""
        rows, columns = (
            _reflected(side, (parameters[:, axis] * self.share * side).round().long())
            for axis, side in enumerate(images.shape[2:])
        )
        return gathered(images, rows, columns)


def _reflected(side: int, shifts: Tensor) -> Tensor:
    """Return the place that each place of a side comes from after shifts [B], int64 [B, side]."""
    last = side - 1
    places = torch.arange(side, device=shifts.device) - shifts[:, None]
    return last - (last - places.abs()).abs()
