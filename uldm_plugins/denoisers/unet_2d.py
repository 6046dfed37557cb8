"""The U-Net of diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, MinLen
from torch import Tensor, nn

from uldm_core import Exists
from uldm_plugins.denoisers.time import waves
from uldm_plugins.nn.blocks import Dropout, check_divisible
from uldm_plugins.nn.conditioning import Conditioned
from uldm_plugins.nn.diffusers_blocks import Downsample, Level, Mid, Upsample, load_named

Widths = Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]
Count = Annotated[int, Ge(1)]
_EPS = 1e-5


class UNet2D(Conditioned):
    """U-Net in the layout of ``UNet2DModel``; the size halves between levels, odd sizes included.

    The parameters bear diffusers' names: its checkpoints load as they are.

    Source: Ho et al. 2020 (arXiv 2006.11239); ``diffusers.UNet2DModel``.

    Args:
        channels: of the latents.
        block_out_channels: width of each level, finest first.
        attention_levels: for each level, whether it attends, on the way down and up; the middle always does.
        layers_per_block: residual blocks a level on the way down; one more on the way up.
        attention_head_dim: channels of each head of attention.
        norm_num_groups: groups of each group norm.
        weights: a diffusers state dict to start from, ``.safetensors``.
        classes: of the condition, diffusers' ``num_class_embeds`` less one; 0 takes none.
        augmentation: parameters of the augmentation; 0 takes none.
        dropout: share of the values that each residual block drops in training, before its second
            convolution.

    Raises:
        ValueError: the lists do not fit together, groups or heads do not divide a width, or the weights are
            not to be read or of another network.
    """

    def __init__(
        self,
        channels: Count,
        block_out_channels: Widths = (64, 128),
        attention_levels: tuple[bool, ...] = (False, True),
        layers_per_block: Count = 1,
        attention_head_dim: Count = 8,
        norm_num_groups: Count = 32,
        weights: Annotated[Path, Exists()] | None = None,
        classes: Annotated[int, Ge(0)] = 0,
        augmentation: Annotated[int, Ge(0)] = 0,
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        if len(attention_levels) != len(block_out_channels):
            raise ValueError(
                f"attention_levels has {len(attention_levels)} values, block_out_channels "
                f"{len(block_out_channels)}: give one a level"
            )
        check_divisible(block_out_channels, norm_num_groups=norm_num_groups)
        attending = [width for width, attends in zip(block_out_channels, attention_levels) if attends]
        check_divisible([*attending, block_out_channels[-1]], attention_head_dim=attention_head_dim)
        first, last = block_out_channels[0], block_out_channels[-1]
        heads = [
            width // attention_head_dim * attends
            for width, attends in zip(block_out_channels, attention_levels)
        ]
        common = (layers_per_block, heads, norm_num_groups, 4 * first, dropout)
        self.conv_in = nn.Conv2d(channels, first, 3, padding=1)
        self.time_embedding = TimeNetwork(first, 4 * first)
        self.make_embeddings(classes, augmentation, 4 * first)
        self.down_blocks = cast("Sequence[Level]", _down(block_out_channels, *common))
        self.mid_block = Mid(last, last // attention_head_dim, norm_num_groups, _EPS, 4 * first, dropout)
        self.up_blocks = cast("Sequence[Level]", _up(block_out_channels, *common))
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, first, _EPS)
        self.conv_out = nn.Conv2d(first, channels, 3, padding=1)
        if weights is not None:
            load_named(self, Path(weights))

    def forward(
        self,
        latents: Tensor,
        time: Tensor,
        condition: Tensor | None = None,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        """Return the prediction for latents [B, C, H, W] at times [B], of classes [B], in their shape.

        ``augmentation`` are the parameters of what was done to each image, [B, augmentation].
        """
        embedding = self.conditioned(self.time_embedding(time), condition, augmentation)
        x = self.conv_in(latents)
        skips = [x]
        for level in self.down_blocks:
            for index in range(level.count):
                x = level.block(index, x, embedding)
                skips.append(x)
            for shrink in level.downsamplers:
                x = shrink(x)
                skips.append(x)
        x = self.mid_block(x, embedding)
        for level in self.up_blocks:
            for index in range(level.count):
                x = level.block(index, torch.cat([x, skips.pop()], 1), embedding)
            for grow in level.upsamplers:
                x = grow(x, skips[-1].shape[-2:])
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class TimeNetwork(nn.Module):
    """Sines and cosines of the time, then two layers."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.count = count
        self.linear_1 = nn.Linear(count, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        """Map times [B] to embeddings [B, width]."""
        first = waves(time, self.count).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(first)))


def _down(
    widths: Widths, layers: int, heads: list[int], groups: int, embedding: int, dropout: float
) -> nn.ModuleList:
    last = len(widths) - 1
    return nn.ModuleList(
        Level(
            [a, *[b] * layers],
            groups,
            _EPS,
            heads=heads[index],
            embedding=embedding,
            dropout=dropout,
            down=Downsample(b, lopsided=False) if index < last else None,
        )
        for index, (a, b) in enumerate(pairwise((widths[0], *widths)))
    )


def _up(
    widths: Widths, layers: int, heads: list[int], groups: int, embedding: int, dropout: float
) -> nn.ModuleList:
    up = [*widths[::-1], widths[0]]
    return nn.ModuleList(
        Level(
            [up[max(index - 1, 0)], *[width] * (layers + 1)],
            groups,
            _EPS,
            skips=[*[width] * layers, up[index + 1]],
            heads=heads[-1 - index],
            embedding=embedding,
            dropout=dropout,
            up=Upsample(width) if index < len(widths) - 1 else None,
        )
        for index, width in enumerate(widths[::-1])
    )
