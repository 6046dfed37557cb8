"""Distances pixel by pixel."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt
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


class Charbonnier:
    """Mean of sqrt(d^2 + epsilon^2) - epsilon: an absolute difference that is smooth at zero.

    The constant epsilon is taken off, so that equal images have no distance.

    Source: Charbonnier et al. 1994; Lai et al. 2017 (arXiv 1704.03915).

    Args:
        epsilon: where it turns from a square into an absolute difference.
    """

    def __init__(self, epsilon: Annotated[float, Gt(0)] = 1e-3) -> None:
        self.epsilon = epsilon

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return a scalar."""
        squares = (prediction - target).square()
        return (torch.sqrt(squares + self.epsilon**2) - self.epsilon).mean()


class Huber:
    """Mean of d^2 / 2 up to ``delta``, and of delta (|d| - delta / 2) beyond.

    Source: Huber 1964; ``torch.nn.HuberLoss``.

    Args:
        delta: where the square ends.
    """

    def __init__(self, delta: Annotated[float, Gt(0)] = 0.1) -> None:
        self.delta = delta

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return a scalar."""
        return F.huber_loss(prediction, target, delta=self.delta)
