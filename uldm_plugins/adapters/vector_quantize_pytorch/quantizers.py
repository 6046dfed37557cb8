"""Quantizers of vector-quantize-pytorch."""

from __future__ import annotations

from math import prod
from typing import Annotated

import vector_quantize_pytorch as library
from annotated_types import Ge, Interval, MinLen
from torch import Tensor, nn

Count = Annotated[int, Ge(1)]
Weight = Annotated[float, Ge(0)]
Decay = Annotated[float, Interval(ge=0, lt=1)]


class VectorQuantize(nn.Module):
    """``VectorQuantize`` where a quantizer is wanted. Options and defaults are the library's.

    Source: ``vector_quantize_pytorch.VectorQuantize``.

    Args:
        codebook_size: number of codes.
        dim: channels of the latents.
        decay: of the running means that the codes are.
        commitment_weight: of what pulls latents to their codes.
        kmeans_init: place the codebook on the first batch by k-means.
        threshold_ema_dead_code: use, in latents a batch, under which a code is replaced.
        use_cosine_sim: latents and codes are brought to length 1.
        rotation_trick: gradients pass by the rotation trick; without it, straight through.
    """

    def __init__(
        self,
        codebook_size: Count = 512,
        dim: Count = 4,
        decay: Decay = 0.8,
        commitment_weight: Weight = 1.0,
        kmeans_init: bool = False,
        threshold_ema_dead_code: Weight = 0,
        use_cosine_sim: bool = False,
        rotation_trick: bool = True,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.codebook_size = codebook_size
        self.layer = library.VectorQuantize(
            dim=dim,
            codebook_size=codebook_size,
            decay=decay,
            commitment_weight=commitment_weight,
            kmeans_init=kmeans_init,
            threshold_ema_dead_code=threshold_ema_dead_code,
            use_cosine_sim=use_cosine_sim,
            rotation_trick=rotation_trick,
            straight_through=not rotation_trick,
            accept_image_fmap=True,
        )

    def forward(self, latents: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the codes of latents [B, dim, h, w], the loss ``commitment``, and indices [B, h, w]."""
        codes, indices, loss = self.layer(latents)
        return codes, {"commitment": loss.sum()}, indices

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes [B, dim, h, w] of indices [B, h, w]."""
        return self.layer.get_output_from_indices(indices)


class ResidualVQ(nn.Module):
    """``ResidualVQ`` where a quantizer is wanted. Options and defaults are the library's.

    The latents go in as a sequence: version 1.32 fails on images.

    Source: ``vector_quantize_pytorch.ResidualVQ``.

    Args:
        codebook_size: number of codes of each layer.
        dim: channels of the latents.
        num_quantizers: number of layers, Q.
        decay: of the running means that the codes are.
        commitment_weight: of what pulls latents to their codes.
        kmeans_init: place the codebooks on the first batch by k-means.
        threshold_ema_dead_code: use, in latents a batch, under which a code is replaced.
    """

    def __init__(
        self,
        codebook_size: Count = 512,
        dim: Count = 4,
        num_quantizers: Count = 2,
        decay: Decay = 0.8,
        commitment_weight: Weight = 1.0,
        kmeans_init: bool = False,
        threshold_ema_dead_code: Weight = 0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.codebook_size = codebook_size
        self.layers = library.ResidualVQ(
            dim=dim,
            num_quantizers=num_quantizers,
            codebook_size=codebook_size,
            decay=decay,
            commitment_weight=commitment_weight,
            kmeans_init=kmeans_init,
            threshold_ema_dead_code=threshold_ema_dead_code,
        )

    def forward(self, latents: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the codes of latents [B, dim, h, w], the loss ``commitment``, and indices [B, Q, h, w]."""
        codes, indices, losses = self.layers(latents.flatten(2).mT)
        indices = indices.mT.unflatten(2, latents.shape[2:])
        return codes.mT.reshape(latents.shape), {"commitment": losses.sum()}, indices

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes [B, dim, h, w] of indices [B, Q, h, w]."""
        return self.layers.get_output_from_indices(indices.movedim(1, -1)).movedim(-1, 1)


class FSQ(nn.Module):
    """``FSQ`` where a quantizer is wanted; ``dim`` is the number of levels.

    Source: ``vector_quantize_pytorch.FSQ``.

    Args:
        levels: of each channel; the codebook has as many codes as their product.
    """

    def __init__(
        self,
        levels: Annotated[tuple[Annotated[int, Ge(2)], ...], MinLen(1)] = (8, 6, 5),
    ) -> None:
        super().__init__()
        self.dim = len(levels)
        self.codebook_size = prod(levels)
        self.layer = library.FSQ(list(levels))

    def forward(self, latents: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the codes of latents [B, dim, h, w], no losses, and indices [B, h, w]."""
        codes, indices = self.layer(latents)
        return codes, {}, indices

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes [B, dim, h, w] of indices [B, h, w]."""
        return self.layer.indices_to_codes(indices)
