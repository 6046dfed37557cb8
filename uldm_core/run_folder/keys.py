"""Content keys: what a stage's result depends on."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attrs import evolve

from uldm_core.errors import Key, MistakeError, dotted
from uldm_core.protocols import Adjustable, Previewing, ReadsSplits, is_trainer
from uldm_core.recipe import ResolvedRecipe
from uldm_core.recipe.graph import optional_needs, trained_by
from uldm_core.registry.component import Component
from uldm_core.run_folder.code import code_of
from uldm_core.run_folder.data import Data
from uldm_core.run_folder.files import digest, digest_of
from uldm_core.run_folder.record import StageKey, StageRecord
from uldm_core.run_folder.stage_folder import StageFolder
from uldm_core.spec.building import ComponentStore
from uldm_core.spec.component_spec import ComponentSpec, components_behind
from uldm_core.spec.options import Weighted


def stage_keys(
    resolved: ResolvedRecipe,
    store: ComponentStore,
    *,
    brought: Mapping[str, Path] = MappingProxyType({}),
    data: Data | None = None,
    accepted: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[str, StageKey]:
    """Return each stage's key.

    It covers the seed, the stage's own options but for its number of steps and those of its previews, those
    of the components it uses, the source files of their classes, the content of the splits that it reads and
    of the files that options name, weights that come from other runs, and the keys of the earlier stages that
    trained or made what it uses. Where a file is does not count, nor do options of a dataset that has
    fingerprints.

    The files that these classes inherit from and import stand beside the hash, see ``code_of``; and so do the
    names of a dataset's classes, for whoever opens the run without its data.

    Args:
        resolved: the recipe.
        store: builds its datasets.
        brought: the weights that come from other runs, see ``pretrained_weights``.
        data: the datasets, if some are open already.
        accepted: the data of stages whose results are kept with them, in place of what they are now.
    """
    keys: dict[str, StageKey] = {}
    data = data or Data(store)
    weights = {name: digest(path) for name, path in brought.items()}
    made: dict[str, str] = {}
    for name, stage in resolved.stages.items():
        stage = without_previews(stage)
        target: object = stage.component.load()
        used, options = used_by(stage, resolved), options_behind(stage, resolved)
        datasets = [name for name in options["nouns"] if resolved.components[name].kind.data]
        known = {name for name in datasets if data.has_fingerprint(name)}
        others = {name: resolved.components[name] for name in options["nouns"] if name not in known}
        reads = target.reads if isinstance(target, ReadsSplits) else None
        content = {
            "seed": resolved.seed,
            **options,
            "files": _files({"stage": stage, **others}),
            "sources": {each.path: _source_digest(each) for each in _records(stage, resolved)},
            "data": accepted.get(name, {each: data.content(each, reads) for each in datasets}),
            "weights": {name: weights[name] for name in used if name in weights},
            "from": {what: made[what] for what in used if what in made},
        }
        counted = {**content, "nouns": {name: options["nouns"][name] for name in others}}
        adjustable = tuple(target.adjustable) if isinstance(target, Adjustable) else ()
        keys[name] = StageKey(
            digest_of(json.dumps(counted, sort_keys=True).encode()),
            steps_of(stage),
            {**content, "code": code_behind(stage, resolved), "class_names": _class_names(data, datasets)},
            adjustable,
        )
        made |= dict.fromkeys(products(stage), str(keys[name]))
    return keys


def _files(specs: Mapping[str, ComponentSpec]) -> dict[str, str]:
    """Return the digest of each file that options name; of a folder its path."""
    return {
        dotted(key): digest(path) if path.is_file() else os.path.abspath(path)
        for key, path in paths_in(specs)
    }


def _class_names(data: Data, datasets: Iterable[str]) -> dict[str, Any]:
    """Return the names of the classes of each dataset that has them."""
    names = {name: data.class_names(name) for name in datasets}
    return {name: known for name, known in names.items() if known is not None}


def used_by(stage: ComponentSpec, resolved: ResolvedRecipe, *, needs: bool = True) -> list[str]:
    """Return the components and artifacts that a stage uses, or would use if an earlier one made them.

    What serves its previews alone does not count.

    Args:
        stage: of the recipe.
        resolved: the recipe.
        needs: whether the artifacts count without which it cannot run.
    """
    target: Any = stage.component.load()
    components = sorted(components_behind(without_previews(stage), resolved.components))
    return [*components, *(target.needs if needs else ()), *optional_needs(stage)]


def result_files(stage: ComponentSpec, folder: StageFolder, record: StageRecord) -> list[Path]:
    """Return the files of a stage's result: its products, and the others that its record names."""
    handed_on = folder.handed_on(*results_of(stage)).values()
    return list(dict.fromkeys([*handed_on, *(folder.inside(*name.split("/")) for name in record.files)]))


def steps_of(stage: ComponentSpec) -> int:
    """Return a trainer's number of steps; 0 for any other stage."""
    return stage.options.get("steps", 0) if is_trainer(stage.component.load()) else 0


def without_previews(stage: ComponentSpec) -> ComponentSpec:
    """Return a stage without the options of its previews, which show its result and do not change it."""
    target: object = stage.component.load()
    shown = target.preview_options if isinstance(target, Previewing) else ()
    return evolve(stage, options={name: value for name, value in stage.options.items() if name not in shown})


def options_behind(stage: ComponentSpec, resolved: ResolvedRecipe) -> dict[str, dict[str, object]]:
    """Return a stage's options that change its result, ``stage``, and its components', ``nouns``."""
    stage = without_previews(stage)
    options = without_paths(stage).to_dict()
    if is_trainer(stage.component.load()):
        options.pop("steps", None)
    components = sorted(components_behind(stage, resolved.components))
    return {
        "stage": options,
        "nouns": {name: without_paths(resolved.components[name]).to_dict() for name in components},
    }


def code_behind(stage: ComponentSpec, resolved: ResolvedRecipe) -> dict[str, str]:
    """Return a digest of each source file that a stage depends on."""
    return code_of(component.load() for component in _records(stage, resolved))


def _records(stage: ComponentSpec, resolved: ResolvedRecipe) -> list[Component]:
    """Return the components that a stage is made of and uses, each once."""
    stage = without_previews(stage)
    used = sorted(components_behind(stage, resolved.components))
    specs = [stage, *(resolved.components[name] for name in used)]
    components = [part.component for spec in specs for part in spec.nested()]
    return [*{component.path: component for component in components}.values()]


def require_stages(resolved: ResolvedRecipe) -> None:
    """Raise ``MistakeError`` if a recipe has no stages."""
    if not resolved.stages:
        what = "there is nothing to do: the recipe has no [stages.NAME]"
        raise MistakeError(what, hint="add one: [stages.first]")


def products(stage: ComponentSpec) -> list[str]:
    """Return the products of a stage: the components it trains and the artifacts it makes."""
    trained, made = results_of(stage)
    return [*trained, *made]


def results_of(stage: ComponentSpec) -> tuple[list[str], list[str]]:
    """Return the components that a stage trains, and the artifacts that it makes."""
    target: Any = stage.component.load()
    return sorted(trained_by(stage)), [*target.makes]


def without_paths(value: Any) -> Any:
    """Return a spec, or an option's value, without paths and without the run its weights come from."""
    if isinstance(value, ComponentSpec):
        options = {name: without_paths(item) for name, item in value.options.items()}
        return evolve(value, options=options, source="")
    if isinstance(value, Weighted):
        return evolve(value, component=without_paths(value.component))
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value if not isinstance(item, Path)]
    return None if isinstance(value, Path) else value


def paths_in(value: object, key: Key = ()) -> Iterator[tuple[Key, Path]]:
    """Yield the paths among the options of a spec and of what is nested in it, with their keys."""
    if isinstance(value, ComponentSpec):
        value = value.options
    if isinstance(value, Weighted):
        yield from paths_in(value.component, key)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from paths_in(item, (*key, name))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from paths_in(item, (*key, index))
    elif isinstance(value, Path):
        yield key, value


def _source_digest(component: Component) -> str:
    target = component.load()
    try:
        file = inspect.getsourcefile(target)
    except (TypeError, OSError):  # a class made at run time, typed into a session, or built in
        file = None
    return digest_of(Path(file).read_bytes()) if file and Path(file).is_file() else target.__qualname__
