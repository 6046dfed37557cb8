"""Taking type annotations apart: unions, sequences, what ``Annotated`` adds."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, TypeAlias, Union, get_args, get_origin

from annotated_types import GroupedMetadata

Annotation: TypeAlias = object
"""What a parameter is annotated with: a class, or a form of ``typing``."""


def is_union(annotation: Annotation) -> bool:
    """Return whether the annotation is ``X | Y`` or ``Optional[X]``."""
    return get_origin(annotation) in (Union, types.UnionType)


def is_sequence(annotation: Annotation) -> bool:
    """Return whether it is a list, a tuple or a sequence, but not a string."""
    origin = get_origin(annotation) or annotation
    return inspect.isclass(origin) and issubclass(origin, (list, tuple, Sequence)) and origin is not str


def without_none(annotation: Annotation) -> Annotation:
    """Return ``X`` of ``X | None``; any other annotation as it is."""
    if not is_union(annotation):
        return annotation
    rest = [arg for arg in get_args(annotation) if arg is not type(None)]
    return rest[0] if len(rest) == 1 else annotation


def metadata(annotation: Annotation) -> tuple[object, ...]:
    """Return what ``Annotated`` adds to an annotation or to a member of a union."""
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[1:]
    members = get_args(annotation) if is_union(annotation) else ()
    return tuple(part for member in members for part in metadata(member))


def constraints(annotation: Annotation) -> Iterator[object]:
    """Yield what an ``Annotated`` adds, groups such as ``Interval`` taken apart."""
    for part in get_args(annotation)[1:]:
        yield from part if isinstance(part, GroupedMetadata) else [part]
