"""What a component costs: parameters, FLOPs, memory. Measured on tensors that have shapes and no values."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from attrs import define
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode

from uldm_core.protocols import Thawable


@define
class StepMemory:
    """Bytes of a training step on the device, no more than it really needs, as far as shapes tell.

    Args:
        fixed: held whatever the batch: parameters, gradients, two averages of these.
        trained: kept for the backward pass a sample, by the network that keeps most: others may follow it.
        losses: kept likewise by the networks of all losses.
    """

    fixed: int = 0
    trained: float = 0.0
    losses: float = 0.0

    def bytes(self, batch: int, *, half: bool = False) -> int:
        """Return the bytes of a step of so many samples; ``half`` if networks multiply in bfloat16."""
        return self.fixed + int(batch * self.sample(half=half))

    def sample(self, *, half: bool = False) -> float:
        """Return the bytes that each sample adds."""
        return (self.trained + self.losses) / (2 if half else 1)


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


def size_of(tensors: Iterable[Tensor]) -> int:
    """Return how many bytes tensors hold."""
    return sum(tensor.nbytes for tensor in tensors)
