"""Content keys: what a stage's result depends on."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from uldm_core.blueprint import Blueprint, Builder, nouns_behind
from uldm_core.component import Component
from uldm_core.engine.folder import StageKey
from uldm_core.engine.origins import origins
from uldm_core.recipe import Plan


def stage_keys(plan: Plan, builder: Builder) -> dict[str, StageKey]:
    """Return each stage's key.

    It covers the seed, the stage's own options but for its numbers of steps and of previews, those of the
    nouns it uses, the source of all their modules, the dataset's content, weights that come from other runs,
    and the keys of the earlier stages that trained or made what it uses.
    """
    keys: dict[str, StageKey] = {}
    brought = origins(plan)
    makers: dict[str, str] = {}
    for name, stage in plan.stages.items():
        nouns = sorted(nouns_behind(stage, plan.nouns))
        verb: Any = stage.component.load()
        used = [*nouns, *verb.needs]
        options = stage.to_dict()
        steps = options.pop("steps", 0) if hasattr(verb, "step") else 0
        if hasattr(verb, "preview"):  # which shows what is trained and changes nothing of it
            options.pop("previews", None)
        content = {
            "seed": plan.seed,
            "stage": options,
            "nouns": {noun: _options(plan.nouns[noun]) for noun in nouns},
            "sources": _sources([stage, *(plan.nouns[noun] for noun in nouns)]),
            "data": [_fingerprint(plan, builder, noun) for noun in nouns],
            "weights": {noun: _digest(brought[noun].read_bytes()) for noun in nouns if noun in brought},
            "from": {what: str(keys[makers[what]]) for what in used if what in makers},
        }
        digest = _digest(json.dumps(content, sort_keys=True).encode())
        keys[name] = StageKey(digest, steps, content, getattr(verb, "adjustable", ()))
        makers.update({product: name for product in products(stage)})
    return keys


def products(stage: Blueprint) -> list[str]:
    """Return what a stage hands on: the nouns it trains and the artifacts it makes."""
    verb: Any = stage.component.load()
    references = stage.references()
    return [*(references[option] for option in verb.trains if option in references), *verb.makes]


def _options(noun: Blueprint) -> dict[str, Any]:
    """Return a noun's options; the run that its weights come from does not count, the weights do."""
    return {name: value for name, value in noun.to_dict().items() if name != "from"}


def _sources(blueprints: Iterable[Blueprint]) -> dict[str, str]:
    components = {c.path: c for blueprint in blueprints for c in blueprint.components()}
    return {path: _source_digest(component) for path, component in components.items()}


def _source_digest(component: Component) -> str:
    target = component.load()
    try:
        file = inspect.getsourcefile(target)
    except (TypeError, OSError):  # a class made at run time, typed into a session, or built in
        file = None
    return _digest(Path(file).read_bytes()) if file and Path(file).is_file() else target.__qualname__


def _fingerprint(plan: Plan, builder: Builder, noun: str) -> str:
    if plan.nouns[noun].kind.name != "dataset":
        return ""
    return str(getattr(builder.noun(noun), "fingerprint", ""))


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
