"""A recipe as it was written: nested tables, and the place each key came from."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from attrs import define, field

from uldm_core.errors import Key, MistakeError, Problem, Where
from uldm_core.recipe.locate import locate

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML; raises ``ValueError`` if it is none."""
    return tomllib.loads(text)


@define
class Document:
    """Nested tables with places: a file's lines, or the override that set a key."""

    data: dict[str, Any]
    source: str | None = None
    lines: dict[Key, int] = field(factory=dict)
    overridden: dict[Key, str] = field(factory=dict)

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a TOML file; raises ``MistakeError`` if it is missing, unreadable or not TOML."""
        try:
            text = path.read_bytes().decode("utf-8")
            data = parse_toml(text)
        except OSError as error:
            raise MistakeError(f"{path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise MistakeError(Problem(Where((), str(path), line), "not UTF-8")) from error
        except tomllib.TOMLDecodeError as error:
            raise MistakeError(_syntax_problem(str(path), str(error), text)) from error
        return cls(data, str(path), locate(text))

    def where(self, key: Key) -> Where:
        """Return the place of a key, or of the nearest table around it that has one."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.overridden:
                return Where(key, self.overridden[key[:end]])
            if key[:end] in self.lines:
                return Where(key, self.source, self.lines[key[:end]])
        return Where(key, self.source)

    def override(self, key: Key, text: str) -> None:
        """Note that an override set this key, so that what stood in and below it has its place no more."""
        self.lines = {k: line for k, line in self.lines.items() if k[: len(key)] != key}
        self.overridden = {k: said for k, said in self.overridden.items() if k[: len(key)] != key}
        self.overridden[key] = text

    def placed(self, problem: Problem) -> Problem:
        """Return the problem with the place of its key."""
        return Problem(self.where(problem.where.key), problem.what, problem.hint)


def _syntax_problem(source: str, message: str, text: str) -> Problem:
    """Turn tomllib's ``... (at line 3, column 7)`` into a place."""
    found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    line = int(found[1]) if found and found[1] else text.count("\n") + 1
    return Problem(Where((), source, line), f"not TOML: {message[: found.start()] if found else message}")
