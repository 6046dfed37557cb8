"""Quantizers without a learned codebook."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn


class GridQuantizer(nn.Module):
    """Rounds each channel to one of ``levels`` values, evenly spaced in [-1, 1].

    Args:
        levels: values a channel can take.
        dim: channels of the latents.
    """

    def __init__(self, levels: Annotated[int, Ge(2)] = 8, dim: Annotated[int, Ge(1)] = 4) -> None:
        super().__init__()
        self.levels = levels
        self.dim = dim
        self.codebook_size = levels**dim

    def forward(self, latents: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Quantize latents [B, dim, H, W]; indices are [B, H, W]."""
        bounded = latents.clamp(-1, 1)
        steps = torch.round((bounded + 1) / 2 * (self.levels - 1))
        values = steps / (self.levels - 1) * 2 - 1
        places = self.levels ** torch.arange(self.dim, device=latents.device).view(1, -1, 1, 1)
        return bounded + (values - bounded).detach(), {}, (steps.long() * places).sum(1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the values [B, dim, H, W] of indices [B, H, W]."""
        places = self.levels ** torch.arange(self.dim, device=indices.device).view(1, -1, 1, 1)
        steps = indices.unsqueeze(1) // places % self.levels
        return steps / (self.levels - 1) * 2 - 1
