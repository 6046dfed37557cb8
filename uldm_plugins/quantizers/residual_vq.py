"""Residual vector quantization: each codebook quantizes what those before it left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from uldm_plugins.quantizers.codebook import Decay, Iterations, Share, Size, Weight
from uldm_plugins.quantizers.codes import flatten, rotated, straight_through, unflatten
from uldm_plugins.quantizers.vq_ema import VQEma


class ResidualVQ(nn.Module):
    """A sum of codes, one of each of several ``vq_ema`` codebooks, coarse to fine: K^Q combinations.

    Source: Zeghidour et al. 2021 (arXiv 2107.03312), algorithm 1; ``ResidualVQ`` of vector-quantize-pytorch.

    Args:
        codebook_size: number of codes of each codebook, K.
        dim: channels of the latents, D.
        num_quantizers: number of codebooks, Q.
        decay: of the codebooks' moving averages.
        commitment: beta of each codebook; ``commitment`` is the sum over codebooks.
        revive_below: share of the mean count under which a code is dead; 0 revives none.
        kmeans_iterations: of the start on the first batch; 0 leaves the codebooks random.
        rotation: gradients pass by the rotation trick, not straight through.
    """

    def __init__(
        self,
        codebook_size: Size = 512,
        dim: Size = 4,
        num_quantizers: Size = 2,
        decay: Decay = 0.97,
        commitment: Weight = 0.25,
        revive_below: Share = 0.03,
        kmeans_iterations: Iterations = 8,
        rotation: bool = False,
    ) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.dim = dim
        self.pass_gradient = rotated if rotation else straight_through
        options = (codebook_size, dim, decay, commitment, revive_below, kmeans_iterations)
        layers = nn.ModuleList(VQEma(*options) for _ in range(num_quantizers))
        self.layers = cast("Sequence[VQEma]", layers)

    def forward(self, latents: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Quantize latents [B, D, H, W].

        Returns:
            The sums of codes with the latents' gradient, ``{"commitment": scalar}``, indices [B, Q, H, W].
        """
        residual, found, loss = latents.float(), [], latents.new_zeros((), dtype=torch.float32)
        total = torch.zeros_like(residual)
        for layer in self.layers:
            codes, losses, indices = layer(residual)
            total = total + codes.detach()
            residual = residual - codes.detach()
            loss = loss + losses["commitment"]
            found.append(indices)
        quantized = self.pass_gradient(flatten(latents), flatten(total)).to(latents.dtype)
        return unflatten(quantized, latents.shape), {"commitment": loss}, torch.stack(found, 1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the sums of codes [B, D, H, W] of indices [B, Q, H, W]."""
        codes = [layer.lookup(index) for layer, index in zip(self.layers, indices.unbind(1))]
        return torch.stack(codes).sum(0)
