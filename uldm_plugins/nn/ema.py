"""Exponential moving average of a network's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class EMA:
    """Averages a module's parameters in float32; buffers (batch statistics, codebooks) are copied.

    The decay warms up as ``min(decay, (1 + n) / (10 + n))`` after ``n`` updates, so that the average
    forgets the initial weights (Polyak averaging as in tensorflow's ``ExponentialMovingAverage``).

    Args:
        module: the network that is trained.
        decay: of the average, in [0, 1); 0 keeps the last weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module
        self.decay = decay
        self.updates = 0
        self.parameters = [p.detach().float().clone() for p in module.parameters()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's weights after an optimizer step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        current = [p.detach().float() for p in self.module.parameters()]
        torch._foreach_lerp_(self.parameters, current, 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the averaged weights into the module."""
        for parameter, average in zip(self.module.parameters(), self.parameters):
            parameter.copy_(average)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages and how many updates made them."""
        return {"updates": self.updates, "parameters": self.parameters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.updates = state["updates"]
        for average, saved in zip(self.parameters, state["parameters"], strict=True):
            average.copy_(saved)
