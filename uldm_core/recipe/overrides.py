"""``KEY=VALUE`` on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

from attrs import evolve

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
        with _problems_noted(document, typed):
            parsed.append(_parse(typed))
    for override in sorted(parsed, key=lambda item: len(item.key) - (item.key[-1] == "use")):
        with _problems_noted(document, override.typed):
            _set(document, override)


@contextmanager
def _problems_noted(document: Document, typed: str) -> Iterator[None]:
    """Add the problems of an override to those of the document."""
    try:
        yield
    except MistakeError as error:
        source = f"override {shortened(typed, 1000)}"
        document.problems += [
            evolve(problem, where=Where(problem.where.key, source)) for problem in error.problems
        ]


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


class _Override(NamedTuple):
    """One ``KEY=VALUE``: its value as TOML, else as text; the value and the whole as typed."""

    key: Key
    value: Any
    text: str
    typed: str


def _parse(typed: str) -> _Override:
    if re.search("[\ud800-\udfff]", typed):
        raise _refused((), "not UTF-8", "a recipe is UTF-8: rename the file or folder")
    name, equals, text = typed.partition("=")
    if not equals or not _KEY.fullmatch(name.strip()):
        hint = "e.g. stages.first.steps=100 or stages.first.losses[0].weight=2"
        raise _refused((), "expected KEY=VALUE", hint)
    parts = _PART.finditer(name.strip())
    key: Key = tuple(int(part["index"]) if part["index"] else part["name"].strip("\"'") for part in parts)
    if len(key) > DEEPEST:
        raise _refused((), str(TooDeepError()))
    return _Override(key, _value(key, text.strip()), text.strip(), typed)


def _value(key: Key, text: str) -> object:
    """Return what TOML makes of a text, or the bare text; what begins as a string has to be one."""
    try:
        parsed = parse_toml(f"value = {text}")
    except ValueError as error:
        if not text.startswith(('"', "'")) and not isinstance(error, TooDeepError):
            return text
        wrong = syntax_problem(f"value = {text}", error)
        raise MistakeError(evolve(wrong, where=Where(key))) from error
    return parsed["value"] if len(parsed) == 1 else text


def _set(document: Document, override: _Override) -> None:
    names, typed = override.key, override.typed
    container: Any = document.data
    key: Key = ()
    for name, following in pairwise(names):
        key = (*key, _part(container, name, key))
        if isinstance(container, dict) and key[-1] not in container:
            document.override(key, typed)
        container = _descend(container, key, following)
    key = (*key, _part(container, names[-1], key))
    if key[-1] == "use" and container.get("use") != override.value:
        for name in container.keys() - {"kind"}:  # which is the table's, not the old component's
            del container[name]
    container[key[-1]] = override.value
    document.override(key, typed)
    document.texts[key] = override.text


def _part(container: Any, name: str | int, key: Key) -> str | int:
    """Return a key of a table, or an index of a list."""
    if isinstance(container, dict) and isinstance(name, int):
        what, hint = f"it is a table, there is no [{name}]", f"it has: {listing([*container])}"
        raise _refused(key, what, hint)
    if isinstance(container, dict):
        return name
    if str(name).isdecimal() and int(name) < len(container):
        return int(name)
    hint = "" if isinstance(name, int) or not container else f"write an index: {dotted(key)}[0]"
    raise _refused(key, f"the list is of length {len(container)}, there is no [{name}]", hint)


def _descend(container: Any, key: Key, following: str | int) -> Any:
    """Return the table or list at the last part of a key; a table that is not there is made."""
    part: Any = key[-1]
    inner = container.setdefault(part, {}) if isinstance(container, dict) else container[part]
    if isinstance(inner, str):  # short for { use = "..." }
        inner = container[part] = {"use": inner}
    if not isinstance(inner, (dict, list)):
        raise _refused(key, f"it is {shortened(inner)}, which has no {following!r}")
    return inner


def _refused(key: Key, what: str, hint: str = "") -> MistakeError:
    return MistakeError(Problem(Where(key), what, hint, code="bad-override"))
