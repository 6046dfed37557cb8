"""What a contract is: a kind's checks, one function each, and how a component of the kind is exercised."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from attrs import define, field, frozen
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from uldm_core.kinds import Kind

if TYPE_CHECKING:
    from uldm_core.testing.case import Case

CheckFunction = Callable[["Case"], None]


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


@frozen
class Check:
    """One property of a kind; its name is the function's, its docstring says it and why it matters."""

    name: str
    function: CheckFunction

    @property
    def summary(self) -> str:
        """The docstring's first line."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


@define
class Contract:
    """The checks of one kind, gathered with the decorator ``contract.check``.

    Where ``inputs`` are given and a component is an ``nn.Module``, the checks of every module run too.

    Args:
        options: what a recipe would fill in from its other components, and checks draw.
        inputs: draws what a component of the kind takes; ``(case, component) -> tensors``.
        call: exercises it with these inputs; by default it is called with them.
        in_full: exercises it so that all it returns is there, losses too; by default as ``call`` does.
        build: builds it once, with what its owner would pass; by default nothing.
        exercise: puts what ``build`` returned through all that it is there for, and returns what came of it,
            as nested tensors and numbers; by default it is called with ``inputs``.
        per_sample: the output's first dimension is the batch's.
        discrete: it picks codes, so that rounding may change its output by more than a little.
        same_dtype: what it returns has the dtype of what it takes.
        draws: it may draw from torch's global random state while it is exercised (dropout, say).
        remembers: it changes as it is used, by design: exercised again, it may answer otherwise.
    """

    options: Mapping[str, SearchStrategy[Any]] = field(factory=dict)
    inputs: Callable[[Case, Any], tuple[Tensor, ...]] | None = None
    call: Callable[..., Any] = lambda component, *inputs: component(*inputs)
    in_full: Callable[..., Any] | None = None
    build: Callable[[Case], Any] = lambda case: case.build()
    exercise: Callable[[Case, Any], Any] | None = None
    per_sample: bool = True
    discrete: bool = False
    same_dtype: bool = True
    draws: bool = False
    remembers: bool = False
    checks: list[Check] = field(factory=list, init=False)

    def check(self, function: CheckFunction) -> CheckFunction:
        """Add a check."""
        self.checks.append(Check(function.__name__, function))
        return function


def contract_of(kind: Kind) -> Contract:
    """Import a kind's contract; one whose kind brings none is empty."""
    if not kind.checks:
        return Contract()
    module, _, attribute = kind.checks.partition(":")
    contract = getattr(import_module(module), attribute)
    if not isinstance(contract, Contract):
        raise TypeError(f"kind {kind.name}: {kind.checks} is no Contract")
    return contract
