"""Taking type annotations apart: unions, sequences, what ``Annotated`` adds."""

from __future__ import annotations

import inspect
import operator
import re
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from annotated_types import GroupedMetadata
from attrs import frozen

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
    rest = [arg for arg in get_args(annotation) if arg is not type(None)]
    return rest[0] if is_union(annotation) and len(rest) == 1 else annotation


def metadata(annotation: Annotation) -> Iterator[object]:
    """Yield what ``Annotated`` adds to an annotation or to a member of a union, groups taken apart."""
    if is_union(annotation):
        for member in get_args(annotation):
            yield from metadata(member)
    elif get_origin(annotation) is Annotated:
        for part in get_args(annotation)[1:]:
            yield from part if isinstance(part, GroupedMetadata) else [part]


@frozen
class Matches:
    """Marks text of a form: ``Annotated[str, Matches("[0-9]+ (s|min)", "'90 s' or '2 min'")]``.

    Args:
        pattern: a regular expression for the whole text, one that Python and JSON Schema read alike.
        like: examples, for messages.
    """

    pattern: str
    like: str

    def __str__(self) -> str:
        return self.like


CONSTRAINTS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": (">=", operator.ge),
    "gt": (">", operator.gt),
    "le": ("<=", operator.le),
    "lt": ("<", operator.lt),
    "multiple_of": ("a multiple of", lambda value, step: value % step == 0),
    "min_length": ("of length >=", lambda value, least: len(value) >= least),
    "max_length": ("of length <=", lambda value, most: len(value) <= most),
    "pattern": ("like", lambda value, form: re.fullmatch(form.pattern, value) is not None),
}
"""The constraints of ``annotated_types`` by their attribute: in words, and whether a value satisfies one."""


def constraints(annotation: Annotation) -> dict[str, Any]:
    """Return the bound of each constraint of an ``Annotated``, by its name in ``CONSTRAINTS``."""
    return {
        name: part if isinstance(part, Matches) else getattr(part, name)
        for part in metadata(annotation)
        for name in CONSTRAINTS
        if hasattr(part, name)
    }
