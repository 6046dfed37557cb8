"""A run's trackers: one that fails stops neither the others nor the run."""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from attrs import define, field, frozen

from uldm_core.errors import MistakeError, UldmError
from uldm_core.paths import inside
from uldm_core.protocols import Tracker
from uldm_core.recipe import ResolvedRecipe
from uldm_core.registry.component import format_failure
from uldm_core.spec.building import ComponentStore

RETRY_SECONDS = 1.0
MOST_SHARE = 0.02
"""The share of a run's time that calls in vain may take."""
MOST_CALLS, MOST_BYTES = 10_000, 1 << 28
"""Of a tracker's calls that wait; those that come later are lost."""

OF_THE_DISK = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EMFILE", "ENFILE", "ENOMEM", "ESTALE")
    if hasattr(errno, name)
}
"""Errors of a disk that may take more later."""


@frozen
class _Call:
    """A notification: what to call, of which stage it is an entry, and the bytes of the images in it."""

    make: Callable[[Tracker], object]
    stage: str
    size: int


@define
class _Notified:
    """A tracker, and the calls that wait until its files can be written again."""

    path: str
    tracker: Tracker
    waiting: list[_Call] = field(factory=list)
    due: float = 0.0
    reason: str = ""
    lost: Counter[str] = field(factory=Counter)

    def notify(self, call: _Call, at_once: bool) -> None:
        """Make a call, behind those that wait; raises what the tracker does, unless it is of the disk."""
        self.waiting.append(call)
        if at_once or time.monotonic() >= self.due:
            self._make_calls()
        if len(self.waiting) > MOST_CALLS or sum(call.size for call in self.waiting) > MOST_BYTES:
            self.lost[self.waiting.pop().stage] += 1

    def entries_lost(self) -> dict[str, int]:
        """Return how many scalars and images of each stage are lost; of other calls, how many in all."""
        calls = self.lost + Counter(call.stage for call in self.waiting)
        return {stage: count for stage, count in calls.items() if stage} or dict(calls)

    def _make_calls(self) -> None:
        began = time.monotonic()
        try:
            while self.waiting:
                self.waiting[0].make(self.tracker)
                del self.waiting[0]
            self.reason = ""
        except (OSError, UldmError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in OF_THE_DISK:
                raise
            self.reason = str(error).splitlines()[0]
            now = time.monotonic()
            self.due = now + max(RETRY_SECONDS, (now - began) / MOST_SHARE)


@define
class Trackers:
    """The trackers of a run, by name. One that fails is left out from then on, with one warning.

    One whose files cannot be written, on a full disk say, gets the same calls later; what is lost is said in
    the end.

    Args:
        warn: called with each warning.
        by_path: the trackers.
        folder: the run's; where there is one, it is looked after before every call.
    """

    warn: Callable[[str], object] = print
    by_path: dict[str, Tracker] = field(factory=dict)
    folder: Path | None = None
    left_out: dict[str, str] = field(factory=dict, init=False)
    _notified: dict[str, _Notified] = field(factory=dict, init=False)

    @classmethod
    def of(
        cls, resolved: ResolvedRecipe, warn: Callable[[str], object], folder: Path | None = None
    ) -> Trackers:
        """Build a recipe's trackers.

        Raises:
            MistakeError: one that the recipe lists refuses its options.
        """
        trackers = cls(warn, folder=folder)
        for spec in resolved.trackers:
            path = spec.component.path
            try:
                trackers.by_path[path] = ComponentStore().build(spec)
            except Exception as error:
                if isinstance(error, MistakeError) and spec in resolved.specs():
                    raise resolved.located(error) from error
                trackers._leave_out(path, error)
        return trackers

    def notify(
        self, what: Callable[[Tracker], object], stage: str = "", size: int = 0, at_once: bool = False
    ) -> None:
        """Call ``what`` with each tracker; an error in one stops neither the others nor the run.

        Args:
            what: is called.
            stage: of which it is an entry of the log; empty for what is none.
            size: the bytes of the images that it holds.
            at_once: do not wait for the time of the next try.

        Raises:
            RunError: the run's folder is gone.
        """
        if self.folder is not None:
            inside(self.folder)
        for path, tracker in list(self.by_path.items()):
            notified = self._notified.setdefault(path, _Notified(path, tracker))
            before = notified.reason
            try:
                notified.notify(_Call(what, stage, size), at_once)
            except Exception as error:
                self._leave_out(path, error)
                continue
            if notified.reason and not before:
                self.warn(f"warning: {path} cannot write, and tries again: {notified.reason}")
            elif before and not notified.reason:
                self.warn(f"{path} writes again; {'some' if notified.lost else 'nothing'} of it is lost")

    def end(self, state: str) -> dict[str, dict[str, int]]:
        """Notify each tracker of the end; return how many entries of each stage are lost, by tracker.

        One that was not told of the beginning, since the run failed before, is not told of the end. Every
        tracker that failed on the way is said again.
        """
        failed = dict(self.left_out)
        self.by_path = {path: self.by_path[path] for path in self.by_path if path in self._notified}
        self.notify(lambda tracker: tracker.end(state), at_once=True)
        for path, reason in failed.items():
            self.warn(f"warning: {path} was left out, its log is not whole: {reason}")
        lost = {}
        for path in self.by_path:
            notified = self._notified[path]
            if entries := notified.entries_lost():
                lost[path] = entries
                why = f": {notified.reason}" if notified.reason else ""
                self.warn(f"warning: {path} has lost {sum(entries.values())} entries{why}")
        return lost

    def _leave_out(self, path: str, error: Exception) -> None:
        """Notify a tracker no more, and warn of the reason."""
        self.by_path.pop(path, None)
        self.left_out[path] = str(error) if isinstance(error, UldmError) else format_failure(error)
        self.warn(f"warning: {path} failed, the run continues without it: {self.left_out[path]}")
