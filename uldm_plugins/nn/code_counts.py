"""How often the codes of a codebook are used."""

from __future__ import annotations

import torch
from torch import Tensor


def count_codes(indices: Tensor, codebook_size: int) -> Tensor:
    """Return how often each code occurs in indices [B, h, w] or [B, Q, h, w], int64 [1 or Q, K]."""
    codebooks = indices.unbind(1) if indices.ndim > 3 else [indices]
    return torch.stack([torch.bincount(found.flatten(), minlength=codebook_size) for found in codebooks])


def perplexity(counts: Tensor) -> Tensor:
    """Return e to the entropy of how often codes are used, [Q] of counts [Q, K]; 1 of no use at all."""
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    return torch.exp(torch.special.entr(shares).sum(1))
