"""Moving averages of a network's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from uldm_core.protocols import Network

Decay = Callable[[int], float]
"""``n -> decay`` of the average at the update after ``n`` earlier ones."""


class EMA:
    """Averages a module's parameters in float32; buffers (batch statistics, codebooks) are copied.

    Source: ``torch.optim.swa_utils.AveragedModel``.

    Args:
        module: the network that is trained.
        decay: of the average, in [0, 1]: see ``warmed`` and ``power_function``.
    """

    def __init__(self, module: Network, decay: Decay) -> None:
        self.module = module
        self.decay = decay
        self.updates = 0
        self.parameters = [p.detach().float().clone() for p in module.parameters()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's weights after an optimizer step."""
        decay = self.decay(self.updates)
        self.updates += 1
        current = [p.detach().float() for p in self.module.parameters()]
        if current:
            torch._foreach_lerp_(self.parameters, current, 1 - decay)

    def apply(self) -> None:
        """Put the averaged weights into the module."""
        put(self.parameters, self.module)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the averaged weights in the module while the context lasts; then the others come back."""
        current = [parameter.detach().clone() for parameter in self.module.parameters()]
        self.apply()
        try:
            yield
        finally:
            put(current, self.module)

    def take(self, module_state: Mapping[str, Any], state: dict[str, Any]) -> None:
        """Load the states of the module and of this average, and leave the averaged weights in the module."""
        self.module.load_state_dict(dict(module_state))
        self.load_state_dict(state)
        self.apply()

    def state_dict(self) -> dict[str, Any]:
        """Return the averages and how many updates made them."""
        return {"updates": self.updates, "parameters": self.parameters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.updates = state["updates"]
        for average, saved in zip(self.parameters, state["parameters"], strict=True):
            average.copy_(saved)


class Snapshot:
    """An average as it was at one step of the training; empty before."""

    def __init__(self) -> None:
        self.parameters: list[torch.Tensor] = []

    def take(self, average: EMA) -> None:
        """Keep an average as it is now."""
        self.parameters = [parameter.clone() for parameter in average.parameters]

    def state_dict(self) -> dict[str, Any]:
        """Return the parameters that were kept, in their order."""
        return {"parameters": self.parameters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.parameters = list(state["parameters"])


@torch.no_grad()
def put(parameters: Iterable[torch.Tensor], module: Network) -> None:
    """Have a module take parameters, in the order of its own."""
    for own, other in zip(module.parameters(), parameters, strict=True):
        own.copy_(other)


def averaging(decay: float, std: float | None) -> Decay:
    """Return the power-function average of a width if there is one, else the exponential one."""
    return warmed(decay) if std is None else power_function(std)


def warmed(decay: float) -> Decay:
    """Return an exponential average that forgets the initial weights: min(decay, (1 + n) / (10 + n)).

    Source: tensorflow's ``ExponentialMovingAverage``.

    Args:
        decay: in [0, 1); 0 keeps the last weights.
    """
    return lambda updates: min(decay, (1 + updates) / (10 + updates))


def power_function(std: float) -> Decay:
    """Return an average whose memory grows with the training: (1 - 1 / t)^(gamma + 1) at update t.

    Source: Karras et al. 2024 (arXiv 2312.02696), equation 6 and appendix C.

    Args:
        std: width of the average, relative to the time trained; 0.05 to 0.10 is usual, below 0.28.
    """
    gamma = max(np.roots([1, 7, 16 - std**-2, 12 - std**-2]).real)
    return lambda updates: float((1 - 1 / (updates + 1)) ** (gamma + 1))
