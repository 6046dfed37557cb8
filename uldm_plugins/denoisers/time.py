"""The embedding of the time, by which denoisers are conditioned."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Sines and cosines of the time at geometric frequencies, then a small network.

    Source: Ho et al. 2020 (arXiv 2006.11239), after Vaswani et al. 2017.

    Args:
        dim: of the embedding; even.
        max_period: the longest period, on the scale of 1,000 timesteps.
    """

    def __init__(self, dim: int, max_period: float = 10_000.0) -> None:
        super().__init__()
        self.max_period = max_period
        self.count = dim // 2
        self.network = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, time: Tensor) -> Tensor:
        """Map times [B] to embeddings [B, dim]."""
        first = waves(time, 2 * self.count, self.max_period)
        return self.network(first.to(next(self.network.parameters()).dtype))


def waves(time: Tensor, count: int, max_period: float = 10_000.0) -> Tensor:
    """Return cosines, then sines, of times [B] at geometric frequencies, float32 [B, count]; count even."""
    # computed each time: kept as a buffer and cast to bfloat16, frequencies would be off by whole turns
    places = torch.arange(count // 2, device=time.device) / (count // 2)
    angles = time.float()[:, None] * torch.exp(-math.log(max_period) * places)
    return torch.cat([angles.cos(), angles.sin()], 1)
