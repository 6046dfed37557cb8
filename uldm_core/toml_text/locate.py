"""The line of every key and array item of a TOML text, which TOML parsers do not give."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import chain, count, takewhile
from typing import NamedTuple

from uldm_core.errors import Key, MistakeError, Problem, Where

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEEPEST = 100
"""The most tables and lists that may be nested in each other."""
_TOKEN = re.compile(
    r"""(?P<blank>(?:\s|\#[^\n]*)+)
    |"{3}(?:[^\\]|\\.)*?"{3,5} | '{3}.*?'{3,5} | "(?!"")(?:[^"\\\n]|\\.)*" | '(?!'')[^'\n]*'  # a string
    |"{3} | '{3} | ["']  # one that is never closed
    |[\[\]{}=,]
    |(?:[^\s\[\]{}=,\#"']|(?<=\d)[ ](?=\d\d:))+  # a number, a date, a key and dots between its parts
    """,
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    """A bracket, ``=``, a comma, a string or a word, and its line."""

    text: str
    line: int


def locate(text: str) -> dict[Key, int]:
    """Return the line (from 1) of every table, key and array item of a TOML text.

    Raises:
        MistakeError: they are nested deeper than ``DEEPEST``; it names the line.
    """
    lines: dict[Key, int] = {}
    for key, line in written(text):
        if len(key) > DEEPEST:
            raise MistakeError(not_toml(line, "nested too deeply", "nest fewer tables and lists"))
        note(lines, key, line)
    return lines


def not_toml(line: int, what: str, hint: str = "") -> Problem:
    """Return what is wrong on a line, as a problem."""
    return Problem(Where((), None, line), f"not TOML: {what}", hint, code="toml-syntax")


def note(lines: dict[Key, int], key: Key, line: int) -> None:
    """Note the line of a key, and of those around it that were not written before."""
    for end in range(1, len(key) + 1):
        lines.setdefault(key[:end], line)


def written(text: str) -> Iterator[tuple[Key, int]]:
    """Yield the key and line of every table, value and array item, in the order written."""
    tokens = tokens_of(text)
    table: Key = ()
    counts: dict[Key, int] = {}
    for token in tokens:
        if token.text == "[":
            table = _header(tokens, counts)
            yield table, token.line
        else:
            yield from _pair(token, tokens, table)


def tokens_of(text: str) -> Iterator[Token]:
    """Yield the tokens of a text, which need not be TOML; of a string that is never closed, the quotes."""
    line = 1
    for found in _TOKEN.finditer(text):
        if found.lastgroup != "blank":
            yield Token(found[0], line)
        line += found[0].count("\n")


def _header(tokens: Iterator[Token], counts: dict[Key, int]) -> Key:
    """Read ``[table]`` or ``[[array]]``; a key that names an array of tables means its last table.

    ``counts`` are the indices of these, by the keys of the arrays.
    """
    key: Key = ()
    array = False
    for token in takewhile(lambda token: token.text != "]", tokens):
        if token.text == "[":
            array = True
            continue
        for part in _parts(token):
            key = (*key, counts[key], part) if key in counts else (*key, part)
    if array:
        next(tokens, None)  # the second bracket
        counts[key] = counts.get(key, -1) + 1
        key = (*key, counts[key])
    return key


def _pair(token: Token, tokens: Iterator[Token], table: Key) -> Iterator[tuple[Key, int]]:
    parts = [_parts(part) for part in takewhile(lambda token: token.text != "=", chain([token], tokens))]
    key = (*table, *chain(*parts))
    yield key, token.line
    yield from _value(next(tokens, token), tokens, key)


def _value(token: Token, tokens: Iterator[Token], key: Key) -> Iterator[tuple[Key, int]]:
    """Read the value that begins with a token; yield what is in it."""
    if token.text == "[":
        index = count()
        for item in takewhile(lambda token: token.text != "]", tokens):
            if item.text != ",":
                inner = (*key, next(index))
                yield inner, item.line
                yield from _value(item, tokens, inner)
    elif token.text == "{":
        for name in takewhile(lambda token: token.text != "}", tokens):
            if name.text != ",":
                yield from _pair(name, tokens, key)


def _parts(token: Token) -> list[str]:
    """Return the parts of a key in a token: that of a string, or those that dots separate."""
    if token.text[0] in "\"'":
        return [tomllib.loads(f"key = {token.text}")["key"]]
    return [part for part in token.text.split(".") if part]
