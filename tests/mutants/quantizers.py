"""Broken and sound quantizers."""

from __future__ import annotations

import torch

from mutants.catalogue import mutant
from uldm_plugins.quantizers.vq_ema import VQEma


@mutant("quantizer", killed_by="straight_through")
class DetachedStraightThrough(VQEma):
    """The whole of the straight-through estimator is detached: no gradient reaches the encoder."""

    def forward(self, latents):
        quantized, losses, indices = super().forward(latents)
        return quantized.detach(), losses, indices


@mutant("quantizer", killed_by="nearest_code")
class FarthestCode(VQEma):
    """argmax of the distance, for argmin."""

    def forward(self, latents):
        _, losses, indices = super().forward(latents)
        vectors = latents.movedim(1, -1).flatten(0, -2)
        indices = torch.cdist(vectors, self.codebook).argmax(1).view(indices.shape)
        return latents + (self.lookup(indices) - latents).detach(), losses, indices
