"""``from = "runs/other"``: a component as another run has it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uldm_core.errors import MistakeError, UldmError, did_you_mean, expected, listing, with_article
from uldm_core.kinds import Kind
from uldm_core.paths import inside
from uldm_core.recipe.document import Document
from uldm_core.spec.structure import located

KEPT = "pretrained"
"""The folder of a run that holds copies of the weights it started from."""


def component_of_run(table: Mapping[str, Any], name: str, kind: Kind, folder: Path) -> dict[str, Any]:
    """Return the table of a component that comes from a run, which has it by the same name.

    Without ``use`` it is the run's own component; options that are written beside ``from`` change it. With
    ``use`` it is the component of these options, and only the weights are the run's.

    The run's path is relative to ``folder``. If that is a run that has kept these weights, the run that they
    came from need not exist.

    Raises:
        MistakeError: there is no such run, or it has no such component.
    """
    run = table["from"]
    options = {option: value for option, value in table.items() if option != "from"}
    if not isinstance(run, str):
        raise MistakeError(
            expected("a run's folder", run), hint="such as runs/mnist_latent", code="wrong-type"
        )
    recipe = located(run, folder) / "recipe.toml"
    if os.path.isfile(recipe):
        theirs = _component_in(recipe, run, name, kind)
        return options if options.keys() & {"use", "ref"} else {**theirs, **options}
    if "use" in options and os.path.isfile(folder / KEPT / f"{name}.safetensors"):
        return options
    hint = f"looked for {recipe}; make it with: uldm run RECIPE"
    raise MistakeError(f"there is no run {run!r}", hint=hint, code="missing-file")


def _component_in(recipe: Path, run: str, name: str, kind: Kind) -> dict[str, Any]:
    """Return the options of a component in a run's recipe; raises ``MistakeError`` if it does not fit."""
    try:
        tables = Document.read(inside(recipe.parent, "recipe.toml")).data
    except UldmError as error:
        what, hint = f"the recipe of {run} cannot be read", str(error.problems[0])
        raise MistakeError(what, hint=hint, code="unreadable-file") from error
    kinds = {n: table["kind"] for n, table in tables.items() if isinstance(table, dict) and "kind" in table}
    if name not in kinds:
        what = f"{run} has no [{name}]{did_you_mean(name, kinds)}"
        hint = f"it has: {listing(list(kinds))}; give the component the name it has there"
        raise MistakeError(what, hint=hint, code="missing-component")
    if kinds[name] != kind.name:
        what = f"expected {with_article(kind.name)}, [{name}] of {run} is {with_article(kinds[name])}"
        raise MistakeError(what, code="wrong-kind")
    return {option: value for option, value in tables[name].items() if option not in ("kind", "from")}
