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

    ``VALUE`` is TOML, or a bare string. A new ``use`` empties its table first, so options of the
    old component are not left behind; ``use`` overrides are therefore applied before the others.
    """
    parsed = [_parse(override) for override in overrides]
    for key, value, text in sorted(parsed, key=lambda item: item[0][-1] != "use"):
        _set(document, key, value, text)


def _parse(override: str) -> tuple[Key, Any, str]:
    name, equals, text = override.partition("=")
    key = tuple(
        int(part) if part.isdigit() else part for part in re.split(r"\.|\[(\d+)\]", name.strip()) if part
    )
    if not equals or not key:
        raise MistakeError(f"override {override!r}: expected KEY=VALUE", hint="e.g. stages.first.steps=100")
    try:
        return key, parse_toml(f"value = {text}")["value"], override
    except ValueError:
        return key, text.strip(), override


def _set(document: Document, key: Key, value: Any, text: str) -> None:
    container: Any = document.data
    for part, following in pairwise(key):
        container = _descend(container, part, following, text)
    last = key[-1]
    if isinstance(container, list):
        _check_index(container, last, text)
    if last == "use" and isinstance(container, dict) and container.get("use") != value:
        container.clear()
    container[last] = value
    document.overridden[key] = f"override {text!r}"


def _descend(container: Any, part: str | int, following: str | int, text: str) -> Any:
    if isinstance(container, list):
        _check_index(container, part, text)
    elif part not in container:
        container[part] = {}
    inner = container[part]
    if isinstance(inner, str):  # short for { use = "..." }
        inner = container[part] = {"use": inner}
    if not isinstance(inner, (dict, list)):
        raise MistakeError(f"override {text!r}: {part!r} is {inner!r}, which has no {following!r}")
    return inner


def _check_index(container: list[Any], part: str | int, text: str) -> None:
    if not isinstance(part, int) or part >= len(container):
        raise MistakeError(f"override {text!r}: the list has {len(container)} items, there is no [{part}]")
