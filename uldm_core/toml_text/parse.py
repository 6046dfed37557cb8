"""Parsing TOML: the values, the line of each key, and why a text is not TOML."""

from __future__ import annotations

import re
import sys
from typing import Any

from uldm_core.errors import Key, MistakeError, Problem, Where
from uldm_core.toml_text.locate import STRING, locate, not_toml, note, written

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TOKEN = re.compile(
    rf"""\#[^\n]*
    |{STRING}
    |(?P<quote>\"{{3}}|'{{3}}|[\"'])
    |(?P<open>[\[{{])
    |(?P<close>[\]}}])
    |(?P<statement>(?<=\n)[ \t]*(?:\[\[?[\w.\-\"' ]+\]\]?[ \t]*(?:\#[^\n]*)?(?=\n|$)|[\w.\-]+[ \t]*=))""",
    re.VERBOSE | re.DOTALL,
)
_LONG_NUMBER = re.compile(r"\d(?:_?\d){4299}")
_CLOSES = {"[": "]", "{": "}"}
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
    message, _, place = str(error).removesuffix(")").partition(" (at ")  # "line 3, column 7"
    if not place:  # int() itself refused it
        number = next(_LONG_NUMBER.finditer(text))
        return not_toml(_line(text, number.start()), "an integer of too many digits")
    found = re.fullmatch(r"line (\d+), column (\d+)", place)
    offset = _offset(text, int(found[1]), int(found[2])) if found else len(text)
    if message.startswith(("Cannot ", "Duplicate ")) and (problem := _repeated(text[:offset])):
        return problem
    if opening := _never_closed(text, offset):
        return not_toml(_line(text, opening[0]), f"{opening[1]} is never closed", opening[2])
    return not_toml(_line(text, offset), message[:1].lower() + message[1:], _HINTS.get(message, ""))


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


def _never_closed(text: str, until: int) -> tuple[int, str, str] | None:
    """Return the innermost opening before ``until`` that nothing closes: its offset, its name and a hint."""
    stack: list[int] = []
    for token in _TOKEN.finditer(text):
        kind, at = token.lastgroup, token.start()
        if kind == "quote":
            return (at, "the string", f"close it with {token[0]}") if at <= until else None
        if kind == "open" and (stack or "=" in text[text.rfind("\n", 0, at) + 1 : at]):  # else of a header
            stack.append(at)
        elif kind == "close" and stack and token[0] == _CLOSES[text[stack[-1]]]:
            stack.pop()
        elif kind == "statement" and stack and at >= until - 1:
            break
    if not stack:
        return None
    opening = text[stack[-1]]
    one_line = "; it ends on the line it begins on" if opening == "{" else ""
    return stack[-1], f"{opening!r}", f"close it with {_CLOSES[opening]!r}{one_line}"


def _offset(text: str, line: int, column: int) -> int:
    return sum(len(other) + 1 for other in text.split("\n")[: line - 1]) + column - 1


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1
