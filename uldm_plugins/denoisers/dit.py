"""The diffusion transformer."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from uldm_core.kinds import latent_size
from uldm_core.shapes import height_and_width
from uldm_core.sizes import Size
from uldm_plugins.denoisers.time import TimeEmbedding
from uldm_plugins.nn.blocks import Dropout, check_divisible, with_dropout, zeroed
from uldm_plugins.nn.conditioning import Conditioned

Count = Annotated[int, Ge(1)]
_EPS = 1e-6


class DiT(Conditioned):
    """Transformer over patches of the latent, conditioned by adaLN-zero: its output starts at zero.

    Sides that are no multiple of ``patch_size`` are padded, and cut off again.

    Source: Peebles and Xie 2023 (arXiv 2212.09748).

    Args:
        channels: of the latents.
        size: height and width of the latents, one number for a square; others work as well.
        patch_size: side of a patch, one token each.
        hidden_size: width of the tokens; a multiple of 4 and of ``num_heads``.
        depth: blocks.
        num_heads: of each attention.
        mlp_ratio: width of each block's hidden layer, in ``hidden_size``.
        classes: of the condition; 0 takes none.
        augmentation: parameters of the augmentation; 0 takes none.
        dropout: share of the values that each block drops in training, of its MLP's hidden layer.

    Raises:
        ValueError: ``num_heads`` or 4 does not divide ``hidden_size``.
    """

    positions: Tensor

    def __init__(
        self,
        channels: Count,
        size: Size,
        patch_size: Count = 2,
        hidden_size: Count = 192,
        depth: Count = 6,
        num_heads: Count = 3,
        mlp_ratio: Annotated[float, Gt(0)] = 4.0,
        classes: Annotated[int, Ge(0)] = 0,
        augmentation: Annotated[int, Ge(0)] = 0,
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        check_divisible([hidden_size], num_heads=num_heads)
        if hidden_size % 4:
            raise ValueError(f"hidden_size = {hidden_size}: it must be a multiple of 4")
        self.patch_size, self.hidden_size, self.channels = patch_size, hidden_size, channels
        self.grid = latent_size(height_and_width(size), patch_size)
        positions = sincos_positions(hidden_size, *self.grid)
        self.register_buffer("positions", positions, persistent=False)
        self.time = TimeEmbedding(hidden_size)
        self.make_embeddings(classes, augmentation, hidden_size)
        self.patchify = nn.Conv2d(channels, hidden_size, patch_size, stride=patch_size)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, mlp_ratio, dropout) for _ in range(depth))
        self.modulation = zeroed(nn.Linear(hidden_size, 2 * hidden_size))
        self.out = zeroed(nn.Linear(hidden_size, patch_size**2 * channels))

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
        height, width = latents.shape[-2:]
        patch = self.patch_size
        patches = self.patchify(F.pad(latents, (0, -width % patch, 0, -height % patch)))
        grid = tuple(patches.shape[-2:])
        tokens = patches.flatten(2).transpose(1, 2) + self._positions(grid, patches)
        embedding = F.silu(self.conditioned(self.time(time), condition, augmentation))
        for block in self.blocks:
            tokens = block(tokens, embedding)
        shift, scale = self.modulation(embedding).unsqueeze(1).chunk(2, -1)
        values = self.out(modulated(tokens, shift, scale)).unflatten(1, grid)
        image = values.unflatten(-1, (patch, patch, self.channels)).permute(0, 5, 1, 3, 2, 4)
        return image.flatten(4).flatten(2, 3)[..., :height, :width]

    def _positions(self, grid: tuple[int, ...], like: Tensor) -> Tensor:
        if grid == self.grid:
            return self.positions
        return sincos_positions(self.hidden_size, *grid).to(like)


class Block(nn.Module):
    """Attention and an MLP, each behind a modulated norm and a gate that starts at zero."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        activation = with_dropout(nn.GELU("tanh"), dropout)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), activation, nn.Linear(hidden, width))
        self.modulation = zeroed(nn.Linear(width, 6 * width))

    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """Map [B, N, width] to the same shape; the embedding [B, width] has passed its activation."""
        modulation = self.modulation(embedding).unsqueeze(1).chunk(6, -1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        tokens = tokens + gate * self._attend(modulated(tokens, shift, scale))
        return tokens + mlp_gate * self.mlp(modulated(tokens, mlp_shift, mlp_scale))

    def _attend(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise each token, then scale and shift it."""
    return F.layer_norm(tokens, tokens.shape[-1:], eps=_EPS) * (1 + scale) + shift


def sincos_positions(width: int, rows: int, columns: int) -> Tensor:
    """Return sines and cosines of each place's column and row, [1, rows * columns, width].

    Source: ``get_2d_sincos_pos_embed`` of DiT, which has the column first.
    """
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(width // 4) / (width // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (column, row)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1).unsqueeze(0)
