"""``KEY=VALUE`` on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from uldm_core.errors import Key, MistakeError
from uldm_core.recipe.document import Document, parse_toml


def apply_overrides(document: Document, overrides: Iterable[str]) -> None:
    """Set each ``KEY=VALUE`` in the document.

    ``VALUE`` is TOML, or a bare string. A new ``use`` empties its table first, so options of the old
    component are not left behind; whole tables and their ``use`` are therefore set before what is in them.
    """
    parsed = [_parse(override) for override in overrides]
    for names, value, text in sorted(parsed, key=lambda item: len(item[0]) - (item[0][-1] == "use")):
        _set(document, names, value, text)


def _parse(override: str) -> tuple[list[str], Any, str]:
    name, equals, text = override.partition("=")
    names = [part for part in re.split(r"\.|\[(\d+)\]", name.strip()) if part]
    if not equals or not names:
        raise MistakeError(f"override {override!r}: expected KEY=VALUE", hint="e.g. stages.first.steps=100")
    try:
        return names, parse_toml(f"value = {text}")["value"], override
    except ValueError:
        return names, text.strip(), override


def _set(document: Document, names: list[str], value: Any, text: str) -> None:
    container: Any = document.data
    key: Key = ()
    for name, following in pairwise(names):
        key = (*key, _part(container, name, text))
        container = _descend(container, key[-1], following, text)
    key = (*key, _part(container, names[-1], text))
    if key[-1] == "use" and container.get("use") != value:
        for name in container.keys() - {"kind"}:  # which is the table's, not the old component's
            del container[name]
    container[key[-1]] = value
    document.override(key, f"override {text!r}")


def _part(container: Any, name: str, text: str) -> str | int:
    """A name is an index where it leads into a list."""
    if not isinstance(container, list):
        return name
    if not name.isdecimal() or int(name) >= len(container):
        raise MistakeError(f"override {text!r}: the list has {len(container)} items, there is no [{name}]")
    return int(name)


def _descend(container: Any, part: Any, following: str, text: str) -> Any:
    inner = container.setdefault(part, {}) if isinstance(container, dict) else container[part]
    if isinstance(inner, str):  # short for { use = "..." }
        inner = container[part] = {"use": inner}
    if not isinstance(inner, (dict, list)):
        raise MistakeError(f"override {text!r}: {part!r} is {inner!r}, which has no {following!r}")
    return inner
