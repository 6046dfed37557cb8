"""Types and values of options as messages and listings show them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

from attrs import asdict, has

from uldm_core.errors import in_toml
from uldm_core.registry.lookup import Registry
from uldm_core.spec.annotations import CONSTRAINTS, Annotation, constraints, is_sequence, is_union
from uldm_core.spec.options import WEIGHTS, Option, Partial, Weighted, options_of

_NAMES: dict[object, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    type(None): "nothing",
    Path: "a path",
    dict: "a table",
    Mapping: "a table",
}


def format_type(annotation: Annotation, registry: Registry | None = None) -> str:
    """Return an annotation in plain words: ``an integer >= 1``, ``one of 'a', 'b'``.

    With a registry, components are described by their kind: ``any quantizer``.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if registry and (kind := registry.kind_of(annotation)):
        return f"any {kind.name}"
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in args)
    if origin is Annotated:
        limits = " and ".join(
            f"{CONSTRAINTS[name][0]} {bound}" for name, bound in constraints(annotation).items()
        )
        return f"{format_type(args[0], registry)} {limits}".strip()
    if inspect.isclass(annotation) and has(annotation):
        return f"a table of {', '.join(options_of(annotation))}"
    if not (is_union(annotation) or is_sequence(annotation) or origin in (Partial, Weighted)):
        return _NAMES.get(origin or annotation) or str(getattr(annotation, "__name__", annotation))
    inner = [format_type(arg, registry) for arg in args if arg is not Ellipsis]
    if is_union(annotation):
        return " or ".join(inner)
    if origin is Partial:
        return inner[0]
    if origin is Weighted:
        return f"{inner[0]} with {' and '.join(WEIGHTS)}"
    return "a list" + (f" of ({inner[0]})" if len(set(inner)) == 1 else "")


def format_value(value: object) -> str:
    """Return a value as a recipe writes it, on one line; ``None`` becomes ``nothing``."""
    written = asdict(value, recurse=False) if has(type(value)) else value  # type: ignore[arg-type]
    return in_toml(written, json.dumps)


def takes_component(registry: Registry, annotation: Annotation) -> bool:
    """Return whether values of this annotation are, or hold, components."""
    if registry.kind_of(annotation) or get_origin(annotation) in (Partial, Weighted):
        return True
    return any(takes_component(registry, arg) for arg in get_args(annotation) if arg is not Ellipsis)


def describe_option(registry: Registry, option: Option) -> str:
    """Return an option with its default and its type: ``steps = 1000 (an integer >= 1)``."""
    default = "" if option.required else f" = {format_value(option.default)}"
    return f"{option.name}{default} ({format_type(option.annotation, registry)})"
