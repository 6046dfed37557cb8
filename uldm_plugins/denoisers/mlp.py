"""A denoiser without convolutions, for latents so small that all positions fit one vector."""

from __future__ import annotations

from math import prod
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from uldm_core.shapes import height_and_width
from uldm_core.sizes import Size
from uldm_plugins.denoisers.time import TimeEmbedding
from uldm_plugins.nn.blocks import Dropout, zeroed
from uldm_plugins.nn.conditioning import Conditioned

Count = Annotated[int, Ge(1)]


class MLP(Conditioned):
    """Residual MLP over the whole latent, [C H W] at once, modulated by the time (adaLN).

    All its work is matrix products, which a CPU does several times faster than small convolutions; in
    return it knows one size only, and its first and last layers grow with that size.

    Source: modulation as in DiT (Peebles and Xie 2023, arXiv 2212.09748), blocks as in ResMLP without
    tokens (Touvron et al. 2021, arXiv 2105.03404).

    Args:
        channels: of the latents.
        size: height and width of the latents, one number for a square.
        width: of the residual stream.
        hidden: of each block's hidden layer.
        depth: blocks.
        time_emb_dim: of the time embedding; even.
        classes: of the condition; 0 takes none.
        augmentation: parameters of the augmentation; 0 takes none.
        dropout: share of the values that each block drops in training, of its hidden layer.
    """

    def __init__(
        self,
        channels: Count,
        size: Size,
        width: Count = 640,
        hidden: Count = 1280,
        depth: Count = 4,
        time_emb_dim: Annotated[int, Ge(2)] = 256,
        classes: Annotated[int, Ge(0)] = 0,
        augmentation: Annotated[int, Ge(0)] = 0,
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        values = channels * prod(height_and_width(size))
        self.time = nn.Sequential(TimeEmbedding(time_emb_dim), nn.SiLU())
        self.make_embeddings(classes, augmentation, time_emb_dim)
        self.inward = nn.Linear(values, width)
        self.blocks = nn.ModuleList(Block(width, hidden, time_emb_dim, dropout) for _ in range(depth))
        self.modulation = zeroed(nn.Linear(time_emb_dim, 2 * width))
        self.outward = zeroed(nn.Linear(width, values))

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
        embed, activate = self.time
        embedding = activate(self.conditioned(embed(time), condition, augmentation))
        stream = self.inward(latents.flatten(1))
        for block in self.blocks:
            stream = block(stream, embedding)
        shift, scale = self.modulation(embedding).chunk(2, -1)
        return self.outward(modulated(stream, shift, scale)).view(latents.shape)


class Block(nn.Module):
    """Norm, modulation, two layers, a gate; starts near the identity."""

    def __init__(self, width: int, hidden: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        nn.init.normal_(self.contract.weight, std=0.5 * hidden**-0.5)
        self.modulation = zeroed(nn.Linear(embedding, 3 * width))

    def forward(self, stream: Tensor, embedding: Tensor) -> Tensor:
        """Map [B, width] to the same shape."""
        shift, scale, gate = self.modulation(embedding).chunk(3, -1)
        hidden = F.silu(self.expand(modulated(stream, shift, scale)))
        hidden = F.dropout(hidden, self.dropout, self.training)
        return stream + self.contract(hidden) * (1 + gate)


def modulated(stream: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise each row, then scale and shift it."""
    return F.layer_norm(stream, stream.shape[-1:]) * (1 + scale) + shift
