"""Whether the results in a run's folder belong to its recipe, by the stages' records; no data is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uldm_core.errors import MistakeError
from uldm_core.recipe import Recipe, ResolvedRecipe
from uldm_core.recipe.compare import Difference, differences, flattened
from uldm_core.run_folder.data import stand_in
from uldm_core.run_folder.files import digest
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.keys import (
    code_behind,
    options_behind,
    paths_in,
    results_of,
    steps_of,
    used_by,
)
from uldm_core.run_folder.record import StageRecord
from uldm_core.shapes import height_and_width, is_size


def stale_stages(
    resolved: ResolvedRecipe, folder: RunFolder, pretrained: Mapping[str, Path], begun: bool = False
) -> dict[str, str]:
    """Return the stages whose results do not belong to the recipe as it is now, with what was different.

    They were done with other options than the recipe's, or with what an earlier stage made before it was
    done anew. Whether the data are still the same is not asked.

    Args:
        resolved: the recipe.
        folder: the run's.
        pretrained: the weights that components start from.
        begun: whether stages count that are not done yet.
    """
    found: dict[str, str] = {}
    keys: dict[str, str] = {}  # of the last stage that trained or made something; empty if that is stale
    digests: dict[str, str] = {}
    for name, stage in resolved.stages.items():
        own = folder.stage(name)
        record = own.record()
        if (
            record
            and (record.done or begun)
            and (why := _difference(record, name, resolved, keys, digests, pretrained))
        ):
            found[name] = why
        for product, path in own.handed_on(*results_of(stage)).items():
            keys[product] = str(record.key) if record and name not in found else ""
            digests[product] = own.recorded_digest(record, path)
    return found


def stale_results(path: Path) -> dict[str, str]:
    """Return the stale stages of a run's folder; none if its recipe cannot be read with what is installed."""
    try:
        folder = RunFolder(path)
        resolved = Recipe.load(folder.recipe).resolve(data=False)
    except MistakeError:
        return {}
    kept = {name: folder.pretrained(name) for name, spec in resolved.components.items() if spec.source}
    return stale_stages(resolved, folder, {name: file for name, file in kept.items() if file.is_file()})


def _difference(
    record: StageRecord,
    name: str,
    resolved: ResolvedRecipe,
    keys: Mapping[str, str],
    digests: Mapping[str, str],
    pretrained: Mapping[str, Path],
) -> str:
    """Return how a stage was done otherwise than the recipe's, or an empty string."""
    stage, made_of = resolved.stages[name], record.key.made_of
    if changes := _changed_options(made_of, name, resolved):
        more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        return f"with other options ({changes[0]}{more})"
    if record.key.steps != (steps := steps_of(stage)):
        return f"for {record.key.steps} steps, the recipe says {steps}"
    now = {what: keys[what] for what in used_by(stage, resolved) if what in keys}
    then = made_of.get("from", now)
    if others := sorted(what for what in {*then, *now} if then.get(what, "") != now.get(what, "")):
        return f"with another {others[0]} than the run has now"
    for component, weights in made_of.get("weights", {}).items():
        if component in pretrained and digest(pretrained[component]) != weights:
            return f"from other weights of {resolved.components[component].source}"
    others = [what for what, used in record.used.items() if digests.get(what, "") not in ("", used)]
    return f"with another outcome of {others[0]}, of the same options" if others else ""


def _changed_options(made_of: Mapping[str, Any], name: str, resolved: ResolvedRecipe) -> list[Difference]:
    """Return the options in which a stage was done otherwise. Where files lie does not count.

    Nor does an option that the record lacks and the recipe leaves out: it is new, and at its default.
    """
    if "stage" not in made_of:
        return []
    behind = options_behind(resolved.stages[name], resolved)
    then = {"seed": made_of["seed"], "stages": {name: made_of["stage"]}, **made_of["nouns"]}
    now = {"seed": resolved.seed, "stages": {name: behind["stage"]}, **behind["nouns"]}
    present = flattened(resolved.document.data)
    ignored = {path for path, _ in paths_in({"stages": resolved.stages, **resolved.components})}
    ignored.add(("stages", name, "steps"))
    return [
        difference
        for difference in differences(then, now)
        if difference.key not in ignored and (difference.left is not None or difference.key in present)
    ]


def changed_code(resolved: ResolvedRecipe, folder: RunFolder) -> list[str]:
    """Return the files whose code has changed since something was trained with it.

    Records of earlier versions know no files.
    """
    changed: set[str] = set()
    for name, stage in resolved.stages.items():
        record = folder.stage(name).record()
        if record and record.done and results_of(stage)[0]:
            now = code_behind(stage, resolved)
            changed |= {path for path, then in record.key.code.items() if now.get(path, then) != then}
    return sorted(changed)


def class_names_of(name: str, resolved: ResolvedRecipe, folder: RunFolder) -> list[str] | None:
    """Return the names of a dataset's classes as a stage of the run has noted them; None if none has."""
    records = [folder.stage(stage).record() for stage in resolved.stages]
    noted = (record.key.made_of.get("class_names", {}) for record in records if record)
    return next((names[name] for names in noted if name in names), None)


def shape_of(name: str, resolved: ResolvedRecipe, folder: RunFolder) -> tuple[int, tuple[int, int]] | None:
    """Return the channels and the size of a dataset's images, or None if only the dataset knows them."""
    try:
        known = stand_in(resolved.components[name])
        return known.channels, known.size
    except NotImplementedError:
        records = [folder.stage(stage).record() for stage in resolved.stages]
    for record in filter(None, records):
        data = record.key.made_of.get("data")
        noted = data.get(name) if isinstance(data, Mapping) else None  # of an earlier version, it is a list
        channels, size = (noted.get("channels"), noted.get("size")) if isinstance(noted, Mapping) else (0, 0)
        if isinstance(channels, int) and 0 < channels <= 4096 and is_size(size, most=65536):
            return channels, height_and_width(size)
    return None
