"""``extends = "other.toml"``: a recipe that holds only what is different."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uldm_core.errors import Code, Key, MistakeError, Problem, did_you_mean, expected
from uldm_core.recipe.document import Document
from uldm_core.recipe.shipped import find
from uldm_core.spec.structure import path_of


def read_whole(path: Path, behind: tuple[Path, ...] = ()) -> Document:
    """Read a recipe and those that it extends, merged; ``behind`` are the files that extend this one.

    Raises:
        MistakeError: a file is missing or not TOML, or a recipe extends itself.
    """
    return with_base(Document.read(path), path.parent, (*behind, path.resolve()))


def with_base(document: Document, folder: Path, behind: tuple[Path, ...] = ()) -> Document:
    """Return a document merged with the one it ``extends``: a path in ``folder``, or a shipped recipe."""
    if "extends" not in document.data:
        return document
    named = document.data.pop("extends")
    if not isinstance(named, str) or not named:
        raise _refused(document, "wrong-type", expected("the path of a recipe", named))
    path = _file_of(document, folder, named)
    if path.resolve() in behind:
        names = " -> ".join(file.name for file in (*behind[behind.index(path.resolve()) :], path))
        raise _refused(document, "cycle", f"a cycle: {names}")
    base = read_whole(path, behind)
    merge(base, base.data, document, document.data)
    base.source = document.source
    return base


def _file_of(document: Document, folder: Path, named: str) -> Path:
    """Return the file in a folder, or of a shipped recipe, of that name."""
    path = folder / path_of(named)
    if not os.path.exists(path) and not path.suffix:
        try:
            path = find(named)
        except MistakeError as error:
            (problem,) = error.problems
            raise _refused(document, "missing-file", problem.what, problem.hint) from error
    if not os.path.isfile(path):
        beside = sorted(other.name for other in path.parent.glob("*.toml"))
        what = f"there is no file {path}{did_you_mean(path.name, beside)}"
        raise _refused(document, "missing-file", what, "a path is relative to the recipe's own folder")
    return path


def _refused(document: Document, code: Code, what: str, hint: str = "") -> MistakeError:
    return MistakeError(Problem(document.where(("extends",)), what, hint, code=code))


def merge(
    base: Document, below: dict[str, Any], over: Document, above: Mapping[str, Any], at: Key = ()
) -> None:
    """Merge one table into another, key by key; one that names another component replaces the old one.

    The table ``above`` of ``over`` goes into the table ``below`` of ``base``, which is changed in place; both
    are at the key ``at``.
    """
    for name, value in above.items():
        key = (*at, name)
        old, new = _as_tables(below.get(name), value)
        if isinstance(old, dict) and isinstance(new, dict) and not names_another(old, new):
            below[name] = old
            merge(base, old, over, new, key)
        else:
            kept = {"kind": old["kind"]} if isinstance(old, dict) and "kind" in old else {}
            below[name] = {**kept, **value} if isinstance(value, dict) else value
            base.forget(key)
            base.places |= {k: place for k, place in over.places.items() if k[: len(key)] == key}
        if key in over.places:
            base.places[key] = over.places[key]


def _as_tables(old: Any, new: Any) -> tuple[Any, Any]:
    """A bare string is short for ``{ use = "..." }`` where the other is a table of a component."""
    if isinstance(old, str) and isinstance(new, dict):
        return {"use": old}, new
    if isinstance(new, str) and isinstance(old, dict) and "use" in old:
        return old, {"use": new}
    return old, new


def names_another(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether a table names another component than the one it is merged into."""
    return any(name in new and new[name] != old.get(name) for name in ("use", "ref", "from"))
