"""What a run would do with each stage: reuse, resume, do or redo it, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from uldm_core.errors import dotted, listing
from uldm_core.recipe import ResolvedRecipe
from uldm_core.run_folder.folder import Adjustment, RunFolder, StageKey, StageRecord
from uldm_core.run_folder.keys import products, require_stages, result_files, stage_keys
from uldm_core.run_folder.pretrained import pretrained_weights
from uldm_core.spec.building import ComponentStore
from uldm_core.spec.component_spec import ComponentSpec
from uldm_core.spec.format_types import format_value


@frozen
class Forecast:
    """What a run would do with one stage: ``reuse``, ``resume``, ``do`` or ``redo``, and why.

    ``announcement`` is the message of a run before it does so; empty where there is nothing to tell.
    """

    stage: str
    does: str
    why: str
    announcement: str = ""

    def __str__(self) -> str:
        return f"{self.stage}: {self.does}, {self.why}"


def forecast(resolved: ResolvedRecipe, path: Path) -> list[Forecast]:
    """Return what running a recipe in a folder would do; nothing is changed.

    The dataset is opened: its content decides as well.

    Raises:
        MistakeError: the recipe has no stages; weights of another run are not there.
    """
    require_stages(resolved)
    folder = RunFolder(path)
    keys = stage_keys(
        resolved, ComponentStore(resolved.components), brought=pretrained_weights(resolved, folder)
    )
    return forecast_of(folder, resolved, keys)


def forecast_of(folder: RunFolder, resolved: ResolvedRecipe, keys: Mapping[str, StageKey]) -> list[Forecast]:
    """Return what becomes of the stages that have these keys."""
    found, anew = [], set[str]()
    for name, key in keys.items():
        of_stage = _of_stage(folder, name, key, resolved.stages[name])
        used = sorted(anew & key.made_of.get("from", {}).keys())
        if used and of_stage.does == "reuse":
            why = f"{listing(used)} is made anew"
            of_stage = Forecast(name, "redo", why, f"stages.{name} is done again if {listing(used)} changes")
        if of_stage.does == "redo":
            anew.update(products(resolved.stages[name]) if _code_changed(folder, name, key) or used else ())
        found.append(of_stage)
    return found


def _code_changed(folder: RunFolder, name: str, key: StageKey) -> bool:
    """Whether a stage is done again for its code alone: later ones do not tell by their keys."""
    record = folder.stage(name).record()
    return record is not None and record.key.content == key.content and not record.key.same_work(key)


def describe_adjustments(adjustments: Iterable[Adjustment]) -> list[str]:
    """Return which options of a stage were changed in mid-training, one a line."""
    return [
        f"{option} was {format_value(old)} up to step {adjustment.step}, then {format_value(new)}"
        for adjustment in adjustments
        for option, (old, new) in adjustment.options.items()
    ]


def _of_stage(folder: RunFolder, name: str, key: StageKey, stage: ComponentSpec) -> Forecast:
    record = folder.stage(name).record()
    if folder.is_archived(name, key) and (record is None or not record.key.same(key)):
        what = f"stages.{name} is restored from set_aside/{folder.archived(name, key).name}"
        return Forecast(name, "reuse", "the archived result is of these options", what)
    if record is None:
        return Forecast(name, "do", "nothing of it is there yet")
    if adjusted := folder.adjustments(name, key):
        changes = ", ".join(_format_change(option, *values) for option, values in adjusted.items())
        why = f"from step {folder.stage(name).checkpoints.last()} of {key.steps}, with {changes}"
        return Forecast(name, "resume", why, f"stages.{name} resumes {why}")
    if not record.key.same_work(key):
        return _redo(
            folder,
            name,
            record,
            "; ".join(_changes(record.key, key)) or "the options differ",
        )
    own = folder.stage(name)
    if record.done and (damage := own.damage(record, result_files(stage, own, record))):
        return Forecast(name, "resume" if own.checkpoints.last() else "redo", damage)
    if record.key.steps > key.steps:
        return _redo(folder, name, record, f"{record.key.steps} steps are done, {key.steps} are wanted")
    return _of_the_same(folder, name, key, record)


def _redo(folder: RunFolder, name: str, record: StageRecord, why: str) -> Forecast:
    step = folder.stage(name).checkpoints.last()
    if not (record.done or step):  # nothing of worth is lost
        return Forecast(name, "redo", why)
    does, kept = (
        ("is done again", "the finished result")
        if record.done
        else ("begins at step 0", f"its checkpoint of step {step}")
    )
    where = f"{kept} is kept in set_aside/{folder.archived(name, record.key).name}"
    return Forecast(name, "redo", why, f"stages.{name} {does}: {why}; {where}")


def _of_the_same(folder: RunFolder, name: str, key: StageKey, record: StageRecord) -> Forecast:
    if record.done and record.key.steps == key.steps:
        return Forecast(name, "reuse", "it is done")
    done = folder.stage(name).checkpoints.last() or 0
    until = f" of {key.steps}" if key.steps else ""
    return (
        Forecast(name, "resume", f"from step {done}{until}")
        if done
        else Forecast(name, "do", "it was not finished")
    )


def _changes(old: StageKey, new: StageKey) -> Iterator[str]:
    """Yield the differences of what two keys are made of, one line each."""
    if not old.made_of:
        return
    earlier = isinstance(old.made_of.get("data"), list)
    if earlier:  # which held paths among the options, and no names of datasets and files
        yield "its record is of an earlier version"
    for key, (was, now) in new.changes(old).items():
        known = key[0] in ("sources", "code") and None in (was, now)  # another `use` tells of itself
        known = known or (key[0] == "sources" and bool(old.code))  # its file does
        if not known and not (earlier and (key[0] in ("data", "files") or now is None)):
            yield _format_change(key, was, now)


def _format_change(key: tuple[str | int, ...], old: Any, new: Any) -> str:
    group, rest = key[0], key[1:]
    if not rest and group != "seed":
        return f"{group} {format_value(old)} -> {format_value(new)}"
    if group == "sources":
        return f"the code of {rest[0]} has changed"
    if group == "code" and rest[0] != "uldm_core":
        return f"the code of {str(rest[0]).partition('/')[2] or rest[0]} has changed"
    if group == "data":
        split = f"{rest[-1]} split of the " if rest[1:2] == ("splits",) and rest[-1] != "given" else ""
        return f"the {split}dataset has changed"
    if group == "files":
        return f"the file of {rest[0]} has changed"
    if group == "weights":
        return f"the weights that {rest[0]} starts from have changed"
    if group == "from":
        return f"{rest[0]} is made anew"
    return f"{dotted(rest) if rest else group} {format_value(old)} -> {format_value(new)}"
