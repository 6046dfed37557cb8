"""``from = "runs/other"``: a component as another run has it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uldm_core.errors import UldmError, did_you_mean, expected, listing, with_article
from uldm_core.kinds import Kind
from uldm_core.paths import inside
from uldm_core.recipe.document import Document
from uldm_core.spec.options import located

Objection = tuple[str, str]


KEPT = "pretrained"
"""The folder of a run that holds copies of the weights it started from."""


def noun_of_run(
    table: Mapping[str, Any], name: str, kind: Kind, folder: Path
) -> tuple[dict[str, Any], Objection | None]:
    """Return the table of a noun that comes from a run, and what speaks against it.

    Without ``use`` it is the run's own component; options that stand beside ``from`` change it. With ``use``
    it is the component of these options, and only the weights are the run's.

    Args:
        table: as written, with ``from``.
        name: the noun's, here and in the run.
        kind: of the noun.
        folder: what the run's path is relative to. If it is a run that has kept these weights, the run that
            they came from need not exist.
    """
    said = table["from"]
    options = {option: value for option, value in table.items() if option != "from"}
    if not isinstance(said, str):
        return options, (expected("a run's folder", said), "such as runs/mnist_latent")
    recipe = located(said, folder) / "recipe.toml"
    if not os.path.isfile(recipe):
        if "use" in options and os.path.isfile(folder / KEPT / f"{name}.safetensors"):
            return options, None
        hint = f"looked for {recipe}; make it with: uldm run RECIPE; a run that started from it has kept the "
        return options, (f"there is no run {said!r}", f"{hint}weights, and goes on by its own recipe.toml")
    try:
        theirs = Document.read(inside(recipe.parent, "recipe.toml")).data
    except UldmError as error:
        return options, (f"the recipe of {said} cannot be read", str(error.problems[0]))
    if objection := _unfit(theirs, said, name, kind):
        return options, objection
    if "use" in options or "ref" in options:
        return options, None
    return {
        **{option: value for option, value in theirs[name].items() if option not in ("kind", "from")},
        **options,
    }, None


def _unfit(theirs: Mapping[str, Any], said: str, name: str, kind: Kind) -> Objection | None:
    kinds = {
        component: table["kind"]
        for component, table in theirs.items()
        if isinstance(table, dict) and "kind" in table
    }
    if name not in kinds:
        what = f"{said} has no [{name}]{did_you_mean(name, kinds)}"
        return what, f"it has: {listing(list(kinds))}; give the component the name it has there"
    if kinds[name] != kind.name:
        return f"expected {with_article(kind.name)}, [{name}] of {said} is {with_article(kinds[name])}", ""
    return None
