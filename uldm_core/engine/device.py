"""The device a run uses, and the precision it multiplies in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from attrs import frozen

from uldm_core.errors import MistakeError
from uldm_core.recipe import RunOptions


@frozen
class Device:
    """Where tensors live and what autocast uses; parameters and statistics stay float32."""

    device: torch.device
    precision: torch.dtype
    compile: bool = False

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for a network's forward pass; does nothing in float32."""
        if self.precision is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    def place(self, component: Any) -> Any:
        """Move a module to the device, and compile it if the run asks for that."""
        if isinstance(component, torch.nn.Module):
            component = component.to(self.device)
            if self.compile:
                component.compile()
        return component

    def __str__(self) -> str:
        return (
            f"{self.device}, {str(self.precision).removeprefix('torch.')}, {torch.get_num_threads()} threads"
        )


def choose_device(options: RunOptions) -> Device:
    """Choose as a recipe's ``[run]`` table says; raises ``MistakeError`` for what this machine lacks."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = _device(options.device)
    bfloat16 = options.precision == "bfloat16" or (
        options.precision == "auto" and multiplies_bfloat16(device)
    )
    return Device(device, torch.bfloat16 if bfloat16 else torch.float32, options.compile)


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
