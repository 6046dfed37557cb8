"""Whether components are built for their shapes alone: no weights, no files, no network, no memory.

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
