"""Finding the module in which numbers stop being finite, by repeating a training with checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from attrs import define, field
from torch import Tensor, nn

from uldm_core.engine.context import Context
from uldm_core.engine.randomness import derive
from uldm_core.engine.training_state import TrainingState
from uldm_core.protocols import Trainer
from uldm_core.registry.component import format_failure


def take_step(trainer: Trainer, context: Context, step: int) -> Any:
    """Do a step of a training, and return its metrics; its randomness follows from its number."""
    torch.manual_seed(derive(context.seed, context.name, step))
    with context.run_device.algorithms():
        return trainer.step(step, context)


def first_not_finite(trainer: Trainer, context: Context, state: TrainingState, last: int) -> str:
    """Repeat the steps from the last checkpoint to ``last``; every output and gradient is checked.

    Returns:
        Where the first number is that is not finite, ``the output of denoiser.blocks.3.attn at step 412``
        say; empty if it is in no module, or does not happen again.
    """
    try:
        step = state.rewind()
        context.message(f"[{context.name}] steps {step + 1} to {last} are repeated, to find where it begins")
        with _Checks.on(_modules(trainer)) as checks:
            while step < last and not context.stop.requested:
                metrics = take_step(trainer, context, step)
                step += 1
                if state.bad() or not all(math.isfinite(float(value)) for value in metrics.values()):
                    return f"{checks.found[0]} at step {step}" if checks.found else ""
                checks.allow()
    except Exception as error:  # of a component that does not bear being repeated
        context.message(f"[{context.name}] it was not found where it begins: {format_failure(error)}")
    return ""


def _modules(trainer: Trainer) -> dict[str, nn.Module]:
    """Return the networks that a trainer has, by name."""
    parts = {**getattr(trainer, "__dict__", {}), **trainer.stateful()}
    found = {id(part): (name, part) for name, part in parts.items() if isinstance(part, nn.Module)}
    return dict(found.values())


@define
class _Checks:
    """Notes what is not finite, in the order in which it is computed.

    What is so in a step that is fine otherwise, the output of a mask say, is allowed from then on.
    """

    found: list[str] = field(factory=list)
    allowed: set[str] = field(factory=set)

    @classmethod
    @contextmanager
    def on(cls, modules: dict[str, nn.Module]) -> Iterator[_Checks]:
        """Check every part of some modules while the context lasts; none is compiled meanwhile."""
        checks, handles = cls(), []
        compiled = {module: module._compiled_call_impl for module in modules.values()}
        for name, module in modules.items():
            module._compiled_call_impl = None
            for path, part in module.named_modules(prefix=name):
                handles.append(part.register_forward_hook(checks._of_output(path)))
            for path, parameter in module.named_parameters(prefix=name):
                if parameter.requires_grad:
                    handles.append(parameter.register_hook(checks._of_gradient(path)))
        try:
            yield checks
        finally:
            for handle in handles:
                handle.remove()
            for module, call in compiled.items():
                module._compiled_call_impl = call

    def allow(self) -> None:
        """Allow what has been found up to now."""
        self.allowed.update(self.found)
        self.found.clear()

    def _note(self, tensor: Tensor, where: str) -> None:
        if where not in self.allowed and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            self.found.append(where)

    def _of_output(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def check(module: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in output if isinstance(output, tuple) else (output,):
                if isinstance(tensor, Tensor):
                    self._note(tensor.detach(), f"the output of {path}")
                    if tensor.requires_grad:
                        tensor.register_hook(self._of_gradient(f"the output of {path}"))

        return check

    def _of_gradient(self, path: str) -> Callable[[Tensor], None]:
        return lambda gradient: self._note(gradient, f"the gradient of {path}")
