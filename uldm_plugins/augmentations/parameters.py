"""Parameters that are drawn for some images, and the places in images that they speak of."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Generator, Tensor

Probability = Annotated[float, Interval(gt=0, lt=1)]


def uniform(n: int, count: int, generator: Generator) -> Tensor:
    """Return values between -1 and 1, float32 [n, count]."""
    return 2 * torch.rand(n, count, generator=generator) - 1


def for_some(values: Tensor, probability: float, generator: Generator) -> Tensor:
    """Return parameters [n, P] of which each row is kept with a probability, and else all 0."""
    kept = torch.rand(len(values), 1, generator=generator) < probability
    return torch.where(kept, values, 0.0)


def gathered(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return images [B, C, H, W] whose pixels come from these rows [B, H] and columns [B, W] of each."""
    rows, columns = rows[:, None, :, None], columns[:, None, None, :]
    images = images.gather(2, rows.expand(-1, images.shape[1], -1, images.shape[3]))
    return images.gather(3, columns.expand(-1, images.shape[1], images.shape[2], -1))
