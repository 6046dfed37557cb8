"""``KEY=VALUE`` on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from attrs import evolve, frozen

from uldm_core.errors import Key, MistakeError, Problem, Where, dotted, listing, shortened
from uldm_core.recipe.document import DEEPEST, Document, parse_toml
from uldm_core.spec.options import Option
from uldm_core.spec.structure import as_typed
from uldm_core.toml_text.syntax import TooDeepError, syntax_problem

_NAME = r"""(?:[^.\[\]"'\s]+|"[^"]*"|'[^']*')"""
_KEY = re.compile(rf"{_NAME}(?:\s*\.\s*{_NAME}|\[\d+\])*")
_PART = re.compile(rf"\[(?P<index>\d+)\]|(?P<name>{_NAME})")


def apply_overrides(document: Document, overrides: Iterable[str]) -> None:
    """Set each ``KEY=VALUE`` in the document; those that cannot be set are added to its problems.

    ``VALUE`` is TOML, or a bare string; for an option that takes text or a path, it is what was typed. A new
    ``use`` empties its table first, which removes the options of the old component; whole tables and their
    ``use`` are therefore set before what is in them.
    """
    parsed = []
    for typed in overrides:
        try:
            parsed.append(_parse(typed))
        except MistakeError as error:
            document.problems += error.problems
    for override in sorted(parsed, key=lambda item: len(item.key) - (item.key[-1] == "use")):
        try:
            _set(document, override)
        except MistakeError as error:
            document.problems += error.problems


def parse_options(options: Iterable[str], known: Iterable[Option]) -> dict[str, Any]:
    """Return each ``KEY=VALUE`` as a component's options.

    Args:
        options: as typed.
        known: the component's options.

    Raises:
        MistakeError: one is not ``KEY=VALUE``, or contradicts another.
    """
    document = Document({})
    apply_overrides(document, options)
    for option in [option for option in known if (option.name,) in document.texts]:
        value, text = document.data[option.name], document.texts[option.name,]
        document.data[option.name] = as_typed(value, text, option.annotation)
    if document.problems:
        raise MistakeError(*document.problems)
    return document.data


@frozen
class _Override:
    """One ``KEY=VALUE``.

    Args:
        key: that it sets.
        value: what TOML makes of it, or its text.
        text: the value as typed.
        typed: the whole as typed.
    """

    key: Key
    value: Any
    text: str
    typed: str


def _parse(override: str) -> _Override:
    if not _is_unicode(override):
        raise _refused((), "not UTF-8", override, "a recipe is UTF-8: rename the file or folder")
    name, equals, text = override.partition("=")
    if not equals or not _KEY.fullmatch(name.strip()):
        hint = "e.g. stages.first.steps=100 or stages.first.losses[0].weight=2"
        raise _refused((), "expected KEY=VALUE", override, hint)
    parts = _PART.finditer(name.strip())
    key: Key = tuple(int(part["index"]) if part["index"] else part["name"].strip("\"'") for part in parts)
    if len(key) > DEEPEST:
        raise _refused((), str(TooDeepError()), shortened(override))
    return _override(key, text.strip(), override)


def _is_unicode(text: str) -> bool:
    """Return whether a text can be written as UTF-8: arguments of other encodings cannot."""
    return text.isprintable() or not any("\ud800" <= sign <= "\udfff" for sign in text)


def _override(key: Key, text: str, typed: str) -> _Override:
    """Return what TOML makes of a text, or the bare text; what begins as a string has to be one."""
    try:
        parsed = parse_toml(f"value = {text}")
    except ValueError as error:
        if not text.startswith(('"', "'")) and not isinstance(error, TooDeepError):
            return _Override(key, text, text, typed)
        wrong = syntax_problem(f"value = {text}", error)
        raise MistakeError(evolve(wrong, where=Where(key, f"override {typed!r}"))) from error
    return _Override(key, parsed["value"] if len(parsed) == 1 else text, text, typed)


def _set(document: Document, override: _Override) -> None:
    names, value, text = override.key, override.value, override.typed
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
    document.texts[key] = override.text


def _part(container: Any, name: str | int, key: Key, text: str) -> str | int:
    """Return a key of a table, or an index of a list."""
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
    return MistakeError(Problem(Where(key, f"override {text!r}"), what, hint, code="bad-override"))
