"""What quantizers share: vectors and codes, the nearest one, and how gradients pass between them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SCORES_AT_ONCE = 2**19
"""Scores of vectors against codes that are held at a time on the CPU: 2 MiB, which its cache keeps."""
VECTORS_AT_ONCE = 256
"""At least: with fewer, a matrix product spends its time on the codes."""
PART = 64
"""Codes whose largest score is found first."""
REVIVED = 0.3
"""The use that a revived code starts with, in units of the mean: with less, an update overrules its place."""


def flatten(latents: Tensor) -> Tensor:
    """Return latents [B, D, H, W] as float32 vectors [B H W, D]."""
    return latents.movedim(1, -1).reshape(-1, latents.shape[1]).float()


def unflatten(vectors: Tensor, shape: torch.Size) -> Tensor:
    """Return vectors [B H W, D] as latents of the shape [B, D, H, W]."""
    batch, dim, *spatial = shape
    return vectors.view(batch, *spatial, dim).movedim(-1, 1)


@torch.no_grad()
def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the nearest code of each vector, int64 [N].

    argmin |z - e|^2 = argmax (z.e - |e|^2 / 2): one matrix product a block of vectors, into one buffer;
    neither distances nor an [N, K] matrix are formed.
    """
    count, wide = len(codebook), SCORES_AT_ONCE * (1 if vectors.device.type == "cpu" else 64)
    weights = _scoring(codebook)
    vectors = F.pad(vectors, (0, 1), value=1)
    block = min(len(vectors), max(VECTORS_AT_ONCE, wide // weights.shape[1]))
    scores = vectors.new_empty(block, weights.shape[1])
    indices = vectors.new_empty(len(vectors), dtype=torch.long)
    with torch.autocast("cpu" if vectors.is_meta else vectors.device.type, enabled=False):
        for some, found in zip(vectors.split(block), indices.split(block)):
            torch.mm(some, weights, out=scores[: len(some)])
            found.copy_(_largest(scores[: len(some)]))
    return indices.clamp_(max=count - 1)  # a latent that is no number has no nearest code


def _scoring(codebook: Tensor) -> Tensor:
    """Return what scores vectors with a 1 at their end: [D + 1, K], K filled up to whole parts."""
    half_norms = codebook.float().square().sum(1, keepdim=True).div_(2)
    weights = torch.cat([codebook.float(), -half_norms], dim=1)
    weights = F.pad(weights, (0, 0, 0, -len(codebook) % PART))
    weights[len(codebook) :, -1] = -torch.inf  # a code that only fills up is nearest to nothing
    return weights.t()


def _largest(scores: Tensor) -> Tensor:
    """Return where each row [N, K] is largest, the first place of several.

    On a CPU ``amax`` is many times faster than ``max`` with its place: it finds the part, which is then
    looked at.
    """
    parts = scores.unflatten(1, (-1, PART))
    part = parts.amax(2).max(1).indices
    rows = torch.arange(len(parts), device=parts.device) * parts.shape[1] + part
    within = parts.flatten(0, 1).index_select(0, rows).max(1).indices
    return part * PART + within


def straight_through(vectors: Tensor, codes: Tensor) -> Tensor:
    """Return the codes with the vectors' gradient (Bengio et al. 2013, arXiv 1308.3432)."""
    return vectors + (codes - vectors).detach()


def rotated(vectors: Tensor, codes: Tensor) -> Tensor:
    """Return the codes [N, D]; the gradient is rotated and scaled as vectors are into their codes.

    Source: Fifty et al. 2024 (arXiv 2410.06424), section 4.2; ``rotate_to`` of vector-quantize-pytorch.
    """
    start, end = F.normalize(vectors.detach(), dim=1), F.normalize(codes.detach(), dim=1)
    mirror = F.normalize(start + end, dim=1)
    turned = vectors - 2 * _along(vectors, mirror) * mirror + 2 * _along(vectors, start) * end
    scale = codes.detach().norm(dim=1, keepdim=True) / vectors.detach().norm(dim=1, keepdim=True).clamp(1e-6)
    return straight_through(turned * scale, codes)


def _along(vectors: Tensor, direction: Tensor) -> Tensor:
    return (vectors * direction).sum(1, keepdim=True)


@torch.no_grad()
def assigned(vectors: Tensor, indices: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """Return how many vectors each code has, float [K], and their sums [K, D]."""
    counts = torch.bincount(indices, minlength=codebook_size).to(vectors.dtype)
    sums = vectors.new_zeros(codebook_size, vectors.shape[1])
    return counts, sums.index_add_(0, indices, vectors)


@torch.no_grad()
def kmeans(vectors: Tensor, codebook_size: int, iterations: int, l2_norm: bool = False) -> Tensor:
    """Return a codebook [K, D] of cluster means; empty clusters go to random vectors."""
    codebook = pick(vectors, codebook_size)
    for _ in range(iterations):
        counts, sums = assigned(vectors, nearest(vectors, codebook), codebook_size)
        means = sums / counts.clamp(min=1).unsqueeze(1)
        means = F.normalize(means, dim=1) if l2_norm else means
        codebook = torch.where(counts.unsqueeze(1) > 0, means, pick(vectors, codebook_size))
    return codebook


def pick(vectors: Tensor, count: int) -> Tensor:
    """Draw so many of the vectors, with replacement."""
    return vectors[torch.randint(len(vectors), (count,), device=vectors.device)]
