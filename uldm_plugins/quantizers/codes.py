"""What quantizers with a codebook share."""

from __future__ import annotations

import torch
from torch import Tensor


def flatten(latents: Tensor) -> Tensor:
    """Return latents [B, D, H, W] as float32 vectors [B H W, D]."""
    return latents.movedim(1, -1).reshape(-1, latents.shape[1]).float()


def unflatten(vectors: Tensor, shape: torch.Size) -> Tensor:
    """Return vectors [B H W, D] as latents of the shape [B, D, H, W]."""
    batch, dim, *spatial = shape
    return vectors.view(batch, *spatial, dim).movedim(-1, 1)


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the nearest code of each vector, int64 [N].

    argmin |z - e|^2 = argmax (z.e - |e|^2 / 2): one matrix product, no distance is formed.
    """
    codebook = codebook.float()
    half_norms = codebook.square().sum(1).div_(2)
    with torch.autocast(vectors.device.type, enabled=False):
        return torch.addmm(-half_norms, vectors, codebook.t()).argmax(1)


def straight_through(latents: Tensor, quantized: Tensor) -> Tensor:
    """Return the quantized values with the latents' gradient (Bengio et al. 2013, arXiv 1308.3432)."""
    return latents + (quantized.to(latents.dtype) - latents).detach()
