"""PatchGAN by its number of layers, as latent diffusion is trained with."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import nn

from uldm_plugins.discriminators.patchgan import PatchGAN, smallest_size

_WIDEST = 8


class NLayerPatchGAN(PatchGAN):
    """The PatchGAN of taming-transformers: 4x4 kernels, widths doubling up to eight times the first.

    Images [B, in_channels, H, W] to logits [B, 1, h, w]. With three layers each logit sees 70x70 pixels;
    64x64 gives 6x6, 28x28 gives one. Weights start normal with deviation 0.02, as there.

    Source: Isola et al. 2017 (arXiv 1611.07004); ``NLayerDiscriminator`` of taming-transformers.

    Args:
        in_channels: channels of the images.
        width: channels of the first layer.
        num_layers: how many layers halve the size; two more follow that do not.
    """

    def __init__(
        self,
        in_channels: Annotated[int, Ge(1)] = 3,
        width: Annotated[int, Ge(1)] = 64,
        num_layers: Annotated[int, Ge(1)] = 3,
    ) -> None:
        channels = tuple(width * min(2**layer, _WIDEST) for layer in range(num_layers + 1))
        super().__init__(in_channels, channels, *_layers(num_layers))
        self.apply(_init_small)
        self.num_layers = num_layers

    def for_side(self, side: int) -> str:
        """Return the option with which it takes images of a side, for a message; empty if with none."""
        for fewer in range(self.num_layers - 1, 0, -1):
            if smallest_size(*_layers(fewer)) <= side:
                return f"num_layers = {fewer}"
        return ""


def _layers(num_layers: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the kernels, strides and paddings."""
    layers = num_layers + 2
    return (4,) * layers, (2,) * num_layers + (1, 1), (1,) * layers


def _init_small(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
