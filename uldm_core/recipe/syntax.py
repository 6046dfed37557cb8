"""What is wrong with a text that is not TOML, and on which line it began."""

from __future__ import annotations

import re
from collections.abc import Iterator

from uldm_core.errors import Key, Problem, Where, dotted
from uldm_core.recipe.locate import Unreadable, walk

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)
    |(?P<string>\"{3}(?:[^\\]|\\.)*?\"{3,5}|'{3}.*?'{3,5}|\"(?!\"\")(?:[^\"\\\n]|\\.)*\"|'(?!'')[^'\n]*')
    |(?P<quote>\"{3}|'{3}|[\"'])
    |(?P<open>[\[{])
    |(?P<close>[\]}])
    |(?P<statement>(?<=\n)[ \t]*(?:\[\[?[\w.\-\"' ]+\]\]?[ \t]*(?:\#[^\n]*)?(?=\n|$)|[\w.\-]+[ \t]*=))""",
    re.VERBOSE | re.DOTALL,
)
_CLOSES = {"[": "]", "{": "}"}
_SAID = {
    "Invalid value": "expected a value",
    "Invalid statement": "expected KEY = VALUE or [TABLE]",
    "Expected newline or end of document after a statement": "there is something behind the value",
    "Expected '=' after a key in a key/value pair": "expected KEY = VALUE",
    "Invalid initial character for a key part": "expected a key",
    "Unclosed array": "expected ',' or ']'",
    "Unclosed inline table": "expected ',' or '}'",
    "Expected ']' at the end of a table declaration": "'[' is never closed",
    "Expected ']]' at the end of an array declaration": "'[[' is never closed",
}
_HINTS = {
    "expected a value": (
        'a string needs quotes ("..."); true and false are lower-case; there is no null: leave the key out'
    ),
    "there is something behind the value": "one KEY = VALUE a line; a string needs quotes",
    "'[' is never closed": "close it with ']'",
    "'[[' is never closed": "close it with ']]'",
    "expected a key": "no comma before '}'; a key of other signs than letters, digits, _ and - needs quotes",
}


def syntax_problems(text: str, message: str) -> list[Problem]:
    """Explain a parser's message: repeated keys, an opening that is never closed, or the place it says.

    Args:
        text: which is not TOML.
        message: the parser's, ``... (at line 3, column 7)``.
    """
    text = text.replace("\r\n", "\n")
    if repeated := list(_repeated(text)):
        return repeated
    found = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    offset = _offset(text, int(found[1]), int(found[2])) if found and found[1] else len(text)
    if opening := _never_closed(text, offset):
        line = _line(text, opening[0])
        return [Problem(Where((), None, line), f"not TOML: {opening[1]} is never closed", opening[2])]
    what = (message[: found.start()] if found else message).partition(";")[0]
    what = _SAID.get(what, what[:1].lower() + what[1:])
    return [Problem(Where((), None, _line(text, offset)), f"not TOML: {what}", _HINTS.get(what, ""))]


def _repeated(text: str) -> Iterator[Problem]:
    """Yield keys and tables that are written twice, which no parser reads."""
    try:
        repeated = walk(text).repeated
    except Unreadable:
        return
    for key, (first, again) in repeated.items():
        if any(key[:end] in repeated for end in range(1, len(key))):
            continue  # what is in a table that is written twice
        what = f"{_called(key)} is written twice"
        yield Problem(Where(key, None, again), what, f"first on line {first}: keep one of the two")


def _called(key: Key) -> str:
    return repr(dotted(key[-1:]))


def _never_closed(text: str, until: int) -> tuple[int, str, str] | None:
    """Return the innermost opening before ``until`` that nothing closes: its offset, its name and a hint."""
    stack: list[int] = []
    for token in _TOKEN.finditer(text):
        kind, at = token.lastgroup, token.start()
        if kind == "quote":
            return (at, "the string", f"close it with {token[0]}") if at <= until else None
        if kind == "open" and _opens_a_value(text, at, stack):
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


def _opens_a_value(text: str, at: int, stack: list[int]) -> bool:
    """Whether a bracket opens a list or an inline table, and not a table's name."""
    return bool(stack) or "=" in text[text.rfind("\n", 0, at) + 1 : at]


def _offset(text: str, line: int, column: int) -> int:
    return sum(len(other) + 1 for other in text.split("\n")[: line - 1]) + column - 1


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1
