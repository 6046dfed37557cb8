"""The event log of a run: one append-only file, a line of JSON for each event."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

from attrs import frozen


@frozen
class EventLog:
    """Appends to ``events.jsonl``; without a path it does nothing.

    Args:
        path: of the file.
    """

    path: Path | None = None

    def append(self, event: str, **values: object) -> None:
        """Add an event, with the time, and wait until it is on disk."""
        if self.path is None:
            return
        time = datetime.now().astimezone().isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, "event": event, **values}) + "\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(self.path, flags, 0o666), "ab") as file:
            file.write(line.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
