"""One example of a check: what was drawn for it, and the component built for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, TypeVar

import torch
from attrs import define, field
from hypothesis import strategies as st
from torch import Tensor, nn

from uldm_core.testing import strategies
from uldm_core.testing.contract import Contract, NotApplicable, Skip
from uldm_core.testing.strategies import Pattern, Shape
from uldm_core.testing.subject import Subject

T = TypeVar("T")
BUILD_SEED = 1


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


def tensors_in(value: object) -> list[Tensor]:
    """Return the tensors inside nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def floats_in(value: object) -> list[Tensor]:
    """Return the floating-point tensors inside nested tuples, lists and dicts."""
    return [tensor for tensor in tensors_in(value) if tensor.is_floating_point()]


def sum_of(value: object) -> Tensor:
    """Return one scalar that every float inside depends on, each element by its own amount."""
    total = torch.zeros(())
    for index, tensor in enumerate(floats_in(value)):
        weights = strategies.normal(tuple(tensor.shape), index).to(tensor)
        total = total + (tensor * weights).sum().float()
    return total


@torch.no_grad()
def set_to_zero(component: nn.Module) -> None:
    """Set every parameter and buffer to 0, in place."""
    for tensor in (*component.parameters(), *component.buffers()):
        tensor.zero_()


@torch.no_grad()
def perturb(component: nn.Module, amount: float = 0.05) -> nn.Module:
    """Move every trained parameter a little, so that branches that start as nothing show what they do."""
    generator = torch.Generator().manual_seed(7)
    for parameter in component.parameters():
        if parameter.requires_grad:
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator).to(parameter))
    return component


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


def as_module(component: object) -> nn.Module:
    """Return a component that is an ``nn.Module``; of any other raise ``NotApplicable``."""
    if not isinstance(component, nn.Module):
        raise NotApplicable("it is no nn.Module")
    return component


def set_mode(component: T, *, training: bool) -> T:
    """Set a component's mode, if it is a module and so has one, and return it."""
    if isinstance(component, nn.Module):
        component.train(training)
    return component


def trainable(component: object) -> list[nn.Parameter]:
    """Return the parameters that require grad; none of what is no module."""
    parameters = component.parameters() if isinstance(component, nn.Module) else ()
    return [parameter for parameter in parameters if parameter.requires_grad]


def copy_of_state(component: object) -> dict[str, Tensor]:
    """Return a copy of its parameters and buffers, by name; nothing of what has no state."""
    state = component.state_dict() if hasattr(component, "state_dict") else {}
    return {name: tensor.detach().clone() for name, tensor in state.items()}
