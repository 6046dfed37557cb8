"""What there is to say of a component: its options, and how recipes and Python write it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from textwrap import TextWrapper
from typing import Any, get_args

from uldm_core import registry
from uldm_core.cli.common import component_named
from uldm_core.kinds import Kind
from uldm_core.registry.component import Component
from uldm_core.spec.format_types import describe_type, format_value
from uldm_core.spec.options import Option

_INTEGER = 4
_INDENTED = TextWrapper(100, initial_indent=" " * 8, subsequent_indent=" " * 8)


def page_of(path: str) -> dict[str, Any]:
    """Return all there is to say of ``KIND/NAME``."""
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
        "options": [option_row(kind, option) for option in description.options],
        "in_a_recipe": in_a_recipe(component, kind, name),
        "in_python": in_python(component, kind, name, description.options),
    }


def without_arguments(text: str) -> str:
    """Return a docstring without its ``Args:``, which the options tell."""
    return re.sub(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", "", text + "\n", flags=re.MULTILINE).strip()


def option_row(kind: Kind, option: Option) -> dict[str, Any]:
    """Return what there is to say of one option."""
    surrounding = kind.inferred.get(option.name)
    return {
        "name": option.name,
        "type": describe_type(registry.default(), option.annotation),
        "required": option.required and not surrounding,
        "default": None if option.required else _plain(option.default),
        "filled_from": surrounding.says if surrounding else None,
        "help": option.help,
    }


def in_a_recipe(component: Component, kind: Kind, name: str) -> str:
    """Return the component as a recipe writes it; what surrounds it is filled in there."""
    table = format_value({"use": name, **component.example})
    if kind.listed:
        return f"{kind.listed} = [{table}]"
    return f"stages.{name} = {table}" if kind.verb else f"{kind.name} = {table}"


def in_python(component: Component, kind: Kind, name: str, options: Iterable[Option]) -> str | None:
    """Return a call that builds the component; what only the caller has stands there by its name.

    A stage has none: it works on a recipe's nouns.
    """
    if kind.verb:
        return None
    call = [json.dumps(kind.name), json.dumps(name), *_from_its_owner(component)]
    call += [f"{key}={_python(value)}" for key, value in component.example.items()]
    for option in options:
        if option.required and option.name not in component.example:
            integer = int in (option.annotation, *get_args(option.annotation)[:1])
            call.append(f"{option.name}={_INTEGER if integer else option.name}")
    return f"registry.build({', '.join(call)})"


def _from_its_owner(component: Component) -> list[str]:
    parameters = inspect.signature(component.load()).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_ONLY]


def _python(value: Any) -> str:
    return repr(_plain(value)).replace("'", '"')


def written(page: Mapping[str, Any]) -> str:
    """Return a page as text."""
    origin = f"{page['distribution']} {page['version']}".strip() or page["plugin"]
    lines = [f"{page['kind']}/{page['name']} ({origin}): {page['summary']}", "", page["text"], ""]
    lines += ["Options:"] if page["options"] else ["It takes no options."]
    for row in page["options"]:
        said = f"{row['type']}; {row['help']}".rstrip("; ")
        lines += [f"    {row['name']}{_default(row)}", *_INDENTED.wrap(said)]
    lines += ["", "In a recipe:", f"    {page['in_a_recipe']}"]
    if page["in_python"]:
        lines += ["", "In Python:", "    from uldm_core import registry", f"    {page['in_python']}"]
    return "\n".join(lines)


def _default(row: Mapping[str, Any]) -> str:
    if row["filled_from"]:
        return f" (from {row['filled_from']})"
    return " (required)" if row["required"] else f" = {format_value(row['default'])}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
