"""Whether the results in a run's folder belong to its recipe, by the stages' records; no data is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from uldm_core.errors import Key, MistakeError
from uldm_core.recipe import Recipe, ResolvedRecipe
from uldm_core.recipe.compare import Difference, differences, flattened
from uldm_core.run_folder.data import stand_in
from uldm_core.run_folder.files import digest
from uldm_core.run_folder.folder import RunFolder, StageKey
from uldm_core.run_folder.keys import (
    code_behind,
    options_behind,
    paths_in,
    products,
    results_of,
    sources_of,
    steps_of,
)
from uldm_core.spec.component_spec import components_behind

Makers = Mapping[str, tuple[str, str]]
"""By what was trained or made: the last stage that did, and its key; an empty one if it is not there."""


def stale_stages(
    resolved: ResolvedRecipe, folder: RunFolder, pretrained: Mapping[str, Path]
) -> dict[str, str]:
    """Return the stages whose results do not belong to the recipe as it is now, with what was different.

    They were done with other options than the recipe's, or with what an earlier stage made before it was
    done anew. Whether the data are still the same is not asked.

    Args:
        resolved: the recipe.
        folder: the run's.
        pretrained: the weights that components start from.
    """
    found: dict[str, str] = {}
    makers: dict[str, tuple[str, str]] = {}
    digests: dict[str, str] = {}
    for name, stage in resolved.stages.items():
        record = folder.stage(name).record()
        if record and record.done:
            why = _difference(record.key, name, resolved, makers, pretrained) or _other_outcome(
                record.used, digests
            )
            found |= {name: why} if why else {}
        key = str(record.key) if record and name not in found else ""
        makers |= {product: (name, key) for product in products(stage)}
        for what, path in folder.stage(name).handed_on(*results_of(stage)).items():
            digests[what] = folder.stage(name).recorded_digest(record, path)
    return found


def _other_outcome(used: Mapping[str, str], digests: Mapping[str, str]) -> str:
    """Return what of the same options came out otherwise than when it was used, or an empty string."""
    others = (what for what in used if digests.get(what, "") not in ("", used[what]))
    return next((f"with another outcome of {what}, of the same options" for what in others), "")


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
    key: StageKey, name: str, resolved: ResolvedRecipe, makers: Makers, pretrained: Mapping[str, Path]
) -> str:
    """Return how a stage was done otherwise than the recipe's, or an empty string."""
    stage = resolved.stages[name]
    if changes := list(_changed_options(key, name, resolved)):
        more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        return f"with other options ({changes[0]}{more})"
    if key.steps != (steps := steps_of(stage)):
        return f"for {key.steps} steps, the recipe says {steps}"
    target: Any = stage.component.load()
    used = [*components_behind(stage, resolved.components), *target.needs]
    recorded = key.made_of.get("from", {what: makers[what][1] for what in used if what in makers})
    for what in sorted({*recorded, *(what for what in used if what in makers)}):
        maker, now = makers.get(what, ("", ""))
        if recorded.get(what, "") != now:
            then, now = recorded.get(what) or "none", now or "not done, or stale itself,"
            return f"with another {what} (stage {name} is of {maker} {then}, which is {now} now)"
    for component, weights in key.made_of.get("weights", {}).items():
        if component in pretrained and digest(pretrained[component]) != weights:
            return f"from other weights of {resolved.components[component].source}"
    return ""


def _changed_options(key: StageKey, name: str, resolved: ResolvedRecipe) -> Iterator[str]:
    """Yield the options in which a stage was done otherwise. Where files lie does not count.

    Nor does an option that the record lacks and the recipe leaves out: it is new, and at its default.
    """
    if "stage" not in key.made_of:
        return
    stage, written = resolved.stages[name], resolved.filled.data
    then = {part: key.made_of[part] for part in ("seed", "stage", "nouns") if part in key.made_of}
    now = {"seed": resolved.seed, **options_behind(stage, resolved)}
    present = flattened({"stage": written.get("stages", {}).get(name, {}), "nouns": written})
    components = {
        component: resolved.components[component]
        for component in components_behind(stage, resolved.components)
    }
    ignored = {path for path, _ in paths_in({"stage": stage, "nouns": components})}
    ignored |= {("stage", "steps"), ("stage", "previews")}
    for difference in differences(then, now):
        if difference.key not in ignored and (difference.left is not None or difference.key in present):
            yield str(Difference(_place(difference.key, name), difference.left, difference.right))


def _place(key: Key, stage: str) -> Key:
    """Return where an option stands in the recipe."""
    return {"stage": ("stages", stage, *key[1:]), "nouns": key[1:]}.get(str(key[0]), key)


def changed_code(resolved: ResolvedRecipe, folder: RunFolder) -> list[str]:
    """Return the files whose code has changed since something was trained with it.

    Records of earlier versions know components, by their paths, and not files.
    """
    changed: set[str] = set()
    for name, stage in resolved.stages.items():
        record = folder.stage(name).record()
        if record and record.done and results_of(stage)[0]:
            known = record.key.code
            then = known or record.key.made_of.get("sources", {})
            now = code_behind(stage, resolved) if known else sources_of(stage, resolved)
            changed |= {path for path in then if path in now and then[path] != now[path]}
    return sorted(changed)


def shape_of(name: str, resolved: ResolvedRecipe, folder: RunFolder) -> tuple[int, int] | None:
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
        if isinstance(channels, int) and isinstance(size, int) and 0 < channels <= 4096 and 0 < size <= 65536:
            return channels, size
    return None
