"""Types and values of options as messages and listings show them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

from uldm_core.errors import in_toml
from uldm_core.registry.lookup import Registry
from uldm_core.spec.annotations import Annotation, constraints, is_sequence, is_union
from uldm_core.spec.options import Excludes, Exists, Option, Partial, Weighted

_NAMES: dict[object, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    Path: "a path",
}
_SIGNS = {
    "ge": ">=",
    "gt": ">",
    "le": "<=",
    "lt": "<",
    "multiple_of": "a multiple of",
    "min_length": "of length >=",
    "max_length": "of length <=",
}


def format_type(annotation: Annotation) -> str:
    """Return an annotation in plain words: ``an integer >= 1``, ``one of 'a', 'b'``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return f"{format_type(args[0])} {_format_constraints(annotation)}".strip()
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in args)
    if is_union(annotation):
        return " or ".join("nothing" if arg is type(None) else format_type(arg) for arg in args)
    if is_sequence(annotation):
        inner = [arg for arg in args if arg is not Ellipsis]
        return "a list" + (f" of ({format_type(inner[0])})" if len(set(map(repr, inner))) == 1 else "")
    return _NAMES.get(annotation) or str(getattr(annotation, "__name__", annotation))


def _format_constraints(annotation: Annotation) -> str:
    texts = []
    for part in constraints(annotation):
        if not isinstance(part, (Excludes, Exists)):
            name = next((name for name in _SIGNS if hasattr(part, name)), None)
            texts.append(f"{_SIGNS[name]} {getattr(part, name)}" if name else str(part))
    return " and ".join(texts)


def format_value(value: object) -> str:
    """Return a value as a recipe writes it, on one line; ``None`` becomes ``nothing``."""
    return in_toml(value, json.dumps)


def takes_component(registry: Registry, annotation: Annotation) -> bool:
    """Return whether values of this annotation are, or hold, components."""
    if registry.kind_of(annotation) or get_origin(annotation) in (Partial, Weighted):
        return True
    return any(takes_component(registry, arg) for arg in get_args(annotation) if arg is not Ellipsis)


def describe_type(registry: Registry, annotation: Annotation) -> str:
    """Return an annotation in plain words, components by their kind: ``any quantizer``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if kind := registry.kind_of(annotation):
        return f"any {kind.name}"
    if not takes_component(registry, annotation):
        return format_type(annotation)
    if is_union(annotation):
        return " or ".join("nothing" if arg is type(None) else describe_type(registry, arg) for arg in args)
    inner = describe_type(registry, args[0])
    if origin is Weighted:
        return f"{inner} with {' and '.join(Weighted.FIELDS)}"
    return inner if origin in (Partial, Annotated) else f"a list of ({inner})"


def describe_option(registry: Registry, option: Option) -> str:
    """Return an option with its default and its type: ``steps = 1000 (an integer >= 1)``."""
    default = "" if option.required else f" = {format_value(option.default)}"
    return f"{option.name}{default} ({describe_type(registry, option.annotation)})"
