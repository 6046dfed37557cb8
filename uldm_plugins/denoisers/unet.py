"""The U-Net of latent diffusion, configured level by level."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

import torch
from annotated_types import Ge, MinLen
from torch import Tensor, nn

from uldm_plugins.denoisers.time import TimeEmbedding
from uldm_plugins.nn.blocks import Dropout, Layers, Upsample, check_divisible, check_levels
from uldm_plugins.nn.conditioning import Conditioned

Widths = Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]
Flags = tuple[bool, ...]
Count = Annotated[int, Ge(1)]


class UNet(Conditioned):
    """U-Net with residual and attention blocks; works for any size, odd ones too.

    Source: Rombach et al. 2022 (arXiv 2112.10752); Ho et al. 2020 (arXiv 2006.11239).

    Args:
        channels: of the latents.
        down_channels: width of each level, finest first.
        mid_channels: widths of the middle; the first and last equal the last of ``down_channels``.
        down_sample: for each level, whether it halves the size.
        attn_down: for each level, whether it attends, on the way down and up.
        time_emb_dim: of the time embedding; even.
        norm_channels: groups of each group norm.
        num_heads: of each attention.
        conv_out_channels: width in front of the last convolution.
        num_down_layers: blocks a level on the way down.
        num_mid_layers: blocks between two of ``mid_channels``.
        num_up_layers: blocks a level on the way up.
        classes: of the condition; 0 takes none.
        augmentation: parameters of the augmentation; 0 takes none.
        dropout: share of the values that each residual block drops in training, before its second
            convolution.

    Raises:
        ValueError: the lists do not fit together, or groups or heads do not divide a width.
    """

    def __init__(
        self,
        channels: Count,
        down_channels: Widths = (64, 128),
        mid_channels: Widths = (128, 128),
        down_sample: Flags = (False, True),
        attn_down: Flags = (False, True),
        time_emb_dim: Annotated[int, Ge(2)] = 128,
        norm_channels: Count = 16,
        num_heads: Count = 4,
        conv_out_channels: Count = 64,
        num_down_layers: Count = 1,
        num_mid_layers: Count = 1,
        num_up_layers: Count = 1,
        classes: Annotated[int, Ge(0)] = 0,
        augmentation: Annotated[int, Ge(0)] = 0,
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        check_levels(down_channels, mid_channels, down_sample=down_sample, attn_down=attn_down)
        check_divisible([*down_channels, *mid_channels, conv_out_channels], norm_channels=norm_channels)
        check_divisible([*mid_channels, *down_channels], num_heads=num_heads)
        common: Any = {"groups": norm_channels, "embedding": time_emb_dim, "dropout": dropout}
        heads = [num_heads if attends else 0 for attends in attn_down]
        self.time = TimeEmbedding(time_emb_dim)
        self.make_embeddings(classes, augmentation, time_emb_dim)
        self.conv_in = nn.Conv2d(channels, down_channels[0], 3, padding=1)
        inputs = (down_channels[0], *down_channels)
        self.downs = nn.ModuleList(
            Layers(a, b, num_down_layers, heads=h, **common) for (a, b), h in zip(pairwise(inputs), heads)
        )
        self.shrinks = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=2, padding=1) if halves else nn.Identity()
            for width, halves in zip(down_channels, down_sample)
        )
        self.mids = nn.ModuleList(
            Layers(a, b, num_mid_layers, heads=num_heads, **common) for a, b in pairwise(mid_channels)
        )
        self.grows = nn.ModuleList(
            Upsample(width) if halves else nn.Identity() for width, halves in zip(down_channels, down_sample)
        )
        outputs = (conv_out_channels, *down_channels[:-1])
        self.ups = nn.ModuleList(
            Layers(2 * a, b, num_up_layers, heads=h if b % num_heads == 0 else 0, **common)
            for a, b, h in zip(down_channels, outputs, heads)
        )
        self.out = nn.Sequential(
            nn.GroupNorm(norm_channels, conv_out_channels),
            nn.SiLU(),
            nn.Conv2d(conv_out_channels, channels, 3, padding=1),
        )

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
        embedding = self.conditioned(self.time(time), condition, augmentation)
        x = self.conv_in(latents)
        skips = []
        for layers, shrink in zip(self.downs, self.shrinks):
            x = layers(x, embedding)
            skips.append(x)
            x = shrink(x)
        for layers in self.mids:
            x = layers(x, embedding)
        for layers, grow, skip in reversed(list(zip(self.ups, self.grows, skips))):
            x = grow(x, skip.shape[2:]) if isinstance(grow, Upsample) else x
            x = layers(torch.cat([x, skip], 1), embedding)
        return self.out(x)
