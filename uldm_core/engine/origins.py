"""Weights that a recipe takes from other runs: ``from = "runs/other"``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from uldm_core.engine.files import read_shapes
from uldm_core.engine.folder import RunFolder
from uldm_core.errors import MistakeError, Problem, Where
from uldm_core.recipe import Plan
from uldm_core.recipe.document import Document

if TYPE_CHECKING:
    from torch.nn import Module


def weights_from(run: str, noun: str, behind: tuple[Path, ...] = ()) -> Path:
    """Return the weights that the last finished stage of a run left for a noun.

    Where that run has them from another one, and trained them no more, they are the other one's.

    Args:
        run: its folder.
        noun: the component's name.
        behind: the runs that have them from this one.

    Raises:
        MistakeError: no stage that is done trained it, or the run has it from itself in the end; the problem
            is at the noun's ``from``.
    """
    place = Path(run).resolve()
    if place in behind:
        names = " -> ".join(str(path.name) for path in (*behind[behind.index(place) :], place))
        what = f"a cycle: no run has trained {noun}, each has it from the next: {names}"
        raise MistakeError(Problem(Where((noun, "from")), what, "name a run that trained it"))
    recipe = Document.read(RunFolder(Path(run)).recipe).data
    stages = recipe.get("stages", {})
    for name in reversed(stages if isinstance(stages, dict) else {}):
        folder = RunFolder(Path(run)).stage(name)
        record = folder.record()
        if record and record.done and folder.weights(noun).is_file():
            return folder.weights(noun)
    table = recipe.get(noun)
    if source := table.get("from") if isinstance(table, dict) else None:
        return weights_from(str(source), noun, (*behind, place))
    what = f"{run} has no trained weights of {noun}"
    raise MistakeError(Problem(Where((noun, "from")), what, f"finish that run: uldm run {run}"))


def origins(plan: Plan) -> dict[str, Path]:
    """Return the weights of every noun that comes from another run.

    Raises:
        MistakeError: some are not there.
    """
    try:
        return {name: weights_from(noun.source, name) for name, noun in plan.nouns.items() if noun.source}
    except MistakeError as error:
        raise plan.blame(error) from error


def misfits(component: Module, weights: Path) -> Iterator[str]:
    """Yield what of a file of weights does not fit a component, by its names and shapes."""
    ours = {name: list(tensor.shape) for name, tensor in component.state_dict().items()}
    theirs = read_shapes(weights)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            yield f"{name} is {ours.get(name, 'not here')} here and {theirs.get(name, 'not there')} there"
