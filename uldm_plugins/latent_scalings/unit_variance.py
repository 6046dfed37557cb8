"""Latents to zero mean and unit variance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn


class UnitVariance(nn.Module):
    """Shifts and scales latents [B, C, H, W] so that the training set has mean 0 and variance 1.

    The statistics are measured over a full pass and kept as buffers, so they travel with the weights.

    Args:
        channels: of the latents.
        per_channel: measure each channel by itself; else one mean and variance for all.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: Annotated[int, Ge(1)], per_channel: bool = True) -> None:
        super().__init__()
        self.per_channel = per_channel
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Measure mean and standard deviation over all batches, in float64."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for batch in batches:
            values = batch.double()
            count += values.numel() // values.shape[1]
            total = total + values.sum((0, 2, 3))
            squares = squares + values.square().sum((0, 2, 3))
        mean, square = total / count, squares / count
        if not self.per_channel:
            mean, square = mean.mean().expand_as(mean), square.mean().expand_as(square)
        self.mean.copy_(mean)
        self.std.copy_((square - mean.square()).clamp(min=1e-12).sqrt())

    def normalize(self, latents: Tensor) -> Tensor:
        """Map an autoencoder's latents to what the denoiser sees."""
        return (latents - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1)

    def denormalize(self, latents: Tensor) -> Tensor:
        """Map back."""
        return latents * self.std.view(1, -1, 1, 1) + self.mean.view(1, -1, 1, 1)
