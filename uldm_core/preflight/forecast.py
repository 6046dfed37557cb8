"""What a run would do with each stage: reuse, resume, do or redo it, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from attrs import frozen

from uldm_core.errors import Key, dotted, listing
from uldm_core.recipe import ResolvedRecipe
from uldm_core.run_folder.accepted import only_data_changed, with_accepted_data
from uldm_core.run_folder.data import Data
from uldm_core.run_folder.events import FILE as EVENTS
from uldm_core.run_folder.events import read_events
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.keys import products, require_stages, result_files, stage_keys
from uldm_core.run_folder.pretrained import pretrained_weights
from uldm_core.run_folder.record import Adjustment, StageKey, StageRecord
from uldm_core.run_folder.stage_folder import StageFolder
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


ACCEPT = "--accept-data keeps it as it is"


def forecast(
    resolved: ResolvedRecipe, path: Path, data: Data | None = None, accept_data: bool = False
) -> list[Forecast]:
    """Return what running a recipe in a folder would do; nothing is changed.

    The dataset is opened: its content decides as well.

    Args:
        resolved: the recipe.
        path: the folder.
        data: the recipe's datasets, if they are wanted afterwards.
        accept_data: keep results of images that have changed since.

    Raises:
        MistakeError: the recipe has no stages; weights of another run are not there.
    """
    require_stages(resolved)
    folder = RunFolder(path)
    data = data or Data(ComponentStore(resolved.components))
    brought = pretrained_weights(resolved, folder)
    make_keys = partial(stage_keys, resolved, data.store, brought=brought, data=data)
    keys, _ = with_accepted_data(folder, make_keys, read_events(folder.file(EVENTS))[0], accept_data)
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
        record = folder.stage(name).record()
        # where only the code is another, later stages do not tell by their keys
        code = record and record.key.content == key.content and not record.key.same_work(key)
        if of_stage.does == "redo" and (code or used):
            anew.update(products(resolved.stages[name]))
        found.append(of_stage)
    return found


def not_reused(found: Iterable[Forecast]) -> list[str]:
    """Return the stages that are to be done, or done again."""
    return [forecast.stage for forecast in found if forecast.does != "reuse"]


def describe_adjustments(adjustments: Iterable[Adjustment]) -> list[str]:
    """Return which options of a stage were changed in mid-training, one a line."""
    return [
        f"{option} was {format_value(old)} up to step {adjustment.step}, then {format_value(new)}"
        for adjustment in adjustments
        for option, (old, new) in adjustment.options.items()
    ]


def _of_stage(folder: RunFolder, name: str, key: StageKey, stage: ComponentSpec) -> Forecast:
    own = folder.stage(name)
    record, step = own.record(), own.checkpoints.last() or 0
    if folder.is_archived(name, key) and (record is None or not record.key.same(key)):
        return _restored(name, StageFolder(folder.archived(name, key), folder.path), key)
    if record is None:
        return Forecast(name, "do", "nothing of it is there yet")
    if adjusted := folder.adjustments(name, key):
        changes = ", ".join(_format_change(option, *values) for option, values in adjusted.items())
        why = f"from step {step} of {key.steps}, with {changes}"
        return Forecast(name, "resume", why, f"stages.{name} resumes {why}")
    if not record.key.same_work(key):
        why = _changes(record.key, key) or "the options differ"
        why += f" ({ACCEPT})" if only_data_changed(record.key, key) else ""
        return _redo(folder, name, record, why)
    if record.done and (damage := own.damage(record, result_files(stage, own, record))):
        return Forecast(name, "resume" if step else "redo", damage)
    if record.key.steps > key.steps:
        return _redo(folder, name, record, f"{record.key.steps} steps are done, {key.steps} are wanted")
    if record.done and record.key.steps == key.steps:
        return Forecast(name, "reuse", "it is done")
    if not step:
        return Forecast(name, "do", "it was not finished")
    return Forecast(name, "resume", f"from step {step}" + (f" of {key.steps}" if key.steps else ""))


def _restored(name: str, archived: StageFolder, key: StageKey) -> Forecast:
    what = f"stages.{name} is restored from set_aside/{archived.path.name}"
    record, step = archived.record(), archived.checkpoints.last()
    if record and record.done:
        return Forecast(name, "reuse", "the archived result is of these options", what)
    if not step:
        return Forecast(name, "do", "the archived result was not finished", what)
    return Forecast(name, "resume", f"from step {step} of {key.steps} of the archived result", what)


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


def _changes(old: StageKey, new: StageKey) -> str:
    """Return the differences of what two keys are made of; empty if the old one does not say."""
    if not old.made_of:
        return ""
    if isinstance(old.made_of.get("data"), list):  # no names of datasets and files
        return "its record is of an earlier version"
    known = ("sources",) if old.code else ()  # a file's code tells of the sources in it
    reasons = (
        _format_change(key, was, now)
        for key, (was, now) in new.changes(old).items()
        # another `use` tells of its own sources and code
        if key[0] not in known and not (key[0] in ("sources", "code") and None in (was, now))
    )
    return "; ".join(reasons)


_FORMATS = {
    "sources": "the code of {} has changed",
    "files": "the file of {} has changed",
    "weights": "the weights that {} starts from have changed",
    "from": "{} is made anew",
}


def _format_change(key: Key, old: object, new: object) -> str:
    group, rest = str(key[0]), key[1:]
    if not rest:
        return f"{group} {format_value(old)} -> {format_value(new)}"
    if group == "data":
        split = f"{rest[-1]} split of the " if rest[1:2] == ("splits",) and rest[-1] != "given" else ""
        return f"the {split}dataset has changed"
    if group == "code" and rest[0] != "uldm_core":
        return f"the code of {str(rest[0]).partition('/')[2] or rest[0]} has changed"
    if group in _FORMATS:
        return _FORMATS[group].format(rest[0])
    return f"{dotted(rest)} {format_value(old)} -> {format_value(new)}"
