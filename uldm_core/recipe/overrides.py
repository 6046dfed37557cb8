"""``KEY=VALUE`` on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from uldm_core.errors import Key, MistakeError, Problem, Where
from uldm_core.recipe.document import Document, parse_toml

_KEY = re.compile(r"[^.\[\]]+(?:\.[^.\[\]]+|\[\d+\])*")


def apply_overrides(document: Document, overrides: Iterable[str]) -> None:
    """Set each ``KEY=VALUE`` in the document; those that cannot be set are added to its problems.

    ``VALUE`` is TOML, or a bare string. A new ``use`` empties its table first, so options of the old
    component are not left behind; whole tables and their ``use`` are therefore set before what is in them.

    Raises:
        MistakeError: an override is not ``KEY=VALUE``.
    """
    parsed = [_parse(override) for override in overrides]
    for names, value, text in sorted(parsed, key=lambda item: len(item[0]) - (item[0][-1] == "use")):
        try:
            _set(document, names, value, text)
        except MistakeError as error:
            document.problems += error.problems


def parse_options(options: Iterable[str]) -> dict[str, Any]:
    """Return each ``KEY=VALUE`` as a component's options.

    Raises:
        MistakeError: one is not ``KEY=VALUE``, or contradicts another.
    """
    document = Document({})
    apply_overrides(document, options)
    if document.problems:
        raise MistakeError(*document.problems)
    return document.data


def _parse(override: str) -> tuple[list[str], Any, str]:
    name, equals, text = override.partition("=")
    if not equals or not _KEY.fullmatch(name.strip()):
        raise MistakeError(f"override {override!r}: expected KEY=VALUE", hint="e.g. stages.first.steps=100")
    names = [part for part in re.split(r"\.|\[(\d+)\]", name.strip()) if part]
    try:
        return names, parse_toml(f"value = {text}")["value"], override
    except ValueError:
        return names, text.strip(), override


def _set(document: Document, names: list[str], value: Any, text: str) -> None:
    container: Any = document.data
    key: Key = ()
    for name, following in pairwise(names):
        key = (*key, _part(container, name, key, text))
        container = _descend(document, container, key, following, text)
    key = (*key, _part(container, names[-1], key, text))
    if key[-1] == "use" and container.get("use") != value:
        for name in container.keys() - {"kind"}:  # which is the table's, not the old component's
            del container[name]
    container[key[-1]] = value
    document.override(key, text)


def _part(container: Any, name: str, key: Key, text: str) -> str | int:
    """A name is an index where it leads into a list."""
    if not isinstance(container, list):
        return name
    if not name.isdecimal() or int(name) >= len(container):
        length = "1 item" if len(container) == 1 else f"{len(container)} items"
        raise _refused(key, f"the list has {length}, there is no [{name}]", text)
    return int(name)


def _descend(document: Document, container: Any, key: Key, following: str, text: str) -> Any:
    part: Any = key[-1]
    if isinstance(container, dict) and part not in container:
        document.override(key, text)
    inner = container.setdefault(part, {}) if isinstance(container, dict) else container[part]
    if isinstance(inner, str):  # short for { use = "..." }
        inner = container[part] = {"use": inner}
    if not isinstance(inner, (dict, list)):
        raise _refused(key, f"it is {inner!r}, which has no {following!r}", text)
    return inner


def _refused(key: Key, what: str, text: str) -> MistakeError:
    return MistakeError(Problem(Where(key, f"override {text!r}"), what))
