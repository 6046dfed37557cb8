"""``KEY=VALUE`` on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from uldm_core.errors import Key, MistakeError, Problem, Where, dotted, listing, shortened
from uldm_core.recipe.document import DEEPEST, Document, parse_toml
from uldm_core.recipe.syntax import TOO_DEEP, syntax_problems

_NAME = r"""(?:[^.\[\]"'\s]+|"[^"]*"|'[^']*')"""
_KEY = re.compile(rf"{_NAME}(?:\s*\.\s*{_NAME}|\[\d+\])*")
_PART = re.compile(rf"\[(?P<index>\d+)\]|(?P<name>{_NAME})")


def apply_overrides(document: Document, overrides: Iterable[str]) -> None:
    """Set each ``KEY=VALUE`` in the document; those that cannot be set are added to its problems.

    ``VALUE`` is TOML, or a bare string. A new ``use`` empties its table first, so options of the old
    component are not left behind; whole tables and their ``use`` are therefore set before what is in them.
    """
    parsed = []
    for override in overrides:
        try:
            parsed.append((*_parse(override), override))
        except MistakeError as error:
            document.problems += error.problems
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


def _parse(override: str) -> tuple[Key, Any]:
    name, equals, text = override.partition("=")
    if not equals or not _KEY.fullmatch(name.strip()):
        hint = "e.g. stages.first.steps=100 or stages.first.losses[0].weight=2"
        raise _refused((), "expected KEY=VALUE", override, hint)
    parts = _PART.finditer(name.strip())
    key: Key = tuple(int(part["index"]) if part["index"] else part["name"].strip("\"'") for part in parts)
    if len(key) > DEEPEST:
        raise _refused((), TOO_DEEP, shortened(override))
    return key, _value(text.strip(), key, override)


def _value(text: str, key: Key, override: str) -> Any:
    """Return what TOML makes of a text, or the bare text; what begins as a list or a string has to be one."""
    try:
        parsed = parse_toml(f"value = {text}")
    except ValueError as error:
        if not text.startswith(("[", "{", '"', "'")):
            return text
        what = syntax_problems(f"value = {text}", str(error))[0]
        raise _refused(key, what.what, override, f"{what.hint}; in quotes it is a string") from error
    return parsed["value"] if len(parsed) == 1 else text


def _set(document: Document, names: Key, value: Any, text: str) -> None:
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


def _part(container: Any, name: str | int, key: Key, text: str) -> str | int:
    """Return a name that may stand in a table, or an index that leads into a list."""
    if isinstance(container, list):
        return _index(container, name, key, text)
    if isinstance(name, int):
        raise _refused(key, f"it is a table, there is no [{name}]", text, f"it has: {listing([*container])}")
    return name


def _index(items: list[Any], name: str | int, key: Key, text: str) -> int:
    if str(name).isdecimal() and int(name) < len(items):
        return int(name)
    length = "1 item" if len(items) == 1 else f"{len(items)} items"
    hint = "" if isinstance(name, int) or not items else f"write an index: {dotted(key)}[0]"
    raise _refused(key, f"the list has {length}, there is no [{name}]", text, hint)


def _descend(document: Document, container: Any, key: Key, following: str | int, text: str) -> Any:
    part: Any = key[-1]
    if isinstance(container, dict) and part not in container:
        document.override(key, text)
    inner = container.setdefault(part, {}) if isinstance(container, dict) else container[part]
    if isinstance(inner, str):  # short for { use = "..." }
        inner = container[part] = {"use": inner}
    if not isinstance(inner, (dict, list)):
        raise _refused(key, f"it is {shortened(inner)}, which has no {following!r}", text)
    return inner


def _refused(key: Key, what: str, text: str, hint: str = "") -> MistakeError:
    return MistakeError(Problem(Where(key, f"override {text!r}"), what, hint))
