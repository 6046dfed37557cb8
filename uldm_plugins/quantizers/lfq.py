"""Lookup-free quantization: each channel's sign is a bit of the code."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from uldm_plugins.quantizers.codebook import Weight
from uldm_plugins.quantizers.codes import flatten, straight_through

LEAST = 1e-5
"""Probabilities below it have this one's logarithm, as the reference has it."""


class LFQ(nn.Module):
    """Rounds each of log2(K) channels to -1 or 1.

    In training mode ``entropy`` asks for confident bits and evenly used codes: w (mean H(p(z)) - gamma
    H(mean p(z)) + gamma log K), where p(z) is the softmax of 2 z.c / temperature over all codes c. The
    constant keeps it above zero. p(z) is a product over channels, so its mean over the batch is one matrix
    product of two halves; neither codebook nor [N, K] is ever formed.

    Source: Yu et al. 2024 (arXiv 2310.05737); ``LFQ`` of vector-quantize-pytorch (without
    the constant).

    Args:
        codebook_size: number of codes, K, a power of two; ``dim`` is its logarithm.
        entropy: w, the weight of the entropy loss.
        diversity: gamma, how much even use counts.
        temperature: of p(z).
        commitment: beta, the weight of mean (z - sg[e])^2.
    """

    basis: Tensor

    def __init__(
        self,
        codebook_size: Annotated[int, Ge(2)] = 512,
        entropy: Weight = 0.1,
        diversity: Weight = 1.0,
        temperature: Annotated[float, Gt(0)] = 0.01,
        commitment: Weight = 0.25,
    ) -> None:
        super().__init__()
        self.dim = codebook_size.bit_length() - 1
        if 2**self.dim != codebook_size:
            raise ValueError(f"codebook_size is {codebook_size}: it must be a power of two")
        self.codebook_size = codebook_size
        self.entropy = entropy
        self.diversity = diversity
        self.temperature = temperature
        self.commitment = commitment
        basis = 2 ** torch.arange(self.dim - 1, -1, -1)
        self.register_buffer("basis", basis.view(-1, 1, 1), persistent=False)

    def forward(self, latents: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Quantize latents [B, D, H, W].

        Returns:
            The codes with a straight-through gradient, ``commitment`` (and ``entropy``), indices [B, H, W].
        """
        values = latents.float()
        codes = torch.where(values > 0, 1.0, -1.0)
        losses = {"commitment": self.commitment * F.mse_loss(values, codes)}
        if self.training and self.entropy:
            losses["entropy"] = self.entropy * self._entropy(flatten(latents))
        indices = ((codes > 0) * self.basis).sum(1)
        return straight_through(values, codes).to(latents.dtype), losses, indices

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes [B, D, H, W] of indices [B, H, W]."""
        return ((indices.unsqueeze(1) & self.basis) != 0).float() * 2 - 1

    def _entropy(self, vectors: Tensor) -> Tensor:
        """Return the mean entropy of a vector's code, and how far the batch's falls short of even use."""
        logits = 4 * vectors / self.temperature
        sure = torch.sigmoid(logits)
        each = (F.softplus(logits) - logits * sure).sum(1).mean()
        high, low = sure.split((self.dim // 2, self.dim - self.dim // 2), dim=1)
        used = _joint(high).t() @ _joint(low) / len(vectors)
        short = used * (used.clamp(min=LEAST).log() + torch.tensor(self.codebook_size).log())
        return each + self.diversity * short.sum()


def _joint(sure: Tensor) -> Tensor:
    """Return the probabilities [N, 2^D] of all combinations of D independent bits [N, D]."""
    joint = sure.new_ones(len(sure), 1)
    for bit in sure.unbind(1):
        pair = torch.stack([1 - bit, bit], 1)
        joint = (joint.unsqueeze(2) * pair.unsqueeze(1)).flatten(1)
    return joint
