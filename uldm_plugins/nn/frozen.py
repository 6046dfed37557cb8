"""Networks that are used, not trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

from uldm_core.protocols import Network

Self = TypeVar("Self", bound="Frozen")
AnyNetwork = TypeVar("AnyNetwork", bound=Network)


class Frozen(nn.Module):
    """A module that stays frozen: no parameter requires grad, and ``train()`` changes nothing.

    Gradients still flow through it to its input. ``thaw`` is for whoever trains it in the first place.
    """

    _thawed = False

    def freeze(self: Self) -> Self:
        """Freeze, and return itself. A subclass calls it at the end of its ``__init__``."""
        self._thawed = False
        self.requires_grad_(False)
        return self.train(False)

    def thaw(self: Self) -> Self:
        """Make it an ordinary module, to train it."""
        self._thawed = True
        return self.requires_grad_(True)

    def train(self: Self, mode: bool = True) -> Self:
        """Set train mode only if thawed."""
        return super().train(mode and self._thawed)


@contextmanager
def without_gradients(module: AnyNetwork) -> Iterator[AnyNetwork]:
    """Keep gradients out of a module's parameters while others flow through it."""
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield module
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
