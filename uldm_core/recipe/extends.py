"""``extends = "other.toml"``: a recipe that holds only what is different."""

from __future__ import annotations

from pathlib import Path

from uldm_core.errors import MistakeError, expected
from uldm_core.recipe.document import Document
from uldm_core.recipe.shipped import find


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
    try:
        if not isinstance(named, str) or not named:
            raise MistakeError(expected("the path of a recipe", named), code="wrong-type")
        path = find(named, folder)
        if path.resolve() in behind:
            names = " -> ".join(file.name for file in (*behind[behind.index(path.resolve()) :], path))
            raise MistakeError(f"a cycle: {names}", code="cycle")
    except MistakeError as error:
        raise error.at(document.where(("extends",))) from error
    base = read_whole(path, behind)
    base.merge(document)
    base.whole = document.whole
    return base
