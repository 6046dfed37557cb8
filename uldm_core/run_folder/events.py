"""The event log of a run: one file that is only added to, a line of JSON with a checksum for each event."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from uldm_core.paths import inside
from uldm_core.run_folder.lines import append_lines, read_lines

FILE = "events.jsonl"
BEGINS, ENDS = ("started", "resumed"), ("done", "stopped", "failed")
"""The events with which a run begins and ends."""

MOST_WAITING = 10_000
_LINE = re.compile(r'(\{.*), "crc": "([0-9a-f]{8})"\}')


@frozen
class Event:
    """Something that happened to a run.

    Args:
        name: what: ``started``, ``resumed``, ``stage``, ``checkpoint``, ``warning``, ``archived``,
            ``rolled_back``, ``stage_done``, ``lost``, ``done``, ``stopped``, ``failed``, or another one.
        time: when, ISO text with its time zone.
        values: what belongs to it, by name: JSON.
    """

    name: str
    time: str
    values: Mapping[str, Any] = field(factory=dict)

    @property
    def stage(self) -> str:
        """The stage that it is of; empty if it is of none."""
        return str(self.values.get("stage", ""))


@define
class EventLog:
    """Adds to ``events.jsonl``, and waits until it is on disk; without a path it does nothing.

    What cannot be written is kept, and written with the next event.

    Args:
        path: of the file, in the run's folder.
    """

    path: Path | None = None
    waiting: list[str] = field(factory=list, init=False)

    def append(self, event: str, **values: object) -> None:
        """Add an event, with the time.

        Raises:
            RunError: the run's folder is gone.
        """
        if self.path is None:
            return
        time = datetime.now().astimezone().isoformat(timespec="milliseconds")
        self.waiting = [*self.waiting[-MOST_WAITING:], _line({"time": time, "event": event, **values})]
        try:
            append_lines(inside(self.path.parent, self.path.name), self.waiting, sync=True)
        except OSError:
            return  # the trackers warn of a disk that takes no more
        self.waiting = []


def _line(values: Mapping[str, object]) -> str:
    body = json.dumps(values, default=str)
    return f'{body[:-1]}, "crc": "{zlib.crc32(body.encode()):08x}"}}'


def read_events(path: Path, start: int = 0) -> tuple[list[Event], int, int]:
    """Return a log's events from a byte on, how many lines are damaged, and where the next one begins.

    A damaged line is left out. A last one that is being written, or that a crash has cut short, is none yet.
    """
    lines, end = read_lines(path, start) if path.is_file() else ([], start)
    events = [event for event in map(_event, lines) if event]
    return events, len(lines) - len(events), end


def _event(line: str) -> Event | None:
    """Return the event of a line; None if the line is not as it was written."""
    match = _LINE.fullmatch(line)
    if match is None or zlib.crc32(f"{match[1]}}}".encode()) != int(match[2], 16):
        return None
    try:
        values = json.loads(f"{match[1]}}}")
        time, name = values.pop("time"), values.pop("event")
    except (ValueError, KeyError, RecursionError):
        return None
    return Event(name, time, values) if isinstance(name, str) and isinstance(time, str) else None


def describe_lost(events: Iterable[Event]) -> list[str]:
    """Return which entries of a run's log are lost, a line a stage; not of what was done anew since."""
    lost: dict[str, tuple[int, str]] = {}
    for event in events:
        if event.name == "lost":
            stages = event.values.get("stages")
            for stage, count in stages.items() if isinstance(stages, dict) else ():
                lost[stage] = lost.get(stage, (0, ""))[0] + int(count), event.time
        elif event.name == "stage" and event.values.get("step") == 0:
            lost.pop(event.stage, None)
    return [_lost_entries(stage, *values) for stage, values in lost.items()]


def _lost_entries(stage: str, count: int, time: str) -> str:
    of = f" of stages.{stage}" if stage else ""
    return f"{count} entries of the log{of} could not be written: they are lost since {time}"
