"""A contract: a kind's checks, one function each, and the case that each is handed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import deepcopy
from importlib import import_module
from typing import Any, TypeVar

import torch
from attrs import define, field, frozen
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

from uldm_core.kinds import Kind
from uldm_core.testing import strategies
from uldm_core.testing.expectations import Skip
from uldm_core.testing.strategies import Pattern, Shape
from uldm_core.testing.subject import Subject
from uldm_core.testing.tensors import as_module, perturb, set_to_zero, tensors_in

CheckFunction = Callable[["Case"], None]
T = TypeVar("T")
BUILD_SEED = 1


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


@define
class Case:
    """What a check function is handed: it draws from it, builds the component by it, and calls it.

    Args:
        subject: the component under check.
        contract: of its kind.
        device: where the tensors are that it hands out.
        drawn: every value drawn so far, by its label: the example that a report shows.
    """

    subject: Subject
    contract: Contract
    _draw: Callable[[st.SearchStrategy[Any]], Any]
    device: str = "cpu"
    drawn: dict[str, Any] = field(factory=dict)

    def draw(self, strategy: st.SearchStrategy[T], label: str) -> T:
        """Draw a value; a label is drawn for once, asked again it gives the same value."""
        if label not in self.drawn:
            self.drawn[label] = self._draw(strategy)
        value: T = self.drawn[label]
        return value

    def option(self, name: str, strategy: st.SearchStrategy[Any]) -> Any:
        """Draw a value for an option of the component, if a check may set it; else return None."""
        if name in self.subject.optional:
            strategy = st.none() | strategy
        return self.draw(strategy, name) if self.subject.inferred(name) else None

    def build(self, *args: Any, seed: int = BUILD_SEED, **options: Any) -> Any:
        """Build the component anew, its weights drawn from the seed, with the options drawn so far."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.subject.factory(*args, **{**self.given(), **options})

    def copy(self, **options: Any) -> Any:
        """Return the component as ``build`` makes it: a copy of one built before, where that is as good."""
        return self._copied(lambda component: component, options)

    def module(self, **options: Any) -> nn.Module:
        """Return such a copy of a module, its weights moved off their start, or raise ``NotApplicable``."""
        return self._copied(_perturbed, options)

    def _copied(self, prepare: Callable[[Any], T], options: Mapping[str, Any]) -> T:
        if not self.subject.copies:
            return prepare(self.build(**options))
        key = prepare.__name__, *sorted({**self.given(), **options}.items())
        if key not in self.subject.originals:
            self.subject.originals[key] = prepare(self.build(**options))
        original: T = self.subject.originals[key]
        return deepcopy(original)

    def given(self) -> dict[str, Any]:
        """Return what a recipe would fill in from its other components, as drawn for this example."""
        drawn = {name: self.option(name, strategy) for name, strategy in self.contract.options.items()}
        return {name: value for name, value in drawn.items() if value is not None}

    def inputs(self, component: object) -> tuple[Tensor, ...]:
        """Draw what the component takes."""
        if self.contract.inputs is None:
            raise Skip(f"kind {self.subject.kind} says nothing of its inputs")
        return tuple(tensor.to(self.device) for tensor in self.contract.inputs(self, component))

    def call(self, component: object, *inputs: Tensor) -> Any:
        """Exercise the component; what it draws at random is the same each time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.contract.call(component, *inputs)

    def call_in_full(self, component: object, *inputs: Tensor) -> Any:
        """Exercise the component for everything that its parameters influence."""
        return (self.contract.in_full or self.contract.call)(component, *inputs)

    def exercise(self, built: object) -> Any:
        """Put what ``contract.build`` returned through all that it is there for, always in the same way."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if self.contract.exercise:
                return self.contract.exercise(self, built)
            return self.contract.call(built, *map(_with_graph, self.inputs(built)))

    def batch(self, low: int = 1, high: int = 3) -> int:
        """Draw a batch size."""
        return self.draw(strategies.batch_sizes(low, high), "batch")

    def seed(self) -> int:
        """Draw a seed."""
        return self.draw(strategies.seeds(), "seed")

    def normal(self, *shape: int, salt: int = 0) -> Tensor:
        """Return standard normal values that the drawn seed decides."""
        return strategies.normal(shape, 1000 * salt + self.seed()).to(self.device)

    def images(self, shape: Shape, pattern: Pattern = "noise") -> Tensor:
        """Return images in [-1, 1]."""
        seed = self.seed() if pattern == "noise" else 0
        return strategies.fill_images(shape, pattern, seed).to(self.device)


def _with_graph(tensor: Tensor) -> Tensor:
    """Return what a network would hand on: floats that have a graph behind them."""
    return tensor.requires_grad_().clone() if tensor.is_floating_point() else tensor


def _perturbed(component: object) -> nn.Module:
    return perturb(as_module(component))


def copies_well(case: Case, component: object) -> bool:
    """Whether deep copies of a module answer as it does, and still do after it has changed."""
    if not isinstance(component, nn.Module):
        return False
    try:
        copy = deepcopy(component.eval())
        wanted, *answers = (case.call(each, *case.inputs(each)) for each in (component, copy))
        set_to_zero(component)
        answers.append(case.call(copy, *case.inputs(copy)))
    except Exception:  # a fault, which is for the checks to find
        return False
    return all(
        torch.equal(one, other)
        for answer in answers
        for one, other in zip(tensors_in(answer), tensors_in(wanted), strict=True)
    )
