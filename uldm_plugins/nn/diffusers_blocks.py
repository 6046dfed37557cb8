"""Blocks whose parameters bear the names of diffusers' checkpoints, so that those load as they are.

Source: ``ResnetBlock2D``, ``Attention``, ``UNetMidBlock2D``, ``Downsample2D``, ``Upsample2D`` of diffusers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uldm_core.shapes import is_shapes_only
from uldm_plugins.shared.pretrained import existing, read_state, require_fitting

_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


class Resnet(nn.Module):
    """Two 3x3 convolutions with group norm and SiLU in front; an embedding, if any, is added between.

    In training a share of what enters the second one is dropped.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        groups: int,
        eps: float,
        embedding: int | None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm1 = nn.GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding, outputs) if embedding else None
        self.norm2 = nn.GroupNorm(groups, outputs, eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H, W]."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        if self.time_emb_proj is not None and embedding is not None:
            hidden = hidden + self.time_emb_proj(F.silu(embedding))[:, :, None, None]
        hidden = F.dropout(F.silu(self.norm2(hidden)), self.dropout, self.training)
        hidden = self.conv2(hidden)
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """Self-attention over all positions, with group norm in front and a residual around."""

    def __init__(self, channels: int, heads: int, groups: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.group_norm = nn.GroupNorm(groups, channels, eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            to(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for to in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.to_out[0](mixed).transpose(1, 2).reshape(x.shape)


class Downsample(nn.Module):
    """3x3 convolution that halves the size.

    Args:
        channels: in and out.
        lopsided: pad right and bottom only, as the autoencoder does; else all around.
    """

    def __init__(self, channels: int, *, lopsided: bool) -> None:
        super().__init__()
        self.lopsided = lopsided
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if lopsided else 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to half the size."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.lopsided else x)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling to a size, twice its own by default, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Map [B, C, h, w] to [B, C, *size]."""
        size = [2 * side for side in x.shape[-2:]] if size is None else list(size)
        return self.conv(F.interpolate(x, size, mode="nearest"))


class Level(nn.Module):
    """Residual blocks at one size, each followed by attention if there are heads, and a change of size.

    Args:
        widths: channels into and out of each block, pairwise.
        skips: channels that are concatenated to each block's input; none by default.
        heads: of each attention; 0 for none.
        groups: of each group norm.
        eps: of each group norm.
        embedding: size of the time embedding, if there is one.
        dropout: of each residual block.
        down: halves the size at the end.
        up: changes the size at the end.
    """

    def __init__(
        self,
        widths: Sequence[int],
        groups: int,
        eps: float,
        *,
        skips: Sequence[int] = (),
        heads: int = 0,
        embedding: int | None = None,
        dropout: float = 0.0,
        down: Downsample | None = None,
        up: Upsample | None = None,
    ) -> None:
        super().__init__()
        added = skips or [0] * (len(widths) - 1)
        self.resnets = nn.ModuleList(
            Resnet(a + skip, b, groups, eps, embedding, dropout)
            for (a, b), skip in zip(pairwise(widths), added)
        )
        if heads:
            self.attentions = nn.ModuleList(Attention(width, heads, groups, eps) for width in widths[1:])
        self.downsamplers = nn.ModuleList([down] if down is not None else [])
        self.upsamplers = nn.ModuleList([up] if up is not None else [])
        self.count = len(widths) - 1
        self.attends = heads > 0

    def block(self, index: int, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Apply one residual block and its attention."""
        x = self.resnets[index](x, embedding)
        return self.attentions[index](x) if self.attends else x

    def forward(self, x: Tensor) -> Tensor:
        """Apply all blocks, and the change of size."""
        for index in range(self.count):
            x = self.block(index, x)
        for resize in (*self.downsamplers, *self.upsamplers):
            x = resize(x)
        return x


class Mid(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(
        self,
        width: int,
        heads: int,
        groups: int,
        eps: float,
        embedding: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(width, heads, groups, eps)])
        self.resnets = nn.ModuleList(Resnet(width, width, groups, eps, embedding, dropout) for _ in range(2))

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        x = self.attentions[0](self.resnets[0](x, embedding))
        return self.resnets[1](x, embedding)


def load_named(module: nn.Module, path: Path) -> None:
    """Load a diffusers state dict, today's or one with the old names of attention.

    Where only shapes are wanted, nothing is read.

    Raises:
        ValueError: it is not to be read, or of another network.
    """
    if is_shapes_only():
        existing(path)
        return
    state = {_renamed(name): tensor for name, tensor in read_state(path).items()}
    require_fitting(module, state, path)
    with torch.no_grad():
        module.load_state_dict(state)


def _renamed(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        name = name.replace(old, new)
    return name
