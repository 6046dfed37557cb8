"""SimVQ: a frozen random codebook under one learned linear map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uldm_plugins.quantizers.codebook import CodebookQuantizer, Size, Weight


class SimVQ(CodebookQuantizer):
    """Nearest-code quantizer; the codes are C W, where C is random and stays so, and W learns.

    A gradient to one code moves all of them, so none is left behind. Losses as for ``vq``.

    Source: Zhu et al. 2024 (arXiv 2411.02038); ``SimVQ`` of vector-quantize-pytorch.

    Args:
        codebook_size: number of codes, K.
        dim: channels of the latents, D.
        commitment: beta, the weight of what pulls latents to their codes.
        l2_norm: latents and codes are brought to length 1.
        rotation: gradients pass by the rotation trick (Fifty et al. 2024, arXiv 2410.06424).
    """

    frozen: Tensor

    def __init__(
        self,
        codebook_size: Size = 512,
        dim: Size = 4,
        commitment: Weight = 0.25,
        l2_norm: bool = False,
        rotation: bool = True,
    ) -> None:
        super().__init__(codebook_size, dim, l2_norm, rotation)
        self.commitment = commitment
        self.map = nn.Linear(dim, dim, bias=False)
        self.register_buffer("frozen", torch.randn(codebook_size, dim) * dim**-0.5)

    def codes(self) -> Tensor:
        """Return the codes [K, D]."""
        codes = self.map(self.frozen)
        return F.normalize(codes, dim=1) if self.l2_norm else codes

    def losses(self, vectors: Tensor, codes: Tensor) -> dict[str, Tensor]:
        """Return ``codebook`` and ``commitment``."""
        return {
            "codebook": F.mse_loss(codes, vectors.detach()),
            "commitment": self.commitment * F.mse_loss(vectors, codes.detach()),
        }
