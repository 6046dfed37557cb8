"""What every ``losses`` dict is held to: quantizers and autoencoders return one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from uldm_core.testing.expectations import expect, expect_finite


def check_losses(losses: object) -> None:
    """Expect a mapping of names to finite scalars, none below zero."""
    expect(isinstance(losses, Mapping), f"losses are {type(losses).__name__}, not a dict")
    assert isinstance(losses, Mapping)
    for name, loss in losses.items():
        expect(isinstance(name, str), f"a loss is called {name!r}")
        expect(isinstance(loss, Tensor) and loss.ndim == 0, f"{name} is no scalar tensor")
        expect_finite(loss, name)
        expect(loss.item() >= -1e-6, f"{name} is {loss.item():.3g}, below zero")


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the losses."""
    return torch.stack([loss.reshape(()) for loss in losses.values()]).sum() if losses else torch.zeros(())
