"""Tensors that are not finite, found before they are saved or loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


def not_finite(state: object) -> list[str]:
    """Return the names of the tensors in a nested state that hold nan or infinity, in the state's order.

    Numbers outside of tensors may be infinite: "the best so far" begins so. Waits once for each device.

    Args:
        state: mappings and lists, as ``state_dict`` returns them.
    """
    tensors = list(_tensors(state))
    finite: dict[int, bool] = {}
    for device in {tensor.device for _, tensor in tensors}:
        here = [index for index, (_, tensor) in enumerate(tensors) if tensor.device == device]
        checks = torch.stack([tensors[index][1].isfinite().all() for index in here])
        finite |= zip(here, checks.tolist())
    return [name for index, (name, _) in enumerate(tensors) if not finite[index]]


def _tensors(value: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex():
            yield name, value.detach()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{name}[{index}]")
