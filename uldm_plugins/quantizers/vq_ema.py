"""Vector quantization with a codebook that follows the latents by moving averages."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from uldm_plugins.quantizers.codebook import CodebookQuantizer, Decay, Iterations, Noise, Share, Size, Weight
from uldm_plugins.quantizers.codes import REVIVED, assigned, kmeans, pick

EPS = 1e-5


class VQEma(CodebookQuantizer):
    """Nearest-code quantizer; the codebook is the running mean of the latents assigned to each code.

    In training mode N <- g N + (1 - g) n and m <- g m + (1 - g) sum z for each code, N^ = (N + eps) /
    (sum N + K eps) sum N, and e = m / N^; N starts at one. A code whose count falls below ``revive_below``
    of the mean is put on a latent of the batch. The first training batch places the codebook by k-means.

    Source: van den Oord et al. 2017 (arXiv 1711.00937), appendix A.1; ``VectorQuantize`` of
    vector-quantize-pytorch; revival as in Dhariwal et al. 2020 (arXiv 2005.00341).

    Args:
        codebook_size: number of codes, K.
        dim: channels of the latents, D.
        decay: g of the moving averages.
        commitment: beta, the weight of mean (z - sg[e])^2.
        revive_below: share of the mean count under which a code is dead; 0 revives none.
        kmeans_iterations: of the start on the first batch; 0 leaves the codebook random.
        l2_norm: latents and codes are brought to length 1 (Yu et al. 2022, arXiv 2110.04627).
        rotation: gradients pass by the rotation trick (Fifty et al. 2024, arXiv 2410.06424).
        noise: in training, the greatest share of Gaussian noise in what the decoder gets: images are a
            little less sharp, and forgive a denoiser's errors (Yang et al. 2025, arXiv 2507.15856).
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(
        self,
        codebook_size: Size = 512,
        dim: Size = 4,
        decay: Decay = 0.97,
        commitment: Weight = 0.25,
        revive_below: Share = 0.03,
        kmeans_iterations: Iterations = 8,
        l2_norm: bool = False,
        rotation: bool = False,
        noise: Noise = 0.0,
    ) -> None:
        super().__init__(codebook_size, dim, l2_norm, rotation, noise)
        self.decay = decay
        self.commitment = commitment
        self.revive_below = revive_below
        self.kmeans_iterations = kmeans_iterations
        codebook = torch.randn(codebook_size, dim)
        self.register_buffer("codebook", F.normalize(codebook, dim=1) if l2_norm else codebook)
        self.register_buffer("counts", torch.ones(codebook_size))
        self.register_buffer("sums", self.codebook.clone())
        self.register_buffer("started", torch.tensor(False))

    def codes(self) -> Tensor:
        """Return the codebook [K, D]."""
        return self.codebook

    def losses(self, vectors: Tensor, codes: Tensor) -> dict[str, Tensor]:
        """Return ``commitment``."""
        return {"commitment": self.commitment * F.mse_loss(vectors, codes)}

    @torch.no_grad()
    def start(self, vectors: Tensor) -> None:
        """Place the codebook on the first batch, as if every code had the mean count for long."""
        if self.kmeans_iterations and not self.started:
            self.codebook.copy_(kmeans(vectors, self.codebook_size, self.kmeans_iterations, self.l2_norm))
            self.counts.fill_(len(vectors) / self.codebook_size)
            self.sums.copy_(self.codebook * self.counts.unsqueeze(1))
            self.started.fill_(True)

    @torch.no_grad()
    def follow(self, vectors: Tensor, indices: Tensor) -> None:
        """Update the averages, and move dead codes."""
        counts, sums = assigned(vectors, indices, self.codebook_size)
        self.counts.lerp_(counts.to(self.counts), 1 - self.decay)
        self.sums.lerp_(sums.to(self.sums), 1 - self.decay)
        total = self.counts.sum()
        smoothed = (self.counts + EPS) / (total + self.codebook_size * EPS) * total
        means = self.sums / smoothed.unsqueeze(1)
        codebook = F.normalize(means, dim=1) if self.l2_norm else means
        if self.revive_below:
            codebook = self._revived(codebook, vectors)
        # a new tensor: what the backward pass has kept of the old one stays as it was
        self.codebook = codebook.to(self.codebook)

    def _revived(self, codebook: Tensor, vectors: Tensor) -> Tensor:
        """Return the codebook with random latents in place of codes that are hardly used."""
        mean = self.counts.mean()
        dead = (self.counts < self.revive_below * mean).unsqueeze(1)
        codebook = torch.where(dead, pick(vectors, self.codebook_size), codebook)
        self.counts.copy_(torch.where(dead[:, 0], REVIVED * mean, self.counts))
        self.sums.copy_(torch.where(dead, REVIVED * mean * codebook, self.sums))
        return codebook
