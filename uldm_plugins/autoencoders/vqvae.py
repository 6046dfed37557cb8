"""VQ-VAE with residual and attention blocks, configured level by level."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from annotated_types import Ge, MinLen
from torch import nn

from uldm_core import use
from uldm_core.protocols import Quantizer
from uldm_plugins.autoencoders.quantized import QuantizedAutoencoder
from uldm_plugins.nn.blocks import Layers, check_divisible, check_levels

Widths = Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]
Flags = tuple[bool, ...]
Count = Annotated[int, Ge(1)]


class VQVAE(QuantizedAutoencoder):
    """Encoder, quantizer and mirrored decoder; each level may halve the size and attend.

    Source: van den Oord et al. 2017 (arXiv 1711.00937); layout of Rombach et al. 2022 (arXiv 2112.10752).

    Args:
        in_channels: of the images.
        quantizer: its ``dim`` is the number of latent channels.
        down_channels: width of each encoder level, finest first.
        mid_channels: widths of the middle; the first and last equal the last of ``down_channels``.
        down_sample: for each level, whether it halves the size.
        attn_down: for each level, whether it attends, in the decoder too.
        norm_channels: groups of each group norm.
        num_heads: of each attention.
        num_down_layers: blocks a level in the encoder.
        num_mid_layers: blocks between two of ``mid_channels``.
        num_up_layers: blocks a level in the decoder.

    Raises:
        ValueError: the lists do not fit together, or groups or heads do not divide a width.
    """

    def __init__(
        self,
        in_channels: Count = 3,
        quantizer: Quantizer = use("vq_ema"),
        down_channels: Widths = (32, 64),
        mid_channels: Widths = (64, 64),
        down_sample: Flags = (True, True),
        attn_down: Flags = (False, False),
        norm_channels: Count = 16,
        num_heads: Count = 4,
        num_down_layers: Count = 1,
        num_mid_layers: Count = 1,
        num_up_layers: Count = 1,
    ) -> None:
        check_levels(down_channels, mid_channels, down_sample=down_sample, attn_down=attn_down)
        check_divisible([*down_channels, *mid_channels], norm_channels=norm_channels)
        check_divisible(mid_channels, num_heads=num_heads)
        heads = [num_heads if attends else 0 for attends in attn_down]
        levels = list(zip(pairwise((down_channels[0], *down_channels)), heads, down_sample))
        encoder: list[nn.Module] = [nn.Conv2d(in_channels, down_channels[0], 3, padding=1)]
        for (a, b), h, halves in levels:
            encoder.append(Layers(a, b, num_down_layers, norm_channels, heads=h))
            encoder += [nn.Conv2d(b, b, 3, stride=2, padding=1)] if halves else []
        for a, b in pairwise(mid_channels):
            encoder.append(Layers(a, b, num_mid_layers, norm_channels, heads=num_heads))
        encoder += _ending(mid_channels[-1], quantizer.dim, norm_channels)

        decoder: list[nn.Module] = [nn.Conv2d(quantizer.dim, mid_channels[-1], 3, padding=1)]
        for a, b in pairwise(mid_channels[::-1]):
            decoder.append(Layers(a, b, num_mid_layers, norm_channels, heads=num_heads))
        for (a, b), h, halves in levels[::-1]:
            decoder += [nn.Upsample(scale_factor=2), nn.Conv2d(b, b, 3, padding=1)] if halves else []
            decoder.append(Layers(b, a, num_up_layers, norm_channels, heads=h))
        decoder += [*_ending(down_channels[0], in_channels, norm_channels), nn.Tanh()]
        super().__init__(nn.Sequential(*encoder), quantizer, nn.Sequential(*decoder), 2 ** sum(down_sample))


def _ending(width: int, outputs: int, groups: int) -> list[nn.Module]:
    return [nn.GroupNorm(groups, width), nn.SiLU(), nn.Conv2d(width, outputs, 3, padding=1)]
