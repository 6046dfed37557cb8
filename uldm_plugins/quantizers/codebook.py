"""What quantizers with a codebook do alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge, Interval, Lt
from torch import Tensor, nn

from uldm_plugins.quantizers.codes import flatten, nearest, rotated, straight_through, unflatten

Size = Annotated[int, Ge(1)]
Weight = Annotated[float, Ge(0)]
Decay = Annotated[float, Interval(gt=0, lt=1)]
Share = Annotated[float, Ge(0), Lt(1)]
Iterations = Annotated[int, Ge(0)]


class CodebookQuantizer(nn.Module, ABC):
    """Takes each latent to its nearest code. A subclass defines the codes, and how they learn.

    Args:
        codebook_size: number of codes, K.
        dim: channels of the latents, D.
        l2_norm: latents and codes are brought to length 1: the nearest is the most similar in angle.
        rotation: gradients pass by the rotation trick, not straight through.
    """

    def __init__(self, codebook_size: int, dim: int, l2_norm: bool, rotation: bool) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.dim = dim
        self.l2_norm = l2_norm
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
            The codes with the latents' gradient, the weighted losses, and indices [B, H, W].
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
        quantized = self.pass_gradient(vectors, codes.detach()).to(latents.dtype)
        if learns:
            self.follow(vectors.detach(), indices)
        return unflatten(quantized, latents.shape), losses, indices.view(len(latents), *latents.shape[2:])

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes [B, D, H, W] of indices [B, H, W]."""
        return F.embedding(indices, self.codes()).movedim(-1, 1)
