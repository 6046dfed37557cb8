"""The device a run uses, and the precision it multiplies in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import torch
from attrs import fields, frozen, has
from torch import Tensor, nn

from uldm_core.errors import MistakeError
from uldm_core.recipe.run_options import RunOptions

T = TypeVar("T")


@frozen
class Device:
    """Where tensors live and what autocast uses; parameters and statistics stay float32."""

    device: torch.device
    precision: torch.dtype
    compile: bool = False
    deterministic: bool = False

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for a network's forward pass; does nothing in float32."""
        if self.precision is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    @property
    def repeats_bits(self) -> bool:
        """Whether a training that is repeated here gives the same bits: on a GPU only if it is asked to."""
        return self.device.type != "cuda" or self.deterministic

    @contextmanager
    def algorithms(self) -> Iterator[None]:
        """Take the algorithms that steps of a training are to be done with; all of torch does.

        Raises:
            RuntimeError: within it, from torch: an operation has no algorithm that gives the same bits.
        """
        if self.device.type != "cuda" or not self.deterministic:
            yield
            return
        cudnn = torch.backends.cudnn
        enabled, of_cudnn = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic
        warns = torch.is_deterministic_algorithms_warn_only_enabled()
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic = True
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warns)
            cudnn.deterministic = of_cudnn

    def place(self, component: T) -> T:
        """Move every module that a component is or holds to the device; compile the outermost, if asked to.

        A component holds what is in its attributes, and in lists and tables there, at any depth.
        """
        for module in outermost_modules(component):
            module.to(self.device)
            if self.compile and module._compiled_call_impl is None:
                module.compile()
        return component

    def __str__(self) -> str:
        return (
            f"{self.device}, {str(self.precision).removeprefix('torch.')}, {torch.get_num_threads()} threads"
        )


def outermost_modules(component: object) -> list[nn.Module]:
    """Return the modules that an object is or holds, but for those that are part of another one of them."""
    found: list[nn.Module] = []
    seen: dict[int, object] = {}  # keeps what it has seen, so that no other object gets its number
    waiting = [component]
    while waiting:
        value = waiting.pop()
        if id(value) not in seen and not isinstance(value, _HOLD_NOTHING):
            seen[id(value)] = value
            found += [value] if isinstance(value, nn.Module) else []
            waiting += _held(value)
    inner = {id(part) for module in found for part in module.modules() if part is not module}
    return [module for module in found if id(module) not in inner]


_HOLD_NOTHING = (str, bytes, int, float, complex, Path, Tensor, type, ModuleType, type(None))


def _held(value: object) -> Iterable[object]:
    """Return what an object holds."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    kind = type(value)
    slots = (field.name for field in fields(kind)) if has(kind) else ()
    return [*getattr(value, "__dict__", {}).values(), *(getattr(value, slot, None) for slot in slots)]


def choose_device(options: RunOptions) -> Device:
    """Return the device of a recipe's ``[run]`` table; raises ``MistakeError`` if there is none such here."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = _device(options.device)
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    bfloat16 = options.precision == "bfloat16" or (
        options.precision == "auto" and multiplies_bfloat16(device)
    )
    precision = torch.bfloat16 if bfloat16 else torch.float32
    return Device(device, precision, options.compile, options.deterministic)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return False


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise MistakeError(f"device {name!r} cannot be used: {reason}", hint="try --device cpu") from error
    return device
