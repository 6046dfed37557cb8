"""What quantizers with a codebook do alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval, Lt
from torch import Tensor, nn

from uldm_plugins.quantizers.codes import flatten, nearest, rotated, straight_through, unflatten

Size = Annotated[int, Ge(1)]
Weight = Annotated[float, Ge(0)]
Decay = Annotated[float, Interval(gt=0, lt=1)]
Share = Annotated[float, Ge(0), Lt(1)]
Iterations = Annotated[int, Ge(0)]
Noise = Annotated[float, Interval(ge=0, le=1)]


class CodebookQuantizer(nn.Module, ABC):
    """Takes each latent to its nearest code. A subclass defines the codes, and how they learn.

    Args:
        codebook_size: number of codes, K.
        dim: channels of the latents, D.
        l2_norm: latents and codes are brought to length 1: the nearest is the most similar in angle.
        rotation: gradients pass by the rotation trick, not straight through.
        noise: in training, the greatest share of Gaussian noise in what it returns; see ``with_noise``.
    """

    def __init__(
        self, codebook_size: int, dim: int, l2_norm: bool, rotation: bool, noise: float = 0.0
    ) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.dim = dim
        self.l2_norm = l2_norm
        self.noise = noise
        self.pass_gradient = rotated if rotation else straight_through

    @abstractmethod
    def codes(self) -> Tensor:
        """Return the codes [K, D]."""

    @abstractmethod
    def losses(self, vectors: Tensor, codes: Tensor) -> dict[str, Tensor]:
        """Return the weighted losses of vectors [N, D] and their codes."""

    def start(self, vectors: Tensor) -> None:
        """Place the codes before the first batch is quantized."""

    def follow(self, vectors: Tensor, indices: Tensor) -> None:
        """Learn from a batch of vectors and the indices of their codes."""

    def forward(self, latents: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Quantize latents [B, D, H, W].

        Returns:
            The codes with the latents' gradient, the weighted losses, and indices [B, H, W]. In training
            the codes have noise, if there is to be some; losses and codebook know nothing of it.
        """
        vectors = flatten(latents)
        vectors = F.normalize(vectors, dim=1) if self.l2_norm else vectors
        learns = self.training and not latents.is_meta  # of shapes alone there is nothing to learn
        if learns:
            self.start(vectors.detach())
        codebook = self.codes()
        indices = nearest(vectors.detach(), codebook)
        codes = codebook.index_select(0, indices).float()  # whose gradient is quicker than an embedding's
        losses = self.losses(vectors, codes)
        quantized = unflatten(self.pass_gradient(vectors, codes.detach()).to(latents.dtype), latents.shape)
        if learns:
            self.follow(vectors.detach(), indices)
        if learns and self.noise:
            quantized = with_noise(quantized, self.noise)
        return quantized, losses, indices.view(len(latents), *latents.shape[2:])

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes [B, D, H, W] of indices [B, H, W]."""
        return F.embedding(indices, self.codes()).movedim(-1, 1)


def with_noise(latents: Tensor, most: float) -> Tensor:
    """Return latents [B, D, H, W], each of them moved towards Gaussian noise by a share of its own.

    Shares are uniform from 0 to ``most``. The noise has the mean and deviation of each channel of the batch,
    as has what a denoiser begins with. A decoder that is trained on them is not put off by its errors.

    Source: the interpolative noise of Yang et al. 2025 (arXiv 2507.15856).
    """
    batch = latents.detach().float()
    mean, std = batch.mean((0, 2, 3), keepdim=True), batch.std((0, 2, 3), correction=0, keepdim=True)
    noise = (mean + std * torch.randn_like(batch)).to(latents.dtype)
    share = most * torch.rand(len(latents), 1, 1, 1, device=latents.device)
    return latents.lerp(noise, share.to(latents.dtype))
