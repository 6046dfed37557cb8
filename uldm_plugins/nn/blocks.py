"""Residual and attention blocks that autoencoders and denoisers of the U-Net family share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from uldm_core.errors import OptionError

Dropout = Annotated[float, Interval(ge=0, lt=1)]


def zeroed(module: nn.Module) -> nn.Module:
    """Set all parameters of a module to zero, so that its branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def with_dropout(activation: nn.Module, dropout: float) -> nn.Module:
    """Return an activation that drops a share of its values in training; with 0 it is returned as it is.

    In a sequence the two count as one, so that the parameters after them have the same names either way.
    """
    return nn.Sequential(activation, nn.Dropout(dropout)) if dropout else activation


class ResBlock(nn.Module):
    """Two 3x3 convolutions with group norm and SiLU in front; an embedding, if any, is added between.

    In training a share of what enters the second one is dropped.
    """

    def __init__(
        self, inputs: int, outputs: int, groups: int, embedding: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(groups, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.embed = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs)) if embedding else None
        self.second = nn.Sequential(
            nn.GroupNorm(groups, outputs),
            with_dropout(nn.SiLU(), dropout),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H, W]."""
        hidden = self.first(x)
        if self.embed is not None:
            hidden = hidden + self.embed(embedding)[:, :, None, None]
        return self.skip(x) + self.second(hidden)


class Attention(nn.Module):
    """Self-attention over all positions, with group norm in front and a residual around."""

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        batch, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            self.qkv(tokens).unflatten(-1, (3, self.heads, channels // self.heads)).permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(mixed).transpose(1, 2).reshape(batch, channels, height, width)


class Layers(nn.Module):
    """So many residual blocks, each followed by attention if asked for."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        count: int,
        groups: int,
        *,
        heads: int = 0,
        embedding: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [inputs, *[outputs] * count]
        self.residuals = nn.ModuleList(
            ResBlock(a, b, groups, embedding, dropout) for a, b in pairwise(widths)
        )
        self.attentions = nn.ModuleList(
            Attention(outputs, heads, groups) for _ in range(count if heads else 0)
        )

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H, W]."""
        for index, residual in enumerate(self.residuals):
            x = residual(x, embedding)
            if self.attentions:
                x = self.attentions[index](x)
        return x


class Upsample(nn.Module):
    """Nearest-neighbour upsampling to a given size, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Map [B, C, h, w] to [B, C, *size]."""
        return self.convolution(F.interpolate(x, tuple(size), mode="nearest"))


def check_levels(down_channels: Sequence[int], mid_channels: Sequence[int], **flags: Sequence[bool]) -> None:
    """Raise ``ValueError`` where the lists that describe a network's levels do not fit together."""
    for name, values in flags.items():
        if len(values) != len(down_channels):
            raise OptionError(
                f"{name} has {len(values)} values, down_channels {len(down_channels)}: give one a level"
            )
    if mid_channels[0] != down_channels[-1] or mid_channels[-1] != down_channels[-1]:
        raise OptionError(
            f"mid_channels must begin and end with the last of down_channels, {down_channels[-1]}; "
            f"it is {list(mid_channels)}"
        )


def check_sides(images: Tensor, downscale: int, option: str) -> None:
    """Raise ``ValueError`` unless images can be halved as often as an option of this name demands."""
    height, width = images.shape[-2:]
    if height % downscale or width % downscale:
        raise OptionError(
            f"images of {height}x{width}: sides must be multiples of {downscale}: halve the size less often "
            f"({option}), or give a dataset of another size"
        )


def check_divisible(widths: Sequence[int], **divisors: int) -> None:
    """Raise ``ValueError`` unless each divisor (groups of a norm, heads) divides every width."""
    for name, divisor in divisors.items():
        for width in widths:
            if width % divisor:
                raise OptionError(f"{name} = {divisor} does not divide {width} channels")
