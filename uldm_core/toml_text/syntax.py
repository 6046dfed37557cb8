"""What is wrong with a text that is not TOML, and on which line it began."""

from __future__ import annotations

import re
from contextlib import suppress

from uldm_core.errors import Key, Problem, Where, dotted
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
TOO_DEEP = "nested too deeply"
_EXPLAINED = {
    "Invalid value": (
        "expected a value",
        'a string needs quotes ("..."); true and false are lower-case; '
        "a number begins with a digit; there is no null: leave the key out",
    ),
    "Invalid statement": (
        "expected KEY = VALUE or [TABLE]",
        "a value is KEY = VALUE, a table begins with [NAME]",
    ),
    "Expected newline or end of document after a statement": (
        "there is something after the value",
        "one KEY = VALUE a line; a string needs quotes",
    ),
    "Expected '=' after a key in a key/value pair": (
        "expected KEY = VALUE",
        "a value follows '=': KEY = VALUE; a table begins with [NAME]",
    ),
    "Invalid initial character for a key part": (
        "expected a key",
        "no comma before '}'; a key of more than letters, digits, _ and - needs quotes",
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
"""What the parser's messages mean, and how to fix it."""
_EXPLAINED_IN_HEADERS = {
    "Expected newline or end of document after a statement": (
        "there is something after the name of the table",
        "one [NAME] a line, and nothing after it",
    ),
    "Invalid initial character for a key part": (
        "expected the name of a table",
        "a table is [NAME] or [NAME.NAME]",
    ),
}
_LONG_NUMBER = re.compile(r"\d(?:_?\d){4299}")


class TooDeepError(ValueError):
    """Tables and lists are nested too deeply."""

    def __init__(self) -> None:
        super().__init__(TOO_DEEP)


def syntax_problem(text: str, error: ValueError) -> Problem:
    """Explain why a text is not TOML: a repeated key, an unclosed bracket, or what the parser reports.

    Args:
        text: which is not TOML.
        error: the parser's; its message ends in ``(at line 3, column 7)``, the only place it is given.
    """
    text, message = text.replace("\r\n", "\n"), str(error)
    if repeated := _repeated(text):
        return repeated
    found = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    offset = _offset(text, int(found[1]), int(found[2])) if found and found[1] else len(text)
    if not found and (unplaced := _unplaced(text, error)):
        return unplaced
    if opening := _never_closed(text, offset):
        return _not_toml(_line(text, opening[0]), f"{opening[1]} is never closed", opening[2])
    message, line = (message[: found.start()] if found else message).partition(";")[0], _line(text, offset)
    in_header = text.split("\n")[line - 1].lstrip().startswith("[")
    explained = _EXPLAINED | _EXPLAINED_IN_HEADERS if in_header else _EXPLAINED
    return _not_toml(line, *explained.get(message, (message[:1].lower() + message[1:], "")))


def _not_toml(line: int, what: str, hint: str = "") -> Problem:
    return Problem(Where((), None, line), f"not TOML: {what}", hint, code="toml-syntax")


def _unplaced(text: str, error: ValueError) -> Problem | None:
    """Return a problem whose place the parser does not give: numbers too long, tables nested too deeply."""
    if isinstance(error, TooDeepError):
        closed = not _never_closed(text, len(text))
        return _not_toml(_deepest(text), TOO_DEEP, "nest fewer tables and lists") if closed else None
    if number := _LONG_NUMBER.search(text):
        return _not_toml(_line(text, number.start()), "an integer of too many digits")
    return None


def _deepest(text: str) -> int:
    """Return the line on which tables and lists are nested deepest."""
    with suppress(Unreadable):
        lines = locate(text)
        return lines[max(lines, key=len)]
    depth, deepest, line = 0, 0, 1
    for token in _TOKEN.finditer(text):
        depth += (token.lastgroup == "open") - (token.lastgroup == "close")
        if depth > deepest:
            deepest, line = depth, _line(text, token.start())
    return line


def _repeated(text: str) -> Problem | None:
    """Return the first key or table that is written twice, which no parser accepts."""
    try:
        locate(text)
    except Repeated as found:
        what, hint = (
            f"{_last_part(found.key)} is written twice",
            f"first on line {found.first}: keep one of the two",
        )
        return Problem(Where(found.key, None, found.again), what, hint, code="toml-syntax")
    except Unreadable:
        pass
    return None


def _last_part(key: Key) -> str:
    return repr(key[-1]) if isinstance(key[-1], str) else dotted(key[-1:])


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
