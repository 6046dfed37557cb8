"""Results that are kept although the images have changed since, because a person has said so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from uldm_core.run_folder.events import Event
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.record import StageKey

EVENT = "data_accepted"
"""The event that a stage's result was kept: ``trained_on`` and ``now`` are what the data were and are."""

Contents = Mapping[str, Any]
"""What identifies the images that a stage reads, by the dataset's name; see ``Data.content``."""


def with_accepted_data(
    folder: RunFolder,
    make_keys: Callable[..., dict[str, StageKey]],
    events: Sequence[Event],
    accept: bool,
) -> tuple[dict[str, StageKey], dict[str, Contents]]:
    """Return the stages' keys, and the stages whose results are kept, with the data that they were made of.

    A stage's result is kept if nothing but the images has changed since, their shape has not, and a person
    accepts these images, now or in an earlier run of the folder.

    Args:
        folder: the run's.
        make_keys: makes the keys, with ``accepted`` data of some stages in place of what they are now.
        events: of earlier runs of the folder.
        accept: whether data are accepted now.
    """
    kept: dict[str, Contents] = {}
    keys = found = make_keys(accepted=kept)
    for name in found:
        record, now = folder.stage(name).record(), found[name].made_of["data"]
        then = record.key.made_of.get("data") if record else None
        if record is None or not isinstance(then, Mapping) or _shapes(then) != _shapes(now) or then == now:
            continue
        if accept or is_accepted(name, {"trained_on": then, "now": now}, events):
            tried = make_keys(accepted={**kept, name: then})
            if record.key.same_work(tried[name]) or folder.adjustments(name, tried[name]):
                kept[name], keys = then, tried
    return keys, kept


def is_accepted(stage: str, data: Mapping[str, object], events: Iterable[Event]) -> bool:
    """Whether the data of a stage, ``trained_on`` and ``now``, were accepted before."""
    said = [event.values for event in events if event.name == EVENT and event.stage == stage]
    return any(all(values.get(name) == value for name, value in data.items()) for values in said)


def only_data_changed(old: StageKey, new: StageKey) -> bool:
    """Whether nothing but the images that a stage reads has changed, and not their shape."""
    then, now = old.made_of.get("data"), new.made_of.get("data")
    if not isinstance(then, Mapping) or not isinstance(now, Mapping) or _shapes(then) != _shapes(now):
        return False
    groups = {key[0] for key in new.changes(old)}
    return "data" in groups and groups <= {"data", "from"}


def _shapes(data: Contents) -> dict[str, tuple[object, object]]:
    return {
        name: (content.get("channels"), content.get("size"))
        for name, content in data.items()
        if isinstance(content, Mapping)
    }
