"""Recipes that ship with uldm or a plugin, by their bare names."""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import Path

from uldm_core import registry
from uldm_core.errors import MistakeError, did_you_mean, listing
from uldm_core.paths import inside
from uldm_core.registry.plugins import OWN_PLUGIN
from uldm_core.spec.structure import path_of


def find(text: str | Path, folder: Path = Path()) -> Path:
    """Return the file of a recipe.

    Args:
        text: a file; a run's folder; or the name of a shipped recipe, ``name`` or ``plugin/name``.
        folder: that a relative path is relative to.

    Raises:
        MistakeError: there is none; it is a folder whose recipe is a link.
    """
    path = folder / path_of(text)
    if os.path.isfile(path / "recipe.toml"):
        return inside(path, "recipe.toml")
    if os.path.lexists(path):
        return path
    known = shipped()
    if str(text) in known:
        return known[str(text)]
    near = did_you_mean(path.name, [*names(), *(other.name for other in path.parent.glob("*.toml"))])
    hint = f"name a file, a run's folder or a shipped recipe: {listing(names())}"
    raise MistakeError(f"there is no recipe {str(path)!r}{near}", hint=hint, code="missing-file")


def names() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(name for name in shipped() if "/" not in name)


def shipped() -> dict[str, Path]:
    """Return the shipped recipes by ``name`` and by ``plugin/name``; uldm's own keep their bare names."""
    found: dict[str, Path] = {}
    plugins = registry.default().plugins.values()
    for plugin in sorted(plugins, key=lambda plugin: plugin.name != OWN_PLUGIN):
        for path in (path for folder in plugin.recipes for path in sorted(folder.glob("*.toml"))):
            found.setdefault(path.stem, path)
            found[f"{plugin.name}/{path.stem}"] = path
    return found


def summary(path: Path) -> str:
    """Return the first sentence of the comment that a recipe opens with."""
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#:")]
    comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
    return comment.partition(". ")[0].partition("; ")[0]
