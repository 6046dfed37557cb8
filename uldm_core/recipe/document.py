"""A recipe as it was written: nested tables, and the place each key came from."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import define, evolve, field

from uldm_core.errors import Key, MistakeError, Problem, Where
from uldm_core.toml_text.locate import locate
from uldm_core.toml_text.recovery import read_on
from uldm_core.toml_text.syntax import TOO_DEEP

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


DEEPEST = 100
"""So many tables and lists may lie in each other."""

LARGEST = 10_000_000
"""Bytes of a recipe's file, at most: to read many more takes minutes, and none is written by hand."""


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
        problems: what was wrong with overrides, and with the syntax.
        holes: keys whose values are not readable.
        texts: the values that overrides set, as they were typed.
        unparsed: of those that look like TOML and are none, what is wrong with them.
    """

    data: dict[str, Any]
    source: str | None = None
    places: dict[Key, Where] = field(factory=dict)
    problems: list[Problem] = field(factory=list)
    holes: set[Key] = field(factory=set)
    texts: dict[Key, str] = field(factory=dict)
    unparsed: dict[Key, Problem] = field(factory=dict)

    @classmethod
    def read(cls, path: Path, *, forgiving: bool = False) -> Document:
        """Read a TOML file.

        Args:
            path: the file.
            forgiving: read on behind what is not TOML, if one can; it is among the problems then.

        Raises:
            MistakeError: it is missing, unreadable or not TOML.
        """
        try:
            _refuse_no_text(path)
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise MistakeError(
                Problem(Where((), str(path), line), "not UTF-8", "save the file as UTF-8")
            ) from error
        except (OSError, ValueError) as error:  # no file of that name can be
            raise MistakeError(f"{path}: {getattr(error, 'strerror', error)}") from error
        try:
            data = parse_toml(text)
        except ValueError as error:
            rest = read_on(text, str(error), parse_toml)
            problems = [_of_file(problem, str(path)) for problem in rest.problems]
            if not forgiving or rest.data is None:
                raise MistakeError(*problems) from error
            return cls(rest.data, str(path), _places(rest.lines, path), problems, rest.holes)
        return cls(data, str(path), _places(locate(text), path))

    def where(self, key: Key) -> Where:
        """Return the place of a key, or of the nearest table around it that has one."""
        around = (key[:end] for end in range(len(key), 0, -1))
        place = next((self.places[outer] for outer in around if outer in self.places), self._whole())
        return evolve(place, key=key)

    def folder(self, key: Key) -> Path:
        """Return what a path at a key is relative to: the folder of the file that it was written in."""
        where = self.where(key)
        return Path(where.source).parent if where.source and where.line is not None else Path()

    def _whole(self) -> Where:
        return Where((), self.source, 1 if self.source else None)

    def forget(self, key: Key) -> None:
        """Drop what is known of a key and of everything in it: something else stands there now."""
        known: tuple[dict[Key, Any], ...] = (self.places, self.texts, self.unparsed)
        for table in known:
            for other in [other for other in table if other[: len(key)] == key]:
                del table[other]

    def override(self, key: Key, text: str) -> None:
        """Note that an override set this key, so that what stood in and below it has its place no more."""
        self.forget(key)
        self.places[key] = Where(key, f"override {text!r}")

    def placed(self, problem: Problem) -> Problem:
        """Return the problem with the place of its key."""
        return evolve(problem, where=self.where(problem.where.key))


def _refuse_no_text(path: Path) -> None:
    """Raise ``MistakeError`` for what is there and can be no recipe; a pipe or device may never end."""
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise MistakeError(f"{path}: a folder without recipe.toml", hint="name a file, or a run's folder")
    if not stat.S_ISREG(found.st_mode):
        raise MistakeError(f"{path}: neither a file nor a folder", hint="write the recipe into a file")
    if found.st_size > LARGEST:
        raise MistakeError(f"{path}: of {found.st_size / 1e6:.0f} MB, no recipe is as large")


def _places(lines: Mapping[Key, int], path: Path) -> dict[Key, Where]:
    return {key: Where(key, str(path), line) for key, line in lines.items()}


def _of_file(problem: Problem, source: str) -> Problem:
    return evolve(problem, where=evolve(problem.where, source=source))
