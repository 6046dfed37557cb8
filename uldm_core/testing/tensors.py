"""Tensors inside nested values, and the state of components."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from uldm_core.testing import strategies
from uldm_core.testing.expectations import NotApplicable

T = TypeVar("T")


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
