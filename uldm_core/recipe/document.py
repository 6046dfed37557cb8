"""A recipe as it was written: nested tables, and the place of each key."""

from __future__ import annotations

import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, evolve, field

from uldm_core.errors import Key, MistakeError, Problem, Where, around
from uldm_core.toml_text.parse import parse_and_locate

LARGEST = 10_000_000
"""The most bytes of a recipe's file: reading more takes minutes, and nobody writes that by hand."""
T = TypeVar("T")


@define
class Document:
    """Nested tables with places: a file's lines, or the override that set a key.

    Args:
        data: the tables.
        whole: the place of all of it: a file, or an override; nothing for Python values.
        places: of each key of a file.
        problems: what was wrong with overrides and variables.
        texts: the values that overrides set, as they were typed.
        origins: of values that came from variables: the key of each, and the variables'.
    """

    data: dict[str, Any]
    whole: Where = field(factory=Where)
    places: dict[Key, Where] = field(factory=dict)
    problems: list[Problem] = field(factory=list)
    texts: dict[Key, str] = field(factory=dict)
    origins: dict[Key, list[Key]] = field(factory=dict)

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a TOML file.

        Raises:
            MistakeError: it is missing, unreadable or not TOML.
        """
        text, source = _read_text(path), str(path)
        try:
            data, lines = parse_and_locate(text)
        except MistakeError as error:
            (problem,) = error.problems
            raise error.at(evolve(problem.where, source=source)) from error.__cause__
        places = {key: Where(key, source, line) for key, line in lines.items()}
        return cls(data, Where((), source, 1), places)

    def where(self, key: Key) -> Where:
        """Return the place of a key, or of the innermost table around it that has one."""
        place = next((self.places[outer] for outer in around(key) if outer in self.places), self.whole)
        return evolve(place, key=key)

    def placed(self, problem: Problem) -> Problem:
        """Return a problem with the place of its key, and the variables that the value there came from."""
        key = problem.where.key
        if problem.where.source is not None:
            return problem
        origins = next((self.origins[outer] for outer in around(key) if outer in self.origins), [])
        sources = [f"{self.where(origin)} is where the value comes from" for origin in origins]
        return evolve(problem, where=self.where(key), hint="; ".join(filter(None, [problem.hint, *sources])))

    def folder(self, key: Key) -> Path:
        """Return the folder that a path at a key is relative to: that of the file it is written in."""
        where = self.where(key)
        return Path(where.source).parent if where.source and where.line is not None else Path()

    def merge(self, over: Document, naming: Collection[str] = ("use", "ref", "from")) -> None:
        """Merge another document into this one, key by key.

        A table with another value of a key in ``naming`` names another component, and replaces the old one.
        """
        self._merge(self.data, over.data, over, naming, ())

    def _merge(
        self, below: Any, above: Mapping[Any, Any], over: Document, naming: Collection[str], at: Key
    ) -> None:
        """Merge one table, or items of a list by their indices, into the table or list at a key."""
        for name, value in above.items():
            key = (*at, name)
            if isinstance(below, list) and name not in range(len(below)):
                what = f"the list is of length {len(below)}, there is no [{name}]"
                hint = f"write an index: {at[-1]}[0]" if isinstance(name, str) and below else ""
                self.problems.append(Problem(over.where(at), what, hint, code="bad-override"))
                continue
            old, new = _as_tables(below[name] if isinstance(below, list) else below.get(name), value)
            if isinstance(old, dict) and isinstance(new, dict):
                into = not any(part in new and new[part] != old.get(part) for part in naming)
            else:
                into = isinstance(old, list) and isinstance(new, dict) and bool(over.texts)
            if into and key not in over.texts:
                below[name] = old
                self._merge(old, new, over, naming, key)
                self.places |= {key: over.places[key]} if key in over.places else {}
            else:
                kept = {"kind": old["kind"]} if isinstance(old, dict) and "kind" in old else {}
                below[name] = {**kept, **value} if isinstance(value, dict) else value
                self.places = _replaced(self.places, {key: over.where(key), **over.places}, key)
                self.texts = _replaced(self.texts, over.texts, key)


def _as_tables(old: Any, new: Any) -> tuple[Any, Any]:
    """A bare string is short for ``{ use = "..." }`` where the other is a table of a component."""
    if isinstance(old, str) and isinstance(new, dict):
        return {"use": old}, new
    if isinstance(new, str) and isinstance(old, dict) and "use" in old:
        return old, {"use": new}
    return old, new


def _replaced(ours: Mapping[Key, T], theirs: Mapping[Key, T], key: Key) -> dict[Key, T]:
    """Return ``ours`` with what is at a key, and within it, taken from ``theirs``."""
    kept = {other: value for other, value in ours.items() if other[: len(key)] != key}
    return kept | {other: value for other, value in theirs.items() if other[: len(key)] == key}


def _read_text(path: Path) -> str:
    """Return the text of a file; raises ``MistakeError`` if it cannot be read."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe or a device may never end
            what = f"{path}: not a file" if not path.is_dir() else f"{path}: a folder without a recipe.toml"
            hint = "name a recipe's file, or a run's folder"
            raise MistakeError(what, hint=hint, code="unreadable-file")
        if found.st_size > LARGEST:
            what = f"{path}: of {found.st_size / 1e6:.0f} MB, no recipe is as large"
            raise MistakeError(what, code="unreadable-file")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = Where((), str(path), error.object[: error.start].count(b"\n") + 1)
        problem = Problem(where, "not UTF-8", "save the file as UTF-8", code="unreadable-file")
        raise MistakeError(problem) from error
    except OSError as error:
        raise MistakeError(f"{path}: {error.strerror}", code="unreadable-file") from error
