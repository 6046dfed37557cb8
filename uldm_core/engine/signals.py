"""Being asked to stop, by a signal, a limit of time or a program: at the next safe place, the state saved."""

from __future__ import annotations

import _thread
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

from attrs import define, field

NOT_DONE_YET = 75
"""The exit code of a run that stopped as it was to, before it was done: EX_TEMPFAIL of ``sysexits.h``."""
RETRY_SECONDS = 0.05
_NOTICE = getattr(signal, "SIGUSR1", None)  # by which queues announce the end; there is none on Windows


class Interrupted(Exception):
    """The run stopped as it was asked to, with its state saved.

    Args:
        signum: the signal that asked it, 0 if none did.
        begun: whether there was any work to save the state of.
    """

    def __init__(self, signum: int = 0, begun: bool = True) -> None:
        self.signum = signum
        saved = "the state is saved; the same command resumes from here"
        self.then = saved if begun else "nothing was begun; repeat the command to run it"
        self.exit_code = 128 + signum if signum not in (0, _NOTICE) else NOT_DONE_YET
        super().__init__(f"stopped by {signal.Signals(signum).name}" if signum else "stopped, its time is up")


class StoppedAtOnce(KeyboardInterrupt):
    """A second signal came, so nothing more is saved."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(f"stopped at once by {signal.Signals(signum).name}")


@define
class Stop:
    """Whether the run has been asked to stop: by a signal, a limit of time or ``request``.

    A second SIGINT or SIGTERM stops at once.

    Args:
        signum: the signal that came, 0 if none did.
        deadline: when to stop, as ``time.monotonic`` counts.
        begun: whether the run has begun to work on a stage.
    """

    signum: int = 0
    deadline: float = math.inf
    begun: bool = field(default=False, init=False)
    _raises: bool = field(default=False, init=False)

    @classmethod
    def after(cls, minutes: float) -> Stop:
        """Return one that asks to stop so many minutes from now."""
        return cls(deadline=time.monotonic() + 60 * minutes)

    def request(self) -> None:
        """Ask the run to stop; any thread may do so."""
        self.deadline = -math.inf

    @property
    def requested(self) -> bool:
        """Whether the run is to stop."""
        return bool(self.signum) or time.monotonic() >= self.deadline

    def check(self) -> None:
        """Raise ``Interrupted`` if the run is to stop."""
        if self.requested:
            raise Interrupted(self.signum, self.begun)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Have a signal or the limit of time raise ``Interrupted``, at once: for work that writes nothing.

        On its way it is no ``Exception``, which whoever imports plugins would take for a fault of theirs.
        """
        self.check()
        self._raises = True
        try:
            with self._announced():
                yield
        except (Exception, StoppedAtOnce):
            if self.requested:  # also of what it broke
                raise Interrupted(self.signum, self.begun) from None
            raise
        finally:
            self._raises = False

    @contextmanager
    def _announced(self) -> Iterator[None]:
        """Have the limit of time come as a notice does, if these are listened to."""
        if _NOTICE is None or self.deadline == math.inf:
            yield
            return
        left = min(max(self.deadline - time.monotonic(), 0), threading.TIMEOUT_MAX)
        timer = threading.Timer(left, _thread.interrupt_main, [_NOTICE])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take note of SIGINT, SIGTERM, SIGHUP and SIGUSR1 instead of dying of them.

        A closed terminal sends SIGHUP; where it is ignored (by ``nohup``), it stays so.
        """
        names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # the last two are not on Windows
        watched = [getattr(signal, name) for name in names if hasattr(signal, name)]
        watched = [number for number in watched if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._note) for number in watched}
        hook = sys.unraisablehook
        sys.unraisablehook = partial(self._raise_later, hook)
        try:
            yield self
        finally:
            sys.unraisablehook = hook
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == _NOTICE and self.signum:
            return
        if self.signum not in (0, _NOTICE):
            raise StoppedAtOnce(signum)
        if signum != _NOTICE or time.monotonic() < self.deadline:  # else the time is up
            self.signum = signum
        if self._raises:
            raise StoppedAtOnce(signum)

    def _raise_later(self, otherwise: Callable[[Any], object], unraisable: Any) -> None:
        """Raise a signal's error again that Python has ignored, since it came in a destructor."""
        if not isinstance(unraisable.exc_value, StoppedAtOnce):
            otherwise(unraisable)
            return

        def again() -> None:
            if self._raises:
                _thread.interrupt_main(signal.Signals(unraisable.exc_value.signum))

        threading.Timer(RETRY_SECONDS, again).start()
