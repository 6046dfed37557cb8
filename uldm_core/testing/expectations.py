"""What a check expects, and how it ends where a component does not hold to it or is not meant."""

from __future__ import annotations

import torch
from torch import Tensor


class Broken(AssertionError):
    """The component does not keep its contract; the message says in what."""


class Skip(Exception):
    """The check asks for what the component does not claim; the message says what."""


class NotApplicable(Skip):
    """The check is of another sort of component of the kind (a module, a trainer): it is not reported."""


def expect(holds: object, otherwise: str) -> None:
    """Raise ``Broken`` unless it holds."""
    if not holds:
        raise Broken(otherwise)


def expect_close(
    actual: Tensor, wanted: Tensor, otherwise: str, *, rtol: float = 1e-4, atol: float = 1e-5
) -> None:
    """Raise ``Broken`` unless two tensors agree in shape and, within the tolerances, in value."""
    expect(actual.shape == wanted.shape, f"{otherwise}: shapes {list(actual.shape)}, {list(wanted.shape)}")
    difference = (actual.detach().double() - wanted.detach().double()).abs()
    allowed = atol + rtol * wanted.detach().double().abs()
    expect(bool((difference <= allowed).all()), f"{otherwise}: they differ by up to {_worst(difference)}")


def expect_finite(tensor: Tensor, what: str) -> None:
    """Raise ``Broken`` if a tensor holds NaN or Inf."""
    expect(torch.isfinite(tensor.detach()).all(), f"{what} is not finite")


def _worst(difference: Tensor) -> str:
    return f"{difference.max().item():.3g}" if difference.numel() else "nothing"
