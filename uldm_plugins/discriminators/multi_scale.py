"""Several PatchGANs, each looking at the image at half the size of the one before."""

from __future__ import annotations

from typing import Annotated, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from uldm_plugins.discriminators.patchgan import PatchGAN
from uldm_plugins.shared.images import refuse_small

Counts = tuple[Annotated[int, Ge(1)], ...]
_KERNEL = 3
"""Of the pooling that halves the image."""


class MultiScale(nn.Module):
    """The mean verdict of PatchGANs on the image, on its half, its quarter and so on.

    Images [B, in_channels, H, W] to logits [B, 1, h, w] on the grid of the finest; coarser verdicts are
    repeated on it. With the defaults 28x28 gives 6x6, and each logit sees 45x45 pixels.

    Source: Wang et al. 2018 (arXiv 1711.11585), where each scale's loss rather than each logit is averaged:
    the same for losses that are linear in the logits, as the generator's hinge loss is.

    Args:
        in_channels: channels of the images.
        num_scales: how many PatchGANs.
        channels: of each hidden layer of each PatchGAN.
        kernels: kernel sizes, first to last layer.
        strides: strides, first to last layer.
        paddings: paddings, first to last layer.

    Raises:
        ValueError: the lists do not match in length.
    """

    def __init__(
        self,
        in_channels: Annotated[int, Ge(1)] = 3,
        num_scales: Annotated[int, Ge(1)] = 2,
        channels: Counts = (64, 128),
        kernels: Counts = (4, 4, 4),
        strides: Counts = (2, 2, 1),
        paddings: tuple[Annotated[int, Ge(0)], ...] = (1, 1, 1),
    ) -> None:
        super().__init__()
        scales = [PatchGAN(in_channels, channels, kernels, strides, paddings) for _ in range(num_scales)]
        self.scales = nn.ModuleList(scales)
        self.receptive_field = scales[0].receptive_field
        self.smallest_size = _smallest_size(scales[0].smallest_size, num_scales)
        for _ in range(num_scales - 1):
            self.receptive_field = 2 * (self.receptive_field - 1) + _KERNEL

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits.

        Raises:
            ValueError: the images are smaller than ``smallest_size``.
        """
        side = min(images.shape[-2:])
        if side < self.smallest_size:
            instead = self.for_side(side) or "no discriminator"
            refuse_small(images, self.smallest_size, type(self).__name__, instead)
        verdicts: list[Tensor] = []
        for patchgan in self.scales:
            images = _halved(images) if verdicts else images
            verdicts.append(patchgan(images))
        grid = verdicts[0].shape[-2:]
        return torch.stack([F.interpolate(verdict, grid) for verdict in verdicts]).mean(0)

    def for_side(self, side: int) -> str:
        """Return the options with which it takes images of a side, for a message; empty if with none."""
        finest = cast(PatchGAN, self.scales[0])
        for fewer in range(len(self.scales) - 1, 0, -1):
            if _smallest_size(finest.smallest_size, fewer) <= side:
                return f"num_scales = {fewer}"
        options = finest.for_side(side)
        return f"num_scales = 1, {options}" if options else ""


def _smallest_size(finest: int, scales: int) -> int:
    """Return the least side of images of which so many scales each make one logit."""
    return 2 ** (scales - 1) * (finest - 1) + 1


def _halved(images: Tensor) -> Tensor:
    return F.avg_pool2d(images, _KERNEL, stride=2, padding=1, count_include_pad=False)
