"""Ctrl-C and termination: stop at the next safe place, with the state saved."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from attrs import define


class Interrupted(Exception):
    """The run stopped on a signal, with its state saved."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(f"stopped by {signal.Signals(signum).name}")


@define
class Stop:
    """Whether the run has been asked to stop. A second signal stops at once."""

    signum: int = 0

    def check(self) -> None:
        """Raise ``Interrupted`` if a signal came."""
        if self.signum:
            raise Interrupted(self.signum)

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take note of SIGINT and SIGTERM instead of dying of them."""
        watched = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._note) for number in watched}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum
