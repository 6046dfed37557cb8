"""A run's event log, as a person reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import frozen

from uldm_core.run_folder.events import Event

LONG = ("environment", "stage", "pid", "host")
"""What belongs to an event and is of no interest at a glance."""
PROSE = ("text", "error", "reason", "what")
"""Values of events that are sentences, which need no name before them."""


@frozen
class Entry:
    """One line of a history: when, what, of which stage, and the rest as text."""

    time: str
    name: str
    stage: str
    text: str


def history_of(events: Iterable[Event]) -> Iterator[Entry]:
    """Yield what happened; checkpoints of a stage that follow each other are one entry, with their number."""
    last, count = None, 0
    for event in [*events, None]:
        if last and event and event.name == last.name == "checkpoint" and event.stage == last.stage:
            last, count = event, count + 1
            continue
        if last:
            entry = entry_of(last)
            yield Entry(entry.time, f"{count} checkpoints", entry.stage, entry.text) if count > 1 else entry
        last, count = event, 1


def entry_of(event: Event) -> Entry:
    """Return an event as one line."""
    values = {
        name: value for name, value in event.values.items() if name not in LONG and value not in ("", {})
    }
    if event.name == "stage":
        total = values.get("total")
        values = {"from step": f"{values.get('step')} of {total}"} if total else {}
    text = ", ".join(
        _short(value) if name in PROSE else f"{name} {_short(value)}" for name, value in values.items()
    )
    time = event.time[:19].replace("T", " ")
    return Entry(*map(_plain, (time, event.name, event.stage, text)))


def _short(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name or 'others'}={_short(inner)}" for name, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(text: str) -> str:
    """Return text on one line, without what would steer a terminal."""
    line = "; ".join(part.strip() for part in text.split("\n"))
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in line)
