"""Annotations that are, or hold, components."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

from uldm_core.registry.lookup import Registry
from uldm_core.spec.options import Partial, Weighted, is_union, say_type


def takes_component(registry: Registry, annotation: Any) -> bool:
    """Whether values of this annotation are, or hold, components."""
    if registry.kind_of(annotation) or get_origin(annotation) in (Partial, Weighted):
        return True
    return any(takes_component(registry, arg) for arg in get_args(annotation) if arg is not Ellipsis)


def describe_type(registry: Registry, annotation: Any) -> str:
    """Write an annotation as a person would, components by their kind."""
    origin, args = get_origin(annotation), get_args(annotation)
    if kind := registry.kind_of(annotation):
        return f"any {kind.name}"
    if not takes_component(registry, annotation):
        return say_type(annotation)
    if is_union(annotation):
        return " or ".join("nothing" if arg is type(None) else describe_type(registry, arg) for arg in args)
    inner = describe_type(registry, args[0])
    if origin is Weighted:
        return f"{inner} with {' and '.join(Weighted.FIELDS)}"
    return inner if origin in (Partial, Annotated) else f"a list of ({inner})"
