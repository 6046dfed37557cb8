"""PatchGAN by its number of layers, as latent diffusion is trained with."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import nn

from uldm_plugins.discriminators.patchgan import PatchGAN

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

    fewer = "fewer num_layers"

    def __init__(
        self,
        in_channels: Annotated[int, Ge(1)] = 3,
        width: Annotated[int, Ge(1)] = 64,
        num_layers: Annotated[int, Ge(1)] = 3,
    ) -> None:
        channels = tuple(width * min(2**layer, _WIDEST) for layer in range(num_layers + 1))
        layers = num_layers + 2
        strides = (2,) * num_layers + (1, 1)
        super().__init__(in_channels, channels, (4,) * layers, strides, (1,) * layers)
        self.apply(_init_small)


def _init_small(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
