"""Comparing two recipes, option by option."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from uldm_core.errors import Key, dotted
from uldm_core.spec.format_types import format_value


@frozen
class Difference:
    """An option whose value differs between two recipes; None where only the other one has it."""

    key: Key
    left: object
    right: object

    def __str__(self) -> str:
        left, right = (
            "(not there)" if value is None else format_value(value) for value in (self.left, self.right)
        )
        return f"{dotted(self.key)}: {left} -> {right}"


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Difference]:
    """Return the options in which two resolved recipes differ, in the order of the left one.

    A component's version counts where both have the component.
    """
    ours, theirs = flattened(left), flattened(right)
    keys = [*ours, *(key for key in theirs if key not in ours)]
    shared = [key for key in keys if key[:1] != ("versions",) or key in ours.keys() & theirs.keys()]
    pairs = (Difference(key, ours.get(key), theirs.get(key)) for key in shared)
    return [pair for pair in pairs if type(pair.left) is not type(pair.right) or pair.left != pair.right]


def flattened(value: Any, at: Key = ()) -> dict[Key, Any]:
    """Return the values in nested tables and lists of tables by their keys; a plain list is one value."""
    if isinstance(value, Mapping) and value:
        parts = [flattened(item, (*at, name)) for name, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        parts = [flattened(item, (*at, index)) for index, item in enumerate(value)]
    else:
        return {at: value}
    return {key: item for part in parts for key, item in part.items()}
