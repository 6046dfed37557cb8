"""What a run tells of itself while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from attrs import define, field


class Reporter(Protocol):
    """Shows how far a run is, moment by moment. What is shown, and where, is its own business.

    It is for whoever waits: of what a run was, nothing is kept. That is a ``Tracker``'s.
    """

    def stages(self, names: Sequence[str]) -> None:
        """Tell which stages are to be done, in order."""

    def started(self, stage: str, doing: str, total: int, done: int) -> None:
        """Tell that a stage begins ``doing`` something, at ``done`` of ``total`` steps or images."""

    def advanced(self, done: int, metrics: Mapping[str, float], rate: float) -> None:
        """Tell how far the stage is, its newest metrics, and images per second (0 if unknown)."""

    def finished(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Tell that a stage is done."""

    def reused(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Tell that a stage was done before, and how long it took then."""

    def message(self, text: str) -> None:
        """Tell anything else."""


class Silent:
    """Tells nothing."""

    def stages(self, names: Sequence[str]) -> None:
        """Do nothing."""

    def started(self, stage: str, doing: str, total: int, done: int) -> None:
        """Do nothing."""

    def advanced(self, done: int, metrics: Mapping[str, float], rate: float) -> None:
        """Do nothing."""

    def finished(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Do nothing."""

    def reused(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Do nothing."""

    def message(self, text: str) -> None:
        """Do nothing."""


@define
class Lines:
    """Plain lines, one at most every ``every`` seconds: for log files."""

    write: Callable[[str], object] = print
    every: float = 10.0
    stage: str = field(default="", init=False)
    total: int = field(default=0, init=False)
    clock: Clock = field(factory=lambda: Clock(), init=False)
    last: float = field(default=0.0, init=False)

    def stages(self, names: Sequence[str]) -> None:
        """Do nothing: each stage is written of when its turn comes."""

    def started(self, stage: str, doing: str, total: int, done: int) -> None:
        """Write what the stage begins to do."""
        self.stage, self.total, self.clock = stage, total, Clock(done)
        self.last = time.monotonic()
        self.write(f"[{stage}] {doing}: " + (f"going on at {done} of {total}" if done else str(total)))

    def advanced(self, done: int, metrics: Mapping[str, float], rate: float) -> None:
        """Write a line if the last one is old enough."""
        if time.monotonic() - self.last < self.every:
            return
        self.last = time.monotonic()
        speed = f" {rate:.0f} images/s" if rate else ""
        left = say_seconds(self.clock.left(done, self.total))
        self.write(f"[{self.stage}] {done}/{self.total} {say_metrics(metrics)}{speed} {left} left")

    def finished(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Write how long the stage took, and its summary."""
        self.write(f"[{stage}] done in {say_seconds(seconds)} {say_metrics(summary)}".rstrip())

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
        """Return the seconds left, going on at the mean rate so far."""
        steps = done - self.first
        return (time.monotonic() - self.start) / steps * (total - done) if steps > 0 else 0.0


def say_metrics(metrics: Mapping[str, float]) -> str:
    """Write metrics on one line."""
    return " ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def say_seconds(seconds: float) -> str:
    """Write a duration as a person would: 42 s, 3:05."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
