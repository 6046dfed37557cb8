"""What a component costs: parameters, FLOPs, memory. Measured on tensors that have shapes and no values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves
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


def activations(component: nn.Module, forward: Callable[[], object]) -> int:
    """Return the bytes that a forward pass in train mode keeps for the backward pass, beside parameters."""
    own = {t.untyped_storage()._cdata for t in (*component.parameters(), *component.buffers())}
    kept: dict[int, Tensor] = {}  # every storage once, held so that no other gets its number

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    component.train()
    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)


_SIDES = ((), (2,), (3, 4), (5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15, 16))
"""Of a small parameter of so many dimensions. All differ: the sides of a state identify its parameter."""


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
        state = tree_leaves(optimizer.state_dict())
    kept = [leaf for leaf in state if isinstance(leaf, Tensor) and leaf.numel() > 1]
    return sum(_enlarged(tensor, shape) for tensor in kept for shape in shapes)


def _enlarged(state: Tensor, shape: tuple[int, ...]) -> int:
    """Return the bytes of a small parameter's state for one of this shape; 0 if it is of another's."""
    sides = {1: 1, **dict(zip(_SIDES[len(shape)], shape))}
    if not all(side in sides for side in state.shape):
        return 0
    return state.element_size() * prod(sides[side] for side in state.shape)


def size_of(tensors: Iterable[Tensor]) -> int:
    """Return how many bytes tensors hold."""
    return sum(tensor.nbytes for tensor in tensors)
