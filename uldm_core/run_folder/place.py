"""Where a run's folder is."""

from __future__ import annotations

from pathlib import Path

from uldm_core.errors import MistakeError
from uldm_core.paths import inside, names_in
from uldm_core.recipe import Recipe, ResolvedRecipe
from uldm_core.recipe.document import Document
from uldm_core.recipe.variables import substitute
from uldm_core.spec.structure import path_of


def folder_of(recipe: Recipe | ResolvedRecipe, out: str | Path | None = None) -> Path:
    """Return a run's folder: ``out``; the recipe's, if it was named by a run's folder; else by the recipe.

    The recipe's word is ``[run] out``, or else ``runs/<name>``.

    Raises:
        MistakeError: ``out`` is empty, or a folder with a recipe that somebody wrote by hand.
    """
    if out is not None and not str(out):
        raise MistakeError("out is empty", hint="name the run's folder, or leave it out for runs/NAME")
    written = recipe if isinstance(recipe, Recipe) else recipe.recipe
    named = _named(recipe) if isinstance(recipe, Recipe) else recipe.run.out
    folder = path_of(out or written.run or named or Path("runs") / written.name)
    file = inside(folder, "recipe.toml")
    if file.is_file() and "versions" not in Document.read(file).data and not _knew_no_versions(folder):
        what = f"{file} is not of a run: a run would overwrite it"
        raise MistakeError(what, hint="give another folder: --out")
    return folder


def _knew_no_versions(folder: Path) -> bool:
    """Whether a run's folder may be of a version of uldm that noted no versions in its recipe."""
    from uldm_core.run_folder.folder import RunFolder  # which imports torch: seldom needed

    run = RunFolder(folder)
    stages = names_in(inside(folder, "stages"))
    return run.is_of_format_1() and any(run.stage(name).inside("stage.json").is_file() for name in stages)


def _named(recipe: Recipe) -> str:
    """Return ``[run] out`` of a recipe that is not checked yet; empty if it names no folder."""
    options = substitute(recipe.document).data.get("run")
    out = options.get("out") if isinstance(options, dict) else None
    return out if isinstance(out, str) else ""
