"""Vector quantization with a codebook that follows the latents by moving averages."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval, Lt
from torch import Tensor, nn

from uldm_plugins.quantizers.codes import flatten, nearest, straight_through, unflatten


class VQEma(nn.Module):
    """Nearest-code quantizer; the codebook is the running mean of the latents assigned to each code.

    In training mode: N <- g N + (1 - g) n and m <- g m + (1 - g) sum z for each code, with
    e = m / N; counts start at one. A code whose count falls below ``revive_below`` of the mean count is
    put on a latent of the batch. The first training batch places the codebook by k-means.

    Source: van den Oord et al. 2017 (arXiv 1711.00937), appendix A.1; revival as in Dhariwal et al. 2020
    (arXiv 2005.00341).

    Args:
        codebook_size: number of codes, K.
        dim: channels of the latents, D.
        decay: g of the moving averages.
        commitment: beta, the weight of mean (z - sg[e])^2.
        revive_below: share of the mean count under which a code is dead; 0 revives none.
        kmeans_iterations: of the start on the first batch; 0 leaves the codebook random.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(
        self,
        codebook_size: Annotated[int, Ge(1)] = 512,
        dim: Annotated[int, Ge(1)] = 4,
        decay: Annotated[float, Interval(gt=0, lt=1)] = 0.97,
        commitment: Annotated[float, Ge(0)] = 0.25,
        revive_below: Annotated[float, Ge(0), Lt(1)] = 0.03,
        kmeans_iterations: Annotated[int, Ge(0)] = 8,
    ) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.dim = dim
        self.decay = decay
        self.commitment = commitment
        self.revive_below = revive_below
        self.kmeans_iterations = kmeans_iterations
        codebook = torch.randn(codebook_size, dim)
        self.register_buffer("codebook", codebook)
        self.register_buffer("counts", torch.ones(codebook_size))
        self.register_buffer("sums", codebook.clone())
        self.register_buffer("started", torch.tensor(False))

    def forward(self, latents: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Quantize latents [B, D, H, W].

        Returns:
            The codes with a straight-through gradient, ``{"commitment": scalar}``, indices [B, H, W].
        """
        vectors = flatten(latents)
        if self.training:
            self._start(vectors.detach())
        indices = nearest(vectors.detach(), self.codebook)
        codes = self.codebook[indices].float()
        loss = self.commitment * F.mse_loss(vectors, codes)
        quantized = straight_through(latents, unflatten(codes, latents.shape))
        if self.training:
            self._follow(vectors.detach(), indices)
        return quantized, {"commitment": loss}, indices.view(len(latents), *latents.shape[2:])

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes [B, D, H, W] of indices [B, H, W]."""
        return self.codebook[indices].movedim(-1, 1)

    @torch.no_grad()
    def _start(self, vectors: Tensor) -> None:
        """Place the codebook on the first batch (k-means, empty clusters to random latents)."""
        if self.started or not self.kmeans_iterations:
            return
        self.codebook.copy_(_pick(vectors, self.codebook_size))
        for _ in range(self.kmeans_iterations):
            counts, sums = self._assigned(vectors, nearest(vectors, self.codebook))
            self._place(sums / counts.clamp(min=1).unsqueeze(1), counts > 0, vectors)
        self.counts.fill_(1.0)
        self.sums.copy_(self.codebook)
        self.started.fill_(True)

    @torch.no_grad()
    def _follow(self, vectors: Tensor, indices: Tensor) -> None:
        """Update the averages, in units of the mean count a code, and move dead codes."""
        counts, sums = self._assigned(vectors, indices)
        mean = len(vectors) / self.codebook_size
        self.counts.lerp_(counts / mean, 1 - self.decay)
        self.sums.lerp_(sums / mean, 1 - self.decay)
        alive = self.counts >= self.revive_below
        self._place(self.sums / self.counts.clamp(min=1e-5).unsqueeze(1), alive, vectors)
        # a revived code starts with a modest count, or the next update would overrule its place
        self.counts.copy_(torch.where(alive, self.counts, 0.3))
        self.sums.copy_(torch.where(alive.unsqueeze(1), self.sums, 0.3 * self.codebook))

    def _place(self, means: Tensor, alive: Tensor, vectors: Tensor) -> None:
        """Set the codebook to the means, and codes that are not alive to random latents."""
        self.codebook.copy_(torch.where(alive.unsqueeze(1), means, _pick(vectors, self.codebook_size)))

    def _assigned(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        counts = torch.bincount(indices, minlength=self.codebook_size).to(self.counts.dtype)
        return counts, torch.zeros_like(self.sums).index_add_(0, indices, vectors.to(self.sums.dtype))


def _pick(vectors: Tensor, count: int) -> Tensor:
    """Draw so many of the vectors, with replacement."""
    return vectors[torch.randint(len(vectors), (count,), device=vectors.device)].to(torch.float32)
