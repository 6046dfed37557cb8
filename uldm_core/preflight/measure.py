"""What a component costs: parameters, FLOPs, memory. Measured on tensors that have shapes and no values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import Any

import torch
from attrs import define, field
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode

from uldm_core.protocols import Thawable


def parameters_of(component: object) -> list[nn.Parameter]:
    """Return a module's parameters, those without a shape yet excepted; of anything else, none."""
    own = component.parameters() if isinstance(component, nn.Module) else ()
    return [parameter for parameter in own if not is_lazy(parameter)]


def trainable(component: object) -> list[nn.Parameter]:
    """Return the parameters that a stage would train."""
    return [parameter for parameter in parameters_of(component) if parameter.requires_grad]


def thaw(component: object) -> None:
    """Make a network that is frozen one to be trained, as the stage does that trains it all the same."""
    if isinstance(component, nn.Module) and not trainable(component):
        if isinstance(component, Thawable):
            component.thaw()
        else:
            component.requires_grad_()


def flops(component: object, forward: Callable[[], object]) -> tuple[object, int]:
    """Return what a forward pass in eval mode gives, and its floating-point operations.

    A multiplication and its addition are two.
    """
    if isinstance(component, nn.Module):
        component.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = forward()
    return output, int(counter.get_total_flops())


@define
class Saved:
    """Counts the bytes that a forward pass keeps for the backward pass, every storage once."""

    skipped: set[int]
    kept: dict[int, Tensor] = field(factory=dict)

    def note(self, tensor: Tensor) -> Tensor:
        """Take note of a tensor that is kept."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.skipped:
            self.kept[storage._cdata] = tensor  # which keeps the storage, so that no other gets its number
        return tensor

    @property
    def bytes(self) -> int:
        """How many bytes are kept."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self.kept.values())


def activations(component: nn.Module, forward: Callable[[], object]) -> int:
    """Return the bytes that a forward pass in train mode keeps for the backward pass, beside parameters."""
    own = [*component.parameters(), *component.buffers()]
    saved = Saved({tensor.untyped_storage()._cdata for tensor in own})
    component.train()
    with torch.enable_grad(), saved_tensors_hooks(saved.note, lambda tensor: tensor):
        forward()
    return saved.bytes


_SIDES = ((), (2,), (3, 4), (5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15, 16))
"""Of a small parameter of so many dimensions. No two are equal: the sides of a state tell whose they are."""


def optimizer_state(make: Callable[[list[nn.Parameter]], Any], parameters: Iterable[nn.Parameter]) -> int:
    """Return the bytes that an optimizer keeps after a step, its few counters excepted.

    Fused optimizers do nothing without values, so it takes a step with small parameters, which have some, and
    what it keeps of these is enlarged. Raises whatever the optimizer raises.
    """
    shapes = [tuple(parameter.shape) for parameter in parameters]
    with torch._C.DisableTorchFunction():  # which lets values be
        small = [nn.Parameter(torch.ones(_SIDES[count], device="cpu")) for count in {*map(len, shapes)}]
        for parameter in small:
            parameter.grad = torch.ones_like(parameter)
        optimizer = make(small)
        optimizer.step()
        kept = [tensor for tensor in _tensors(optimizer.state_dict()) if tensor.numel() > 1]
    return sum(_enlarged(tensor, shape) for tensor in kept for shape in shapes)


def _enlarged(state: Tensor, shape: tuple[int, ...]) -> int:
    """Return the bytes of a small parameter's state for one of this shape; 0 if it is of another's."""
    sides = {1: 1, **dict(zip(_SIDES[len(shape)], shape))}
    if not all(side in sides for side in state.shape):
        return 0
    return state.element_size() * prod(sides[side] for side in state.shape)


def _tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors inside nested tables and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def size_of(tensors: Iterable[Tensor]) -> int:
    """Return how many bytes tensors hold."""
    return sum(tensor.nbytes for tensor in tensors)
