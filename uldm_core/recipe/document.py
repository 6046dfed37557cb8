"""A recipe as it was written: nested tables, and the place of each key."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

from attrs import define, evolve, field

from uldm_core.errors import Key, MistakeError, Problem, Where, around
from uldm_core.toml_text.locate import locate
from uldm_core.toml_text.syntax import TooDeepError, syntax_problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


DEEPEST = 100
"""The most tables and lists that may be nested in each other."""

LARGEST = 10_000_000
"""The most bytes of a recipe's file: reading more takes minutes, and nobody writes that by hand."""


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML; raises ``ValueError`` if it is not TOML."""
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise TooDeepError from None
    refuse_depth(data)
    return data


def refuse_depth(data: object) -> None:
    """Raise ``TooDeepError`` if tables and lists are nested too deeply, or in themselves."""
    level = [data]
    for _ in range(DEEPEST):
        holders = [value for value in level if isinstance(value, (dict, list))]
        level = [item for held in holders for item in (held.values() if isinstance(held, dict) else held)]
        if not level:
            return
    raise TooDeepError


@define
class Document:
    """Nested tables with places: a file's lines, or the override that set a key.

    Args:
        data: the tables.
        source: the file; None for Python values.
        places: of each key.
        problems: what was wrong with overrides.
        texts: the values that overrides set, as they were typed.
    """

    data: dict[str, Any]
    source: str | None = None
    places: dict[Key, Where] = field(factory=dict)
    problems: list[Problem] = field(factory=list)
    texts: dict[Key, str] = field(factory=dict)

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a TOML file.

        Raises:
            MistakeError: it is missing, unreadable or not TOML.
        """
        text = _read_text(path)
        try:
            data = parse_toml(text)
        except ValueError as error:
            problem = syntax_problem(text, error)
            raise MistakeError(evolve(problem, where=evolve(problem.where, source=str(path)))) from error
        places = {key: Where(key, str(path), line) for key, line in locate(text).items()}
        return cls(data, str(path), places)

    def where(self, key: Key) -> Where:
        """Return the place of a key, or of the innermost table around it that has one."""
        whole = Where((), self.source, 1 if self.source else None)
        place = next((self.places[outer] for outer in around(key) if outer in self.places), whole)
        return evolve(place, key=key)

    def folder(self, key: Key) -> Path:
        """Return the folder that a path at a key is relative to: that of the file it is written in."""
        where = self.where(key)
        return Path(where.source).parent if where.source and where.line is not None else Path()

    def forget(self, key: Key) -> None:
        """Drop the places of a key and of everything in it, since its value is replaced."""
        self.places = {k: place for k, place in self.places.items() if k[: len(key)] != key}
        self.texts = {k: text for k, text in self.texts.items() if k[: len(key)] != key}

    def override(self, key: Key, text: str) -> None:
        """Set the place of a key to an override, and drop those of everything in it."""
        self.forget(key)
        self.places[key] = Where(key, f"override {text!r}")


def _read_text(path: Path) -> str:
    """Return the text of a file; raises ``MistakeError`` if it cannot be read."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # reading a pipe or a device may never end
            hint = "name a recipe's file, or a run's folder"
            raise MistakeError(f"{path}: not a file", hint=hint, code="unreadable-file")
        if found.st_size > LARGEST:
            what = f"{path}: of {found.st_size / 1e6:.0f} MB, no recipe is as large"
            raise MistakeError(what, code="unreadable-file")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = Where((), str(path), error.object[: error.start].count(b"\n") + 1)
        problem = Problem(where, "not UTF-8", "save the file as UTF-8", code="unreadable-file")
        raise MistakeError(problem) from error
    except FileNotFoundError as error:
        raise MistakeError(f"{path}: {error.strerror}", code="missing-file") from error
    except (OSError, ValueError) as error:  # ValueError: no file can have that name
        raise MistakeError(f"{path}: {getattr(error, 'strerror', error)}", code="unreadable-file") from error
