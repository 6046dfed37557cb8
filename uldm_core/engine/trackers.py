"""A run's trackers, and its state in ``run.json``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from attrs import define, field

from uldm_core.engine.signals import Interrupted
from uldm_core.errors import MistakeError, UldmError
from uldm_core.protocols import Tracker
from uldm_core.recipe import ResolvedRecipe
from uldm_core.registry.component import format_failure
from uldm_core.run_folder.files import read_record, write_record
from uldm_core.spec.building import ComponentStore

BEAT_EVERY_SECONDS = 10.0


@define
class Trackers:
    """The trackers of a run, by name. One that fails is left out from then on, with one warning."""

    warn: Callable[[str], object] = print
    by_path: dict[str, Tracker] = field(factory=dict)

    @classmethod
    def of(cls, resolved: ResolvedRecipe, warn: Callable[[str], object]) -> Trackers:
        """Build a recipe's trackers.

        Raises:
            MistakeError: one that the recipe lists refuses its options.
        """
        trackers = cls(warn)
        for spec in resolved.trackers:
            path = spec.component.path
            try:
                trackers.by_path[path] = ComponentStore().build(spec)
            except Exception as error:
                if isinstance(error, MistakeError) and spec in resolved.specs():
                    raise resolved.located(error) from error
                trackers.leave_out(path, error)
        return trackers

    def notify(self, what: Callable[[Tracker], None]) -> None:
        """Call ``what`` with each tracker; an error in one stops neither the others nor the run."""
        for path, tracker in list(self.by_path.items()):
            try:
                what(tracker)
            except Exception as error:
                self.leave_out(path, error)

    def leave_out(self, path: str, error: Exception) -> None:
        """Notify a tracker no more, and warn of the reason."""
        self.by_path.pop(path, None)
        reason = str(error) if isinstance(error, UldmError) else format_failure(error)
        self.warn(f"warning: {path} failed, the run continues without it: {reason}")


@define
class RunStatus:
    """``run.json``: the state of a run, for those who read its folder during the run or afterwards.

    ``updated`` grows at least every ``BEAT_EVERY_SECONDS`` while steps are made: a run that is ``running``
    and is not updated any more was killed.
    """

    path: Path
    command: str = ""
    started: str = field(factory=lambda: _now())
    written: float = field(default=0.0, init=False)

    def write(self, state: str, error: str = "") -> None:
        """Write the state: ``running``, ``done``, ``stopped`` or ``failed``."""
        self.written = time.monotonic()
        times = {"started": self.started, "updated": _now()}
        write_record(self.path, {"state": state, **times, "command": self.command, "error": error})

    def is_done(self) -> bool:
        """Whether the run was done when it was last written."""
        try:
            return bool(read_record(self.path, lambda found: found["state"] == "done"))
        except MistakeError:
            return False

    def beat(self) -> None:
        """Write that the run is alive, if that is due."""
        if time.monotonic() - self.written > BEAT_EVERY_SECONDS:
            self.write("running")

    @contextmanager
    def watching(self, end: Callable[[str], None]) -> Iterator[None]:
        """Write that the run is running, then how it ended; ``end`` is called with that state."""
        self.write("running")
        state, message = "failed", ""
        try:
            yield
            state = "done"
        except (Interrupted, KeyboardInterrupt):
            state = "stopped"
            raise
        except BaseException as error:
            message = str(error) or repr(error)
            raise
        finally:
            self.write(state, message)
            end(state)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
