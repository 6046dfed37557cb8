"""How often a quantizer's codes are used."""

from __future__ import annotations

import torch
from torch import Tensor


def code_counts(indices: Tensor, codebook_size: int) -> Tensor:
    """Return how often each code occurs in indices [B, h, w] or [B, Q, h, w], int64 [1 or Q, K]."""
    codebooks = indices.cpu().flatten(2).unbind(1) if indices.ndim > 3 else [indices.cpu()]
    return torch.stack(
        [torch.bincount(found.flatten().long(), minlength=codebook_size) for found in codebooks]
    )


def perplexity(counts: Tensor) -> Tensor:
    """Return e to the entropy of each codebook's use, float64 [Q], of counts [Q, K]; of no use at all, 0.

    As many codes, all used alike, have this entropy: 1 if a single one is used, K if all are alike.
    """
    totals = counts.sum(1, keepdim=True)
    shares = counts.double() / totals.clamp(min=1)
    return torch.exp(torch.special.entr(shares).sum(1)) * (totals.squeeze(1) > 0)
