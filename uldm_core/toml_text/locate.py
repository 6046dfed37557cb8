"""The line of every key and array item of a TOML text, which TOML parsers do not give."""

from __future__ import annotations

import re

from attrs import define, field, frozen

from uldm_core.errors import Key

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)+")
_SPACE = re.compile(r"[ \t]*")
_EQUALS = re.compile("=")
_BARE = re.compile(r"[A-Za-z0-9_\-]+")
_STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)
_ATOM = re.compile(r"[^,\]}#\n]+")
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b", '"': '"', "\\": "\\"}


class Unreadable(ValueError):
    """The text is not TOML."""


@frozen
class Repeated(Unreadable):
    """A key or table is written twice: its key, and the first and the second line."""

    key: Key
    first: int
    again: int


def locate(text: str) -> dict[Key, int]:
    """Return the line (from 1) of every table, key and array item of a TOML text.

    Raises:
        Unreadable: it is not TOML; not all that is wrong is found.
    """
    walker = _Walker(text.replace("\r\n", "\n"))
    try:
        walker.walk()
    except (IndexError, RecursionError) as error:
        raise Unreadable(str(error)) from error
    return walker.lines


@define
class _Walker:
    """Walks a text once and collects the lines of every table, key and array item."""

    text: str
    lines: dict[Key, int] = field(factory=dict)
    at: int = 0
    counts: dict[Key, int] = field(factory=dict)
    dotted: set[Key] = field(factory=set)
    defined: dict[Key, int] = field(factory=dict)

    def walk(self) -> None:
        """Collect the line of every key."""
        table: Key = ()
        self._skip(_BLANK)
        while self.at < len(self.text):
            if self.text.startswith("[", self.at):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _define(self, key: Key, line: int) -> None:
        """Note the line that defines a value or a table; raises ``Repeated`` if another one does."""
        if key in self.defined:
            raise Repeated(key, self.defined[key], line)
        self.defined[key] = line

    def _header(self) -> Key:
        """Read ``[table]`` or ``[[array]]`` and return the key of what follows."""
        line, array = self._line(), self.text.startswith("[[", self.at)
        self.at += 2 if array else 1
        *outer, last = self._key()
        self.at += 2 if array else 1
        key: Key = ()
        for part in outer:
            self.lines.setdefault((*key, part), line)
            key = self._innermost((*key, part))
        key = (*key, last)
        self.lines.setdefault(key, line)
        if array and key not in self.defined:
            index = self.counts[key] = self.counts.get(key, -1) + 1
            self.lines[(*key, index)] = line
            return (*key, index)
        if key in self.counts or key in self.dotted:
            raise Repeated(key, self.lines[key], line)
        self._define(key, line)
        return key

    def _innermost(self, key: Key) -> Key:
        """A key that names an array of tables means its last table."""
        return (*key, self.counts[key]) if key in self.counts else key

    def _pair(self, table: Key) -> None:
        line = self._line()
        key = table
        for part in self._key():
            if key != table:
                self.dotted.add(key)
            key = (*key, part)
            self.lines.setdefault(key, line)
        self._define(key, line)
        self._skip(_SPACE)
        self._take(_EQUALS)
        self._skip(_SPACE)
        self._value(key)

    def _key(self) -> list[str]:
        parts = []
        while True:
            self._skip(_SPACE)
            parts.append(self._key_part())
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return parts
            self.at += 1

    def _key_part(self) -> str:
        if self.text[self.at] in "\"'":
            quoted = self._string()
            return _unescape(quoted[1:-1]) if quoted[0] == '"' else quoted[1:-1]
        return self._take(_BARE)

    def _value(self, key: Key) -> None:
        opening = self.text[self.at]
        if opening in "\"'":
            self._string()
        elif opening == "[":
            self._array(key)
        elif opening == "{":
            self._inline_table(key)
        else:
            self._take(_ATOM)

    def _array(self, key: Key) -> None:
        self.at += 1
        index = 0
        while not self._closes("]"):
            self.lines[(*key, index)] = self._line()
            self._value((*key, index))
            index += 1

    def _inline_table(self, key: Key) -> None:
        self.at += 1
        while not self._closes("}"):
            self._pair(key)

    def _closes(self, bracket: str) -> bool:
        """Skip blanks and commas; consume the bracket if it comes next."""
        self._skip(_BLANK)
        if self.text.startswith(",", self.at):
            self.at += 1
            self._skip(_BLANK)
        closes = self.text.startswith(bracket, self.at)
        self.at += len(bracket) if closes else 0
        return closes

    def _string(self) -> str:
        for pattern in _STRINGS:
            if found := pattern.match(self.text, self.at):
                self.at = found.end()
                return found[0]
        raise Unreadable(f"unclosed string on line {self._line()}")

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if not found:
            raise Unreadable(f"not TOML on line {self._line()}")
        self.at = found.end()
        return found[0]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        if found := pattern.match(self.text, self.at):
            self.at = found.end()

    def _line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1


def _unescape(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        code = found[1]
        return chr(int(code[1:], 16)) if code[0] in "xuU" else _ESCAPES[code]

    return re.sub(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", character, text)
