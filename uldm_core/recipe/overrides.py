"""``KEY=VALUE`` on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from uldm_core.errors import Key, MistakeError, Where, shortened
from uldm_core.recipe.document import Document
from uldm_core.spec.options import Option
from uldm_core.spec.structure import as_typed
from uldm_core.toml_text.locate import DEEPEST
from uldm_core.toml_text.parse import parse_toml

_NAME = r"""(?:[^.\[\]"'\s]+|"[^"]*"|'[^']*')"""
_KEY = re.compile(rf"{_NAME}(?:\s*\.\s*{_NAME}|\[\d+\])*")
_PART = re.compile(rf"\[(?P<index>\d+)\]|(?P<name>{_NAME})")


def apply_overrides(document: Document, overrides: Iterable[str]) -> None:
    """Set each ``KEY=VALUE`` in the document; what cannot be set is added to its problems.

    ``VALUE`` is TOML, or a bare string; for an option that takes text or a path, it is what was typed. A new
    ``use`` empties its table first, which removes the options of the old component; whole tables and their
    ``use`` are therefore set before what is in them.
    """
    layers = []
    for typed in overrides:
        place = Where((), f"override {shortened(typed, 1000)}")
        try:
            key, value, text = _parsed(typed)
        except MistakeError as error:
            document.problems += error.at(place).problems
            continue
        for part in reversed(key):
            value = {part: value}
        layers.append((key, Document(value, place, texts={key: text})))
    for _, layer in sorted(layers, key=lambda layer: len(layer[0]) - (layer[0][-1] == "use")):
        document.merge(layer, naming=("use",))


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
    if document.problems:
        raise MistakeError(*document.problems)
    for option in [option for option in known if option.name in document.data]:
        value, text = document.data[option.name], document.texts.get((option.name,))
        document.data[option.name] = as_typed(value, text, option.annotation)
    return document.data


def _parsed(typed: str) -> tuple[Key, Any, str]:
    """Return the key, the value and its text; a value is TOML, but what is none is a bare string.

    Raises:
        MistakeError: it is no ``KEY=VALUE``, or the value begins as a quoted string and is none.
    """
    name, equals, text = (part.strip() for part in typed.partition("="))
    if not equals or not _KEY.fullmatch(name):
        hint = "e.g. stages.first.steps=100 or stages.first.losses[0].weight=2"
        raise MistakeError("expected KEY=VALUE", hint=hint, code="bad-override")
    if re.search("[\ud800-\udfff]", typed):
        raise MistakeError("not UTF-8", hint="rename the file or folder", code="bad-override")
    parts = _PART.finditer(name)
    key: Key = tuple(int(part["index"]) if part["index"] else part["name"].strip("\"'") for part in parts)
    if len(key) > DEEPEST:
        raise MistakeError("nested too deeply", code="bad-override")
    try:
        parsed = parse_toml(f"value = {text}")
    except MistakeError:
        if text.startswith(('"', "'")):
            raise
        return key, text, text
    return key, parsed["value"] if len(parsed) == 1 else text, text
