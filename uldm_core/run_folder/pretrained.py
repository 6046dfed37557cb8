"""Weights that a recipe takes from other runs, ``from = "runs/other"``, and the copies that a run keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from uldm_core.errors import MistakeError, Problem, Where
from uldm_core.paths import copy, listed
from uldm_core.recipe import ResolvedRecipe
from uldm_core.recipe.document import Document
from uldm_core.run_folder.consistency import stale_results
from uldm_core.run_folder.files import command_for, digest, read_tensors
from uldm_core.run_folder.folder import RunFolder
from uldm_core.spec.structure import located, path_of

if TYPE_CHECKING:
    from torch.nn import Module


def weights_from(run: str, component: str, behind: tuple[Path, ...] = ()) -> Path:
    """Return the weights that the last finished stage of a run left for a component.

    Where that run has them from another one, and trained them no more, they are those it started from.

    Args:
        run: its folder.
        component: the component's name.
        behind: the runs that have them from this one.

    Raises:
        MistakeError: no stage that is done trained it, not as that run's recipe is now, or the run has it
            from itself in the end; the problem is at the component's ``from``.
    """
    where, hint = Where((component, "from")), f"finish that run: {command_for(run)}"
    place = Path(run).resolve()
    if place in behind:
        names = " -> ".join(str(path.name) for path in (*behind[behind.index(place) :], place))
        what = f"a cycle: no run has trained {component}, each has it from the next: {names}"
        raise MistakeError(Problem(where, what, "name a run that trained it"))
    of_run = RunFolder(Path(run))
    stale, recipe = stale_results(Path(run)), Document.read(of_run.recipe).data
    stages = recipe.get("stages", {})
    for name in reversed(stages if isinstance(stages, dict) else {}):
        folder = of_run.stage(name)
        record = folder.record()
        if record and record.done and folder.weights(component).is_file():
            if name in stale:
                raise MistakeError(Problem(where, f"{component} of {run} was trained {stale[name]}", hint))
            if damage := folder.damage(record, [folder.weights(component)]):
                raise MistakeError(Problem(where, damage, hint))
            return folder.weights(component)
    table = recipe.get(component)
    if source := table.get("from") if isinstance(table, dict) else None:
        kept = of_run.pretrained(component)
        theirs = str(located(source, Path(run)))
        return (
            kept if _is_whole(kept, component, of_run) else weights_from(theirs, component, (*behind, place))
        )
    raise MistakeError(Problem(where, f"{run} has no trained weights of {component}", hint))


def pretrained_weights(
    resolved: ResolvedRecipe,
    folder: RunFolder | None = None,
    warn: Callable[[str], object] = lambda text: None,
) -> dict[str, Path]:
    """Return the weights of every component that comes from another run.

    Where that run does not have them any more, they are the copy in the run's own ``folder``, or in that of
    the recipe; where it has others now, the copy beside a run's own recipe counts. It warns of both.

    Raises:
        MistakeError: some are nowhere.
    """
    sources = {name: spec.source for name, spec in resolved.components.items() if spec.source}
    return {name: _weights_of(resolved, folder, name, source, warn) for name, source in sources.items()}


def _weights_of(
    resolved: ResolvedRecipe, folder: RunFolder | None, name: str, source: str, warn: Callable[[str], object]
) -> Path:
    own = resolved.document.whole.source
    folders = [*([folder] if folder else []), *([RunFolder(Path(own).parent)] if own else [])]
    copies = [place.pretrained(name) for place in folders if _is_whole(place.pretrained(name), name, place)]
    try:
        for problem in RunFolder(path_of(source)).damage():
            warn(f"warning: {problem.where}: {problem.what}")
        found = weights_from(source, name)
    except MistakeError as error:
        if copies:
            warn(f"warning: {error.problems[0].what}; the copy {copies[0]} is used")
            return copies[0]
        damaged = [str(path) for path in (place.pretrained(name) for place in folders) if path.is_file()]
        also = [f"{path} is not what the run started from" for path in damaged]
        raise resolved.located(MistakeError(*error.problems, *also)) from error
    if own and copies and copies[-1] == folders[-1].pretrained(name) and digest(copies[-1]) != digest(found):
        warn(f"warning: {name}: {source} has other weights now; the copy {copies[-1]} is used")
        return copies[-1]  # a run's own recipe means what that started from
    return found


def _is_whole(kept: Path, name: str, folder: RunFolder) -> bool:
    """Whether a run's copy of another's weights is there, and is what its stages were made of."""
    return kept.is_file() and digest(kept) in (started_from(name, folder) or {digest(kept)})


def started_from(name: str, folder: RunFolder) -> set[str]:
    """Return the digests of the weights of a component that a run's stages began with."""
    stages = [path.name for path in listed(folder.file("stages")) if path.is_dir()]
    records = filter(None, (folder.stage(stage).record() for stage in stages))
    return {record.key.made_of.get("weights", {}).get(name) for record in records} - {None}


def keep_pretrained(
    resolved: ResolvedRecipe, folder: RunFolder, warn: Callable[[str], object]
) -> dict[str, Path]:
    """Copy the weights of other runs into a run's folder, and return the copies.

    It warns of weights that are not those of the last time.

    Raises:
        MistakeError: some are not there, and there is no copy.
    """
    found = pretrained_weights(resolved, folder, warn)
    for name, path in found.items():
        kept = folder.pretrained(name)
        if kept.is_file() and digest(kept) == digest(path):
            continue
        source = resolved.components[name].source
        if kept.is_file() and not _is_whole(kept, name, folder):
            warn(f"warning: {kept} is not what the run started from; it is copied anew from {source}")
        elif kept.is_file():
            warn(f"warning: {name}: {source} has other weights now; what was made of the old ones is redone")
        copy(path, kept)
    return {name: folder.pretrained(name) for name in found}


def pretrained_of(name: str, resolved: ResolvedRecipe, folder: RunFolder) -> Path:
    """Return the weights that a component starts from.

    They are those that the run has kept. A run of an earlier version has kept none: then they are the other
    run's, if those are still the same.

    Raises:
        MistakeError: they cannot be had.
    """
    kept, source = folder.pretrained(name), resolved.components[name].source
    if _is_whole(kept, name, folder):
        return kept
    damage = f", and {kept} is not what the run started from" if kept.is_file() else ""
    try:
        path = weights_from(source, name)
    except MistakeError as error:
        what = f"{name} starts from weights that are not there: {error.problems[0].what}{damage}"
        raise MistakeError(what) from error
    then = started_from(name, folder)
    if then and digest(path) not in then:
        raise MistakeError(f"{name} started from weights of {source}, which has others now")
    return path


def misfits(component: Module, weights: Path) -> Iterator[str]:
    """Yield what of a file of weights does not fit a component, by its names and shapes."""
    ours = {name: list(tensor.shape) for name, tensor in component.state_dict().items()}
    theirs = {name: list(tensor.shape) for name, tensor in read_tensors(weights).items()}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            yield f"{name} is {ours.get(name, 'not here')} here and {theirs.get(name, 'not there')} there"
