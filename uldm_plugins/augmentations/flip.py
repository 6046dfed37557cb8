"""Mirror images."""

from __future__ import annotations

from itertools import product

import torch
from torch import Generator, Tensor

from uldm_core import OptionError


class Flip:
    """Mirrors half of the images, at random.

    Its parameters are 1 for each direction in which an image is mirrored, else 0.

    Args:
        horizontal: left and right change places.
        vertical: top and bottom change places, in half of the images as well.
        leaks: samples are mirrored as often as training images are, since a mirrored image is an image like
            others; else the denoiser is given which are, and draws none.

    Raises:
        ValueError: neither direction is wanted.
    """

    def __init__(self, horizontal: bool = True, vertical: bool = False, leaks: bool = True) -> None:
        if not (horizontal or vertical):
            raise OptionError("horizontal and vertical are both false: nothing would be mirrored")
        self.dimensions = [3] * horizontal + [2] * vertical
        self.leaks = leaks
        self.parameters = len(self.dimensions)
        self.variants = torch.tensor([*product((0.0, 1.0), repeat=self.parameters)])

    def draw(self, n: int, generator: Generator) -> Tensor:
        """Return 0 or 1 for each image and direction, float32 [n, parameters]."""
        return torch.randint(2, (n, self.parameters), generator=generator).float()

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Mirror images [B, C, H, W] where their parameters are 1."""
        for dimension, mirrored in zip(self.dimensions, parameters.T):
            images = torch.where(mirrored.view(-1, 1, 1, 1) > 0, images.flip(dimension), images)
        return images
