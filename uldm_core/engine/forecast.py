"""What a run would do: reuse, go on, do, or redo, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from uldm_core.blueprint import Blueprint, Builder
from uldm_core.engine.folder import RunFolder, StageKey, StageRecord
from uldm_core.engine.keys import require_stages, result_files, stage_keys
from uldm_core.engine.origins import origins
from uldm_core.errors import dotted
from uldm_core.options import say_value
from uldm_core.recipe import Plan
from uldm_core.recipe.compare import flattened


@frozen
class Forecast:
    """What would become of one stage: ``reuse``, ``go on``, ``do`` or ``redo``, and why."""

    stage: str
    does: str
    why: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.does}, {self.why}"


def forecast(plan: Plan, path: Path) -> list[Forecast]:
    """Return what running a recipe in a folder would do; nothing is changed.

    The dataset is opened, since what it holds decides as well.

    Raises:
        MistakeError: the recipe has no stages; weights of another run are not there.
    """
    require_stages(plan)
    folder = RunFolder(path)
    keys = stage_keys(plan, Builder(plan.nouns), brought=origins(plan, folder))
    return [_of_stage(folder, name, key, plan.stages[name]) for name, key in keys.items()]


def _of_stage(folder: RunFolder, name: str, key: StageKey, stage: Blueprint) -> Forecast:
    record = folder.stage(name).record()
    if folder.set_aside(name, key) and (record is None or record.key != key):
        return Forecast(name, "reuse", "what was set aside earlier is of these options")
    if record is None:
        return Forecast(name, "do", "nothing of it is there yet")
    if record.key.content != key.content:
        changes = list(_changes(record.key.made_of, key.made_of)) or ["the options are others"]
        return Forecast(name, "redo", "; ".join(changes))
    own = folder.stage(name)
    if record.done and (damage := own.damage(record, result_files(stage, own, record))):
        return Forecast(name, "go on" if own.checkpoint() else "redo", damage)
    return _of_the_same(folder, name, key, record)


def _of_the_same(folder: RunFolder, name: str, key: StageKey, record: StageRecord) -> Forecast:
    if record.key.steps > key.steps:
        return Forecast(name, "redo", f"{record.key.steps} steps are done, {key.steps} are wanted")
    if record.done and record.key.steps == key.steps:
        return Forecast(name, "reuse", "it is done")
    done = folder.stage(name).checkpoint() or 0
    until = f" of {key.steps}" if key.steps else ""
    return (
        Forecast(name, "go on", f"from step {done}{until}")
        if done
        else Forecast(name, "do", "it was not finished")
    )


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Yield what differs between what two keys are made of, as a person would say it."""
    before, after = flattened(old), flattened(new)
    for key in [*before, *(key for key in after if key not in before)]:
        was, now = before.get(key), after.get(key)
        if was != now and not (key[0] == "sources" and None in (was, now)):  # another `use` tells of itself
            yield _say_change(key, was, now)


def _say_change(key: tuple[str | int, ...], old: Any, new: Any) -> str:
    group, rest = key[0], key[1:]
    if group == "sources":
        return f"the code of {rest[0]} has changed"
    if group == "data":
        split = f"{rest[-1]} split of the " if rest[1:2] == ("splits",) and rest[-1] != "given" else ""
        return f"the {split}dataset has changed"
    if group == "files":
        return f"the file of {rest[0]} has changed"
    if group == "weights":
        return f"the weights that {rest[0]} starts from have changed"
    if group == "from":
        return f"{rest[0]} is made anew"
    return f"{dotted(rest) if rest else group} {say_value(old)} -> {say_value(new)}"
