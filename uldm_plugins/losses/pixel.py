"""Distances pixel by pixel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


class L1:
    """Mean absolute difference."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return a scalar."""
        return F.l1_loss(prediction, target)


class L2:
    """Mean squared difference."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return a scalar."""
        return F.mse_loss(prediction, target)
