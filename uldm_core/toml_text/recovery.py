"""Reading on behind what is not TOML, so that the rest of a recipe is looked at as well."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from attrs import define, field

from uldm_core.errors import Key, Problem
from uldm_core.toml_text.locate import locate
from uldm_core.toml_text.syntax import syntax_problems

_NAME = r"""(?:[A-Za-z0-9_\-]+|"[^"\n]*"|'[^'\n]*')"""
_NAMES = rf"{_NAME}(?:[ \t]*\.[ \t]*{_NAME})*"
_VALUE = re.compile(rf"[ \t]*({_NAMES})[ \t]*=")
_TABLE = re.compile(rf"[ \t]*\[[ \t]*({_NAMES})[ \t]*(?:\]|#|$)")
_ARRAY = re.compile(rf"[ \t]*\[\[[ \t]*{_NAMES}[ \t]*\]\]")
MOST = 20
"""So many mistakes in the syntax are told at once."""


@define
class Rest:
    """What a text says that is not TOML.

    Args:
        problems: why it is none.
        data: the tables of the rest; None where one cannot tell what is the rest.
        lines: of its keys.
        holes: the keys whose values are not readable.
    """

    problems: list[Problem] = field(factory=list)
    data: dict[str, Any] | None = None
    lines: dict[Key, int] = field(factory=dict)
    holes: set[Key] = field(factory=set)


def read_on(text: str, message: str, parse: Callable[[str], dict[str, Any]]) -> Rest:
    """Tell what is wrong with a text that is not TOML, and read the rest of it.

    A statement that cannot be read is left out, one after the other, as long as it is plain where it ends.

    Args:
        text: which is not TOML.
        message: the parser's.
        parse: raises ``ValueError`` for a text that is no TOML.
    """
    mender, rest = _Mender(text.replace("\r\n", "\n").split("\n")), Rest()
    while len(rest.problems) < MOST:
        found = syntax_problems(mender.text, message)
        if any(map(mender.may_have_caused, found)):
            return rest
        rest.problems += found
        if '"""' in text or "'''" in text or not all(map(mender.mend, found)):
            return rest
        try:
            data = parse(mender.text)
        except ValueError as error:
            message = str(error)
            continue
        rest.lines = locate(mender.text)
        rest.holes = {_key_on(line, rest.lines) for line in mender.holes}
        rest.data = None if ("extends",) in rest.holes else data
        return rest
    return rest


def _key_on(line: int, lines: dict[Key, int]) -> Key:
    return max((key for key, other in lines.items() if other == line), key=len, default=())


@define
class _Mender:
    """Makes TOML of a text by leaving out statements; every line keeps its number.

    Args:
        lines: of the text.
        touched: the numbers of those that are not as they were.
        holes: the numbers of those on which a value was left out.
    """

    lines: list[str]
    touched: set[int] = field(factory=set)
    holes: list[int] = field(factory=list)

    @property
    def text(self) -> str:
        """The text as it is now."""
        return "\n".join(self.lines)

    def may_have_caused(self, problem: Problem) -> bool:
        """Whether a problem is where something was left out, or on what may be the rest of it."""
        line = problem.where.line or 1
        return line in self.touched or self.lines[line - 1].lstrip()[:1] in ("]", "}")

    def mend(self, problem: Problem) -> bool:
        """Leave out the statement that a problem is in; return whether that can be done."""
        at = (problem.where.line or 1) - 1
        start = self._start(at)
        if start is None:
            return False
        key, line = problem.where.key, self.lines[start]
        if named := _VALUE.match(line):
            again = key and named[1].endswith(str(key[-1]))  # the first one stays
            end = self._next(at, _begins)
            self._write(start, end, "" if again else f"{named[1]} = 'not readable'")
            self.touched |= {end + 1} if problem.what.endswith("is never closed") else set()
            self.holes += [] if again else [start + 1]
            return True
        if key:
            self._write(start, self._next(at, _is_header), "")
            return True
        if named := _TABLE.match(line):
            self._write(start, start + 1, f"[{named[1]}]")
        return bool(named)

    def _start(self, at: int) -> int | None:
        """Return the line on which the statement begins that goes on at a line; None if there is none."""
        start = next((index for index in range(at, -1, -1) if _begins(self.lines[index])), None)
        if start is None or start == at:
            return start
        before = "".join(self.lines[start:at])
        opened = sum(before.count(sign) for sign in "[{") - sum(before.count(sign) for sign in "]}")
        return start if opened > 0 else None

    def _next(self, at: int, begins: Callable[[str], bool]) -> int:
        """Return the first line behind one on which something else begins."""
        end = len(self.lines)
        return next((index for index in range(at + 1, end) if begins(self.lines[index])), end)

    def _write(self, start: int, end: int, line: str) -> None:
        self.touched |= {*range(start + 1, end + 1)}
        self.lines[start:end] = [line, *[""] * (end - start - 1)]


def _begins(line: str) -> bool:
    """Whether a statement begins on a line."""
    return bool(_VALUE.match(line)) or _is_header(line)


def _is_header(line: str) -> bool:
    return bool(_TABLE.match(line) or _ARRAY.match(line))
