"""Progress of a run, as it is shown while it runs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence

from attrs import define, field

_WARNING = re.compile(r"^warning: (.*(?:\n    .*)*)", re.MULTILINE)


class Reporter:
    """Shows the progress of a run while somebody waits; what is to be kept goes to a ``Tracker``.

    A subclass overrides what it shows.
    """

    def stages(self, names: Sequence[str]) -> None:
        """Receive the names of the stages to be done, in order."""

    def started(self, stage: str, doing: str, total: int, done: int) -> None:
        """Receive that a stage begins ``doing`` something, at ``done`` of ``total`` steps or images."""

    def advanced(self, done: int, metrics: Mapping[str, float], rate: float) -> None:
        """Receive the steps or images done, the newest metrics, and images per second (0 if unknown)."""

    def finished(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Receive that a stage is done."""

    def reused(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Receive that a stage was done before, and how long it took then."""

    def message(self, text: str) -> None:
        """Receive any other text."""


class Silent(Reporter):
    """Shows nothing."""


@define
class Recorded(Reporter):
    """Passes everything on, and each warning to ``note`` as well, without its ``warning: ``."""

    shown: Reporter
    note: Callable[[str], object]

    def stages(self, names: Sequence[str]) -> None:
        """Pass it on."""
        self.shown.stages(names)

    def started(self, stage: str, doing: str, total: int, done: int) -> None:
        """Pass it on."""
        self.shown.started(stage, doing, total, done)

    def advanced(self, done: int, metrics: Mapping[str, float], rate: float) -> None:
        """Pass it on."""
        self.shown.advanced(done, metrics, rate)

    def finished(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Pass it on."""
        self.shown.finished(stage, seconds, summary)

    def reused(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Pass it on."""
        self.shown.reused(stage, seconds, summary)

    def message(self, text: str) -> None:
        """Pass it on, and note its warnings, each with the indented lines below it: what to do."""
        self.shown.message(text)
        for warning in _WARNING.finditer(text):
            self.note(" ".join(warning[1].split()))


@define
class Lines(Reporter):
    """Plain lines, one at most every ``every`` seconds: for log files."""

    write: Callable[[str], object] = print
    every: float = 10.0
    stage: str = field(default="", init=False)
    total: int = field(default=0, init=False)
    clock: Clock = field(factory=lambda: Clock(), init=False)
    last: float = field(default=0.0, init=False)

    def started(self, stage: str, doing: str, total: int, done: int) -> None:
        """Write what the stage begins to do."""
        self.stage, self.total, self.clock = stage, total, Clock(done)
        self.last = time.monotonic()
        self.write(f"[{stage}] {doing}: " + (f"resumed at {done} of {total}" if done else str(total)))

    def advanced(self, done: int, metrics: Mapping[str, float], rate: float) -> None:
        """Write a line if the last one is old enough."""
        if time.monotonic() - self.last < self.every:
            return
        self.last = time.monotonic()
        speed = f" {rate:.0f} images/s" if rate else ""
        left = format_seconds(self.clock.left(done, self.total))
        self.write(f"[{self.stage}] {done}/{self.total} {format_metrics(metrics)}{speed} {left} left")

    def finished(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Write how long the stage took, and its summary."""
        self.write(f"[{stage}] done in {format_seconds(seconds)} {format_metrics(summary)}".rstrip())

    def reused(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Write that there is nothing to do."""
        self.write(f"[{stage}] is done already, nothing to do")

    def message(self, text: str) -> None:
        """Write the text."""
        self.write(text)


@define
class Clock:
    """Estimates the time left from the steps done since it was made."""

    first: int = 0
    start: float = field(factory=time.monotonic)

    def left(self, done: int, total: int) -> float:
        """Return the seconds left at the mean rate so far."""
        steps = done - self.first
        return (time.monotonic() - self.start) / steps * (total - done) if steps > 0 else 0.0


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Write metrics on one line."""
    return " ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def format_seconds(seconds: float) -> str:
    """Write a duration as a person would: 42 s, 3:05."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
