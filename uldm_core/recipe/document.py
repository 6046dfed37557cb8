"""A recipe as it was written: nested tables, and the place each key came from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from attrs import define, evolve, field

from uldm_core.errors import Key, MistakeError, Problem, Where
from uldm_core.recipe.locate import locate
from uldm_core.recipe.syntax import TOO_DEEP, syntax_problems

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


DEEPEST = 100
"""So many tables and lists may lie in each other."""


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML; raises ``ValueError`` if it is none."""
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    refuse_depth(data)
    return data


def refuse_depth(data: object) -> None:
    """Raise ``ValueError`` if tables and lists lie too deep in each other, or in themselves."""
    level = [data]
    for _ in range(DEEPEST):
        holders = [value for value in level if isinstance(value, (dict, list))]
        level = [item for held in holders for item in (held.values() if isinstance(held, dict) else held)]
        if not level:
            return
    raise ValueError(TOO_DEEP)


@define
class Document:
    """Nested tables with places: a file's lines, or the override that set a key.

    Args:
        data: the tables.
        source: the file; None for Python values.
        places: where each key was written.
        problems: what was wrong with overrides.
    """

    data: dict[str, Any]
    source: str | None = None
    places: dict[Key, Where] = field(factory=dict)
    problems: list[Problem] = field(factory=list)

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a TOML file; raises ``MistakeError`` if it is missing, unreadable or not TOML."""
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise MistakeError(f"{path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise MistakeError(
                Problem(Where((), str(path), line), "not UTF-8", "save the file as UTF-8")
            ) from error
        try:
            data = parse_toml(text)
        except ValueError as error:
            problems = syntax_problems(text, str(error))
            raise MistakeError(*(_of_file(problem, str(path)) for problem in problems)) from error
        lines = locate(text)
        return cls(data, str(path), {key: Where(key, str(path), line) for key, line in lines.items()})

    def where(self, key: Key) -> Where:
        """Return the place of a key, or of the nearest table around it that has one."""
        around = (key[:end] for end in range(len(key), 0, -1))
        place = next((self.places[outer] for outer in around if outer in self.places), self._whole())
        return evolve(place, key=key)

    def _whole(self) -> Where:
        return Where((), self.source, 1 if self.source else None)

    def forget(self, key: Key) -> None:
        """Drop the places of a key and of everything in it: something else stands there now."""
        self.places = {other: place for other, place in self.places.items() if other[: len(key)] != key}

    def override(self, key: Key, text: str) -> None:
        """Note that an override set this key, so that what stood in and below it has its place no more."""
        self.forget(key)
        self.places[key] = Where(key, f"override {text!r}")

    def placed(self, problem: Problem) -> Problem:
        """Return the problem with the place of its key."""
        return evolve(problem, where=self.where(problem.where.key))


def _of_file(problem: Problem, source: str) -> Problem:
    return evolve(problem, where=evolve(problem.where, source=source))
