"""Parsing TOML: the values, the line of each key, and why a text is not TOML."""

from __future__ import annotations

import re
import sys
from itertools import groupby
from typing import Any

from uldm_core.errors import Key, MistakeError, Problem, Where
from uldm_core.toml_text.locate import Token, locate, not_toml, note, tokens_of, written

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_QUOTES = ('"', "'", '"""', "'''")
_CLOSES = {"[": "']'", "{": "'}'; it ends on the line it begins on"}
_LONG_NUMBER = re.compile(r"\d(?:_?\d){4299}")
_STATEMENT = "a value is KEY = VALUE, a table begins with [NAME]"
_HINTS = {
    "Invalid value": 'a string needs quotes ("..."); true and false are lower-case; '
    "a number begins with a digit; there is no null: leave the key out",
    "Invalid statement": _STATEMENT,
    "Expected '=' after a key in a key/value pair": _STATEMENT,
    "Expected newline or end of document after a statement": "one KEY = VALUE or [TABLE] a line, and nothing "
    "after it; a string needs quotes",
    "Invalid initial character for a key part": "no comma before '}'; a name of more than letters, digits, "
    "_ and - needs quotes",
    "Unclosed array": "',' or ']' is missing",
    "Unclosed inline table": "',' or '}' is missing",
    "Unescaped '\\' in a string": "a path in single quotes keeps its backslashes: 'C:\\images'",
    "Cannot overwrite a value": "it is written twice: keep one of the two",
}
"""How to fix what the parser's messages say."""


def parse_toml(text: str) -> dict[str, Any]:
    """Return the values of a TOML text.

    Raises:
        MistakeError: as ``parse_and_locate``.
    """
    return parse_and_locate(text)[0]


def parse_and_locate(text: str) -> tuple[dict[str, Any], dict[Key, int]]:
    """Return the values of a TOML text, and the line (from 1) of every table, key and array item.

    Raises:
        MistakeError: it is not TOML, or nested too deeply; it names the line where that begins.
    """
    text = text.replace("\r\n", "\n")
    try:
        data = tomllib.loads(text)
    except RecursionError:
        locate(text)  # which names the line
        raise
    except ValueError as error:
        raise MistakeError(_syntax_problem(text, error)) from error
    return data, locate(text)


def _syntax_problem(text: str, error: ValueError) -> Problem:
    """Explain why a text is not TOML: a repeated key, an unclosed bracket, or what the parser reports."""
    message, at, place = str(error).removesuffix(")").rpartition(" (at ")  # "line 3, column 7"
    if not at:  # int() itself refused a number
        number = next(_LONG_NUMBER.finditer(text))
        return not_toml(text.count("\n", 0, number.start()) + 1, "an integer of too many digits")
    lines = text.split("\n")
    line, column = map(int, re.findall(r"\d+", place) or (len(lines), len(lines[-1]) + 1))
    before = "\n".join([*lines[: line - 1], lines[line - 1][: column - 1]])
    if message.startswith(("Cannot ", "Duplicate ")) and (problem := _repeated(before)):
        return problem
    if opening := _never_closed(text, line):
        name = repr(opening.text) if opening.text in _CLOSES else "the string"
        hint = f"close it with {_CLOSES.get(opening.text, opening.text)}"
        return not_toml(opening.line, f"{name} is never closed", hint)
    return not_toml(line, message[:1].lower() + message[1:], _HINTS.get(message, ""))


def _repeated(text: str) -> Problem | None:
    """Return what is written twice, given a text that ends with it."""
    lines: dict[Key, int] = {}
    repeated: list[Problem] = []
    for key, line in written(text):
        if key in lines:
            hint = f"first on line {lines[key]}: keep one of the two"
            repeated.append(Problem(Where(key, None, line), "is written twice", hint, code="toml-syntax"))
        note(lines, key, line)
    last = [problem for problem in repeated if problem.where.line == repeated[-1].where.line]
    return last[0] if last else None  # the others are in its value


def _never_closed(text: str, line: int) -> Token | None:
    """Return the innermost opening that nothing closes before the first statement from a line on."""
    opened: list[Token] = []
    for number, group in groupby(tokens_of(text), key=lambda token: token.line):
        tokens = [token.text for token in group]
        header = tokens[0] == "[" and tokens[-1] == "]" and not {"=", ","} & set(tokens)
        if opened and number >= max(line, opened[-1].line + 1) and (header or tokens[1:2] == ["="]):
            break
        for token in tokens if opened or not header else ():
            if token in _QUOTES:
                return Token(token, number) if number <= line else None
            if token in _CLOSES:
                opened.append(Token(token, number))
            elif opened and opened[-1].text + token in ("[]", "{}"):
                opened.pop()
    return opened[-1] if opened else None
