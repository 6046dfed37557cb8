"""Vector quantization with a codebook that learns by gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uldm_plugins.quantizers.codebook import CodebookQuantizer, Decay, Iterations, Noise, Share, Size, Weight
from uldm_plugins.quantizers.codes import REVIVED, kmeans, pick


class VQ(CodebookQuantizer):
    """Nearest-code quantizer; the codebook is a parameter.

    The losses are mean (sg[z] - e)^2 (``codebook``) and beta mean (z - sg[e])^2 (``commitment``). A code
    that has become rare is put on a latent of the batch; the first training batch places the codebook by
    k-means.

    Source: van den Oord et al. 2017 (arXiv 1711.00937); ``VectorQuantizer(legacy=False)`` of diffusers and
    taming-transformers (whose legacy weighs the other side); revival as in Dhariwal et al. 2020
    (arXiv 2005.00341).

    Args:
        codebook_size: number of codes, K.
        dim: channels of the latents, D.
        commitment: beta, the weight of what pulls latents to their codes.
        l2_norm: latents and codes are brought to length 1 (Yu et al. 2022, arXiv 2110.04627).
        rotation: gradients pass by the rotation trick (Fifty et al. 2024, arXiv 2410.06424).
        revive_below: share of the mean use under which a code is dead; 0 revives none.
        decay: of the running use by which codes are revived.
        kmeans_iterations: of the start on the first batch; 0 leaves the codebook random.
        noise: in training, the greatest share of Gaussian noise in what the decoder gets: images are a
            little less sharp, and forgive a denoiser's errors (Yang et al. 2025, arXiv 2507.15856).
    """

    use: Tensor
    started: Tensor

    def __init__(
        self,
        codebook_size: Size = 512,
        dim: Size = 4,
        commitment: Weight = 0.25,
        l2_norm: bool = False,
        rotation: bool = False,
        revive_below: Share = 0.03,
        decay: Decay = 0.97,
        kmeans_iterations: Iterations = 8,
        noise: Noise = 0.0,
    ) -> None:
        super().__init__(codebook_size, dim, l2_norm, rotation, noise)
        self.commitment = commitment
        self.revive_below = revive_below
        self.decay = decay
        self.kmeans_iterations = kmeans_iterations
        self.codebook = nn.Parameter(torch.empty(codebook_size, dim).uniform_(-1, 1) / codebook_size)
        self.register_buffer("use", torch.ones(codebook_size))
        self.register_buffer("started", torch.tensor(False))

    def codes(self) -> Tensor:
        """Return the codebook [K, D]."""
        return F.normalize(self.codebook, dim=1) if self.l2_norm else self.codebook

    def losses(self, vectors: Tensor, codes: Tensor) -> dict[str, Tensor]:
        """Return ``codebook`` and ``commitment``."""
        return {
            "codebook": F.mse_loss(codes, vectors.detach()),
            "commitment": self.commitment * F.mse_loss(vectors, codes.detach()),
        }

    @torch.no_grad()
    def start(self, vectors: Tensor) -> None:
        """Place the codebook on the first batch."""
        if self.kmeans_iterations and not self.started:
            self.codebook.copy_(kmeans(vectors, self.codebook_size, self.kmeans_iterations, self.l2_norm))
            self.started.fill_(True)

    @torch.no_grad()
    def follow(self, vectors: Tensor, indices: Tensor) -> None:
        """Keep count of the use, in units of the mean, and put dead codes on latents."""
        if not self.revive_below:
            return
        counts = torch.bincount(indices, minlength=self.codebook_size)
        self.use.lerp_(counts.to(self.use) * (self.codebook_size / len(indices)), 1 - self.decay)
        dead = self.use < self.revive_below
        fresh = pick(vectors, self.codebook_size).to(self.codebook)
        # a new tensor: what the backward pass has kept of the old one stays as it was
        self.codebook.data = torch.where(dead.unsqueeze(1), fresh, self.codebook)
        self.use.masked_fill_(dead, REVIVED)
