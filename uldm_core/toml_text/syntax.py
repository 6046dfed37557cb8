"""What is wrong with a text that is not TOML, and on which line it began."""

from __future__ import annotations

import re

from uldm_core.errors import Problem, Where
from uldm_core.toml_text.locate import Repeated, Unreadable, locate

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
_EXPLAINED = {
    "Invalid value": (
        "expected a value",
        'a string needs quotes ("..."); true and false are lower-case; '
        "a number begins with a digit; there is no null: leave the key out",
    ),
    "Expected newline or end of document after a statement": (
        "there is something after the statement",
        "one KEY = VALUE or [TABLE] a line; a string needs quotes",
    ),
    "Expected '=' after a key in a key/value pair": (
        "expected KEY = VALUE",
        "a value follows '=': KEY = VALUE; a table begins with [NAME]",
    ),
    "Invalid initial character for a key part": (
        "expected a name",
        "no comma before '}'; a name of more than letters, digits, _ and - needs quotes",
    ),
    "Unclosed array": ("expected ',' or ']'", ""),
    "Unclosed inline table": ("expected ',' or '}'", ""),
    "Unescaped '\\' in a string": (
        "a backslash that begins no escape",
        "a path in single quotes keeps its backslashes: 'C:\\images'",
    ),
    "Expected ']' at the end of a table declaration": ("'[' is never closed", "close it with ']'"),
    "Expected ']]' at the end of an array declaration": ("'[[' is never closed", "close it with ']]'"),
}
"""What the parser's frequent messages mean, and how to fix it."""


class TooDeepError(ValueError):
    """Tables and lists are nested too deeply."""

    def __init__(self) -> None:
        super().__init__("nested too deeply")


def syntax_problem(text: str, error: ValueError) -> Problem:
    """Explain why a text is not TOML: a repeated key, an unclosed bracket, or what the parser reports.

    The parser's message ends in ``(at line 3, column 7)``, the only place where it tells these.
    """
    text = text.replace("\r\n", "\n")
    if repeated := _repeated(text):
        return repeated
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error))
    if not found:  # nested too deeply, or a number of too many digits
        return _not_toml(None, str(error).partition(";")[0])
    message, line, column = found.groups()
    offset = len(text)
    if line:
        offset = sum(len(other) + 1 for other in text.split("\n")[: int(line) - 1]) + int(column) - 1
    if unclosed := _never_closed(text, offset):
        return unclosed
    return _not_toml(_line(text, offset), *_EXPLAINED.get(message, (message[:1].lower() + message[1:], "")))


def _not_toml(line: int | None, what: str, hint: str = "") -> Problem:
    return Problem(Where((), None, line), f"not TOML: {what}", hint, code="toml-syntax")


def _repeated(text: str) -> Problem | None:
    """Return the first key or table that is written twice, which no parser accepts."""
    try:
        locate(text)
    except Repeated as found:
        what = f"{str(found.key[-1])!r} is written twice"
        hint = f"first on line {found.first}: keep one of the two"
        return Problem(Where(found.key, None, found.again), what, hint, code="toml-syntax")
    except Unreadable:
        pass
    return None


def _never_closed(text: str, until: int) -> Problem | None:
    """Return the innermost opening before ``until`` that nothing closes."""
    stack: list[int] = []
    for token in _TOKEN.finditer(text):
        kind, at = token.lastgroup, token.start()
        if kind == "quote":
            hint = f"close it with {token[0]}"
            return _not_toml(_line(text, at), "the string is never closed", hint) if at <= until else None
        in_value = stack or "=" in text[text.rfind("\n", 0, at) + 1 : at]  # not in a table's name
        if kind == "open" and in_value:
            stack.append(at)
        elif kind == "close" and stack and token[0] == _CLOSES[text[stack[-1]]]:
            stack.pop()
        elif kind == "statement" and stack and at >= until - 1:
            break
    if not stack:
        return None
    opening = text[stack[-1]]
    one_line = "; it ends on the line it begins on" if opening == "{" else ""
    hint = f"close it with {_CLOSES[opening]!r}{one_line}"
    return _not_toml(_line(text, stack[-1]), f"{opening!r} is never closed", hint)


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1
