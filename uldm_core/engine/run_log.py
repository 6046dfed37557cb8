"""How a run goes, for whoever reads its folder: ``run.json``, the event log, and the trackers."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from attrs import define, field

from uldm_core.engine.environment import of_bits
from uldm_core.engine.progress import Recorded, Reporter
from uldm_core.engine.signals import Interrupted
from uldm_core.engine.trackers import Trackers
from uldm_core.errors import MistakeError, RunError, UldmError, listing
from uldm_core.paths import inside
from uldm_core.protocols import RunStart
from uldm_core.recipe import ResolvedRecipe
from uldm_core.run_folder.events import FILE as EVENTS
from uldm_core.run_folder.events import EventLog
from uldm_core.run_folder.files import read_record, record_text, write_record
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.lock import FolderLock

BEAT_EVERY_SECONDS = 10.0


@define
class RunLog:
    """Writes how a run begins, goes and ends.

    Args:
        resolved: the recipe.
        folder: the run's.
        lock: of the folder.
        reporter: shows progress; its warnings become events.
        command: what a person typed.
        environment: of the run, as it is now.
    """

    resolved: ResolvedRecipe
    folder: RunFolder
    lock: FolderLock
    reporter: Reporter
    command: str
    environment: Mapping[str, object]
    events: EventLog = field(init=False)
    status: RunStatus = field(init=False)
    trackers: Trackers = field(init=False)
    is_open: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.events = EventLog(self.folder.file(EVENTS))
        self.status = RunStatus(self.folder.file("run.json"), self.command)
        self.reporter = Recorded(self.reporter, lambda text: self.events.append("warning", text=text))
        self.trackers = Trackers.of(self.resolved, self.reporter.message, self.folder.path)

    @contextmanager
    def watching(self, stages: Mapping[str, str]) -> Iterator[None]:
        """Write how the run begins and ends; ``stages`` is what it does with each.

        Raises:
            RunError: it is done, and a part of its log is lost.
        """
        begins = "resumed" if self.folder.file("run.json").is_file() else "started"
        self.status.write("running")
        self.is_open = True
        self.events.append(
            begins,
            command=self.command,
            host=socket.gethostname(),
            pid=os.getpid(),
            stages=dict(stages),
            environment=of_bits(self.environment),
        )
        try:
            yield
        except BaseException as error:
            if not self.lock.is_gone():
                with suppress(OSError, UldmError):  # what went wrong first is what is said
                    self._end(*_ending(error))
            raise
        if lost := self._end("done", {}):
            raise RunError(
                lost, hint="its results are whole, its curves and images are not; make room on the disk"
            )

    def begin(self) -> None:
        """Write what the folder is of, and notify the trackers that the run begins."""
        self.folder.write_recipe(self.resolved.to_toml())
        write_record(self.folder.file("environment.json"), self.environment)
        path, stages = self.folder.path, list(self.resolved.stages)
        start = RunStart(path, path.resolve().name, self.resolved.to_dict(), stages, self.command)
        self.trackers.notify(lambda tracker: tracker.begin(start))

    def _end(self, state: str, values: Mapping[str, str]) -> str:
        """Write how the run ended; return what is lost of its log, empty if nothing is."""
        self.events.append(state, **values)
        self.status.write(state, values.get("error", ""))
        lost = self.trackers.end(state)
        for tracker, stages in lost.items():
            self.events.append("lost", tracker=tracker, stages=stages)
        if not lost and not self.events.waiting:
            return ""
        names = [*lost, *([EVENTS] if self.events.waiting else [])]
        return f"{self.folder.path}: {state}, but not all of the log could be written: {listing(names)}"


def _ending(error: BaseException) -> tuple[str, dict[str, str]]:
    """Return the state of a run that an error has ended, and what the event log says of it."""
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        signum = getattr(error, "signum", signal.SIGINT)
        return "stopped", {"signal": signal.Signals(signum).name} if signum else {"reason": str(error)}
    return "failed", {"error": str(error) or repr(error)}


@define
class RunStatus:
    """``run.json``: the state of a run, for those who read its folder during the run or afterwards.

    ``updated`` grows at least every ``BEAT_EVERY_SECONDS`` while steps are made: a run that is ``running``
    and is not updated any more was killed.
    """

    path: Path
    command: str = ""
    started: str = field(factory=lambda: _now())
    accepted: list[str] = field(factory=list, init=False)  # stages whose images have changed since
    accepts_more: bool = field(default=False, init=False)  # than the file says
    written: float = field(default=0.0, init=False)

    def write(self, state: str, error: str = "") -> None:
        """Write the state: ``running``, ``done``, ``stopped`` or ``failed``.

        On a full disk the old file is written over in its place.
        """
        self.written = time.monotonic()
        times = {"started": self.started, "updated": _now()}
        accepted = {"accepted_data": self.accepted} if self.accepted else {}
        value = {"state": state, **times, "command": self.command, "error": error, **accepted}
        path = inside(self.path.parent, self.path.name)
        try:
            write_record(path, value)
        except RunError:
            if not path.is_file():
                raise
            _overwrite(path, record_text(path, value).encode("utf-8", "backslashreplace"))

    def is_done(self) -> bool:
        """Whether the run was done when it was last written."""
        try:
            return bool(read_record(self.path, lambda found: found["state"] == "done"))
        except MistakeError:
            return False

    def beat(self) -> None:
        """Write that the run is alive, if that is due; raises ``RunError`` if its folder is gone."""
        inside(self.path.parent)
        if time.monotonic() - self.written > BEAT_EVERY_SECONDS:
            self.write("running")


def _overwrite(path: Path, content: bytes) -> None:
    """Replace a file's content in the blocks that it has: a full disk has no others. Spaces fill it up."""
    descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0))
    try:
        os.write(descriptor, content.ljust(os.fstat(descriptor).st_size))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
