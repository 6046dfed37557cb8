"""What there is to show of a component: its options, and how recipes and Python write it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from textwrap import TextWrapper
from typing import Any, get_args

from uldm_core import registry
from uldm_core.cli.common import component_named
from uldm_core.kinds import Kind
from uldm_core.registry.component import Component
from uldm_core.spec.docstrings import without_arguments
from uldm_core.spec.format_types import format_type, format_value
from uldm_core.spec.options import Option

_INTEGER = 4
_INDENTED = TextWrapper(100, initial_indent=" " * 8, subsequent_indent=" " * 8)
Page = dict[str, Any]


def page_of(path: str) -> Page:
    """Return all there is to show of ``KIND/NAME``."""
    component = component_named(path)
    name = registry.default().name_of(component)
    kind = registry.default().kind(component.kind)
    description = registry.describe(component.kind, f"{component.plugin}/{component.name}".lstrip("/"))
    return {
        "kind": component.kind,
        "name": name,
        "summary": component.summary,
        "plugin": component.plugin,
        "distribution": component.distribution,
        "version": component.version,
        "text": without_arguments(description.doc),
        "options": [_option(kind, option) for option in description.options],
        "in_a_recipe": _in_a_recipe(component, kind, name),
        "in_python": _in_python(component, kind, name, description.options),
    }


def _option(kind: Kind, option: Option) -> Page:
    inferred = kind.inferred.get(option.name)
    return {
        "name": option.name,
        "type": format_type(option.annotation, registry.default()),
        "required": option.required and not inferred,
        "default": None if option.required else _plain(option.default),
        "filled_from": inferred.description if inferred else None,
        "help": option.help,
    }


def _in_a_recipe(component: Component, kind: Kind, name: str) -> str:
    """Return the component as a recipe writes it; inferred options are filled in there."""
    table = format_value({"use": name, **component.example})
    if kind.listed:
        return f"{kind.listed} = [{table}]"
    return f"stages.{name} = {table}" if kind.stage else f"{kind.name} = {table}"


def _in_python(component: Component, kind: Kind, name: str, options: Iterable[Option]) -> str | None:
    """Return a call that builds the component; what only its owner has is written by its name.

    A stage has none: it works on a recipe's components.
    """
    if kind.stage:
        return None
    parameters = inspect.signature(component.load()).parameters.values()
    of_owner = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_ONLY]
    call = [json.dumps(kind.name), json.dumps(name), *of_owner]
    call += [f"{key}={_plain(value)!r}".replace("'", '"') for key, value in component.example.items()]
    for option in options:
        if option.required and option.name not in component.example:
            value = _INTEGER if _may_be_integer(option.annotation) else option.name
            call.append(f"{option.name}={value}")
    return f"registry.build({', '.join(call)})"


def _may_be_integer(annotation: object) -> bool:
    """Whether an annotation is an integer's, or the first of those that it consists of is."""
    return annotation is int or any(map(_may_be_integer, get_args(annotation)[:1]))


def _plain(value: object) -> object:
    """Return a value as JSON has it; of what it has no word for, the text."""
    return json.loads(json.dumps(value, default=lambda it: dict(it) if isinstance(it, Mapping) else str(it)))


def as_text(page: Page) -> str:
    """Return a page as text."""
    return "\n".join(_lines(page))


def _lines(page: Page) -> Iterator[str]:
    origin = f"{page['distribution']} {page['version']}".strip() or page["plugin"]
    yield from (f"{page['kind']}/{page['name']} ({origin}): {page['summary']}", "", page["text"], "")
    yield "Options:" if page["options"] else "It has no options."
    for row in page["options"]:
        yield f"    {row['name']}{_default(row)}"
        yield from _INDENTED.wrap(f"{row['type']}; {row['help']}".rstrip("; "))
    yield from ("", "In a recipe:", f"    {page['in_a_recipe']}")
    if page["in_python"]:
        yield from ("", "In Python:", "    from uldm_core import registry", f"    {page['in_python']}")


def _default(row: Mapping[str, Any]) -> str:
    if row["filled_from"]:
        return f" (from {row['filled_from']})"
    return " (required)" if row["required"] else f" = {format_value(row['default'])}"
