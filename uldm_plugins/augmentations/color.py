"""Images of other brightness, contrast, saturation and hue."""

from __future__ import annotations

from math import pi
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Generator, Tensor

from uldm_core import OptionError
from uldm_plugins.augmentations.parameters import Probability, for_some, uniform

Share = Annotated[float, Interval(ge=0, lt=1)]
LUMA = (0.2989, 0.587, 0.114)


class Color:
    """Changes brightness, then contrast, saturation and hue of some images.

    Its parameters are how much each changes, from -1 to 1, of the greatest change there is. Grey images have
    neither saturation nor hue; the fourth channel, which is transparency, stays as it is.

    Source: ``adjust_brightness``, ``adjust_contrast`` and ``adjust_saturation`` of torchvision; hue of Karras
    et al. 2020 (arXiv 2006.06676), appendix B: colours rotate around the axis of greys.

    Args:
        brightness: the factor is between 1 less this and 1 plus this.
        contrast: likewise.
        saturation: likewise.
        hue: the greatest angle of rotation in either direction, in half turns.
        probability: of an image to be changed.
        leaks: samples are of other colours as well; else the denoiser is given the changes in training, and
            draws images without any.

    Raises:
        ValueError: nothing would change; or, called, images that have not 1, 3 or 4 channels.
    """

    def __init__(
        self,
        brightness: Share = 0.2,
        contrast: Share = 0.2,
        saturation: Share = 0.2,
        hue: Annotated[float, Interval(ge=0, le=1)] = 0.0,
        probability: Probability = 0.3,
        leaks: bool = False,
    ) -> None:
        reach = {_brightened: brightness, _contrasted: contrast, _saturated: saturation, _rotated: hue}
        self.changes = {change: most for change, most in reach.items() if most}
        if not self.changes:
            raise OptionError("brightness, contrast, saturation and hue are all 0: nothing would change")
        self.probability = probability
        self.leaks = leaks
        self.parameters = len(self.changes)

    def draw(self, n: int, generator: Generator) -> Tensor:
        """Return changes for n images, float32 [n, parameters] in [-1, 1]."""
        return for_some(uniform(n, self.parameters, generator), self.probability, generator)

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Change images [B, C, H, W] of 1, 3 or 4 channels."""
        channels = images.shape[1]
        if channels not in (1, 3, 4):
            raise ValueError(f"color changes images of 1, 3 or 4 channels, not of {channels}: leave it out")
        pixels, alpha = images[:, :3].float(), images[:, 3:]
        for (change, most), parameter in zip(self.changes.items(), parameters.T):
            pixels = change(pixels, 1 + most * parameter.view(-1, 1, 1, 1)).clamp(0, 255)
        return torch.cat([pixels.round().to(torch.uint8), alpha], 1)


def grey(pixels: Tensor) -> Tensor:
    """Return the luma of pixels [B, 1 or 3, H, W], [B, 1, H, W]."""
    weights = LUMA if pixels.shape[1] == 3 else (1.0,)
    return (pixels * pixels.new_tensor(weights).view(-1, 1, 1)).sum(1, keepdim=True)


def _brightened(pixels: Tensor, factor: Tensor) -> Tensor:
    return pixels * factor


def _contrasted(pixels: Tensor, factor: Tensor) -> Tensor:
    return pixels * factor + grey(pixels).mean((1, 2, 3), keepdim=True) * (1 - factor)


def _saturated(pixels: Tensor, factor: Tensor) -> Tensor:
    return pixels * factor + grey(pixels) * (1 - factor)


def _rotated(pixels: Tensor, factor: Tensor) -> Tensor:
    """Rotate colours around the axis of greys by Rodrigues' formula: not at 1, half a turn at 0 and 2."""
    if pixels.shape[1] == 1:
        return pixels
    angle = pi * (factor - 1)
    across = (pixels.roll(1, 1) - pixels.roll(-1, 1)) / 3**0.5
    return pixels * angle.cos() + pixels.mean(1, keepdim=True) * (1 - angle.cos()) + across * angle.sin()
