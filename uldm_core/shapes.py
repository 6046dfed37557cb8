"""Sizes of images; and whether components are built for their shapes alone, without weights and files.

Before a recipe runs, its components are built on torch's meta device, where tensors have shapes and no
values, so that each can refuse its options. One that fetches or reads weights skips it then::

    if not is_shapes_only():
        self.load_state_dict(load_file(path))

What can be checked without reading, that a file exists say, is best checked all the same. A component
that can do nothing without its weights raises ``NotImplementedError``: it is skipped, which is no mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeGuard

_wanted: ContextVar[bool] = ContextVar("shapes_only", default=False)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Have components built for their shapes alone, until the context ends."""
    token = _wanted.set(True)
    try:
        yield
    finally:
        _wanted.reset(token)


def is_shapes_only() -> bool:
    """Return whether only shapes are wanted: what costs time, memory or the network is to be skipped."""
    return _wanted.get()


def height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return the height and width that a size says: ``96`` is (96, 96)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def written_size(size: tuple[int, int]) -> int | tuple[int, int]:
    """Return a size as recipes, keys and fingerprints have it: one number for a square."""
    height, width = size
    return height if height == width else (height, width)


def is_size(value: object, most: int = 1 << 31) -> TypeGuard[int | tuple[int, int]]:
    """Return whether a value is a size: a whole number above 0, or two of them; none above ``most``."""
    sides = value if isinstance(value, (list, tuple)) and len(value) == 2 else [value]
    return all(type(side) is int and 0 < side <= most for side in sides)
