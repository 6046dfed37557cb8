"""Finite scalar quantization: each channel is rounded to a few levels, no codebook is learned."""

from __future__ import annotations

from math import prod
from typing import Annotated

import torch
from annotated_types import Ge, MinLen
from torch import Tensor, nn

from uldm_plugins.quantizers.codes import straight_through

MARGIN = 1e-3


class FSQ(nn.Module):
    """Squashes each channel by tanh to the range of its levels, and rounds it.

    With h = (L - 1)(1 + 1e-3) / 2 and o = 1/2 for even L, else 0: round(tanh(z + atanh(o / h)) h - o) /
    floor(L / 2). Codes lie in [-1, 1]; ``dim`` is the number of levels. Nothing is learned, so nothing
    collapses, and there is no loss.

    Source: Mentzer et al. 2024 (arXiv 2309.15505); ``FSQ`` of vector-quantize-pytorch.

    Args:
        levels: of each channel, 3 or more; the codebook has as many codes as their product.
    """

    sizes: Tensor
    basis: Tensor

    def __init__(
        self,
        levels: Annotated[list[Annotated[int, Ge(3)]], MinLen(1)] = [8, 6, 5],  # noqa: B006 - read only
    ) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.dim = len(self.levels)
        self.codebook_size = prod(self.levels)
        sizes = torch.tensor(self.levels)
        basis = torch.cat([torch.ones(1, dtype=torch.long), sizes.cumprod(0)[:-1]])
        # integers, so that a cast leaves them exact; they follow from the options
        self.register_buffer("sizes", sizes.view(-1, 1, 1), persistent=False)
        self.register_buffer("basis", basis.view(-1, 1, 1), persistent=False)

    def forward(self, latents: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Quantize latents [B, D, H, W].

        Returns:
            The codes with the gradient of the squashing, no losses, and indices [B, H, W].
        """
        half = (self.sizes - 1) * (1 + MARGIN) / 2
        offset = torch.where(self.sizes % 2 == 0, 0.5, 0.0)
        bounded = torch.tanh(latents.float() + torch.atanh(offset / half)) * half - offset
        places, width = bounded.detach().round(), self.sizes // 2
        quantized = straight_through(bounded, places) / width
        return quantized.to(latents.dtype), {}, ((places.long() + width) * self.basis).sum(1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes [B, D, H, W] of indices [B, H, W]."""
        width = self.sizes // 2
        return (indices.unsqueeze(1) // self.basis % self.sizes - width) / width
