"""Keeping a component to itself while it is checked: its process is everybody's."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import thread as pools
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, TextIO, cast

from uldm_core.testing.contract import Broken

Worker = threading.Thread | BaseProcess
STREAMS = ("stdout", "stderr")
AGAIN = 1.0
"""Seconds after which an alarm that was lost, as in a destructor, rings again."""
PATIENCE = 0.5
"""Seconds that a thread or process may take to end after the component is done with."""


class TookTooLong(BaseException):
    """What was checked took too long; no ``Exception``, so that no component catches it."""


@contextmanager
def contained(seconds: float) -> Iterator[None]:
    """Raise ``Broken`` if what is done in the context leaves traces in the process.

    It may not end the program, close or replace its output, change its working folder, or leave a thread or
    process that keeps it from ending. Output and folder are put back and processes ended; threads go on.

    Args:
        seconds: it may take; checked in the main thread of a POSIX system only.

    Raises:
        Broken: it left traces.
        TookTooLong: it took longer.
    """
    streams = _lend_streams()
    folder, before = _folder(), running()
    try:
        with _limited(seconds):
            yield
    except SystemExit as error:
        raise Broken(f"it ends the program: sys.exit({error.code!r})") from error
    finally:
        traces = [*_take_back(streams), *_go_back(folder), *_left_running(before)]
        if traces:
            raise Broken("; ".join(dict.fromkeys(traces)))


def _lend_streams() -> dict[str, tuple[TextIO, TextIO]]:
    """Put others in the place of the output streams; return both by name."""
    streams = {name: (getattr(sys, name), _lent(getattr(sys, name))) for name in STREAMS}
    for name, (_, lent) in streams.items():
        setattr(sys, name, lent)
    return streams


def _lent(stream: TextIO) -> TextIO:
    """Return a stream to the same place, which may be closed, taken apart and thrown away."""
    try:
        return open(
            stream.fileno(), "w", 1, encoding=stream.encoding, errors="backslashreplace", closefd=False
        )
    except (AttributeError, OSError, ValueError):  # in memory
        return cast(TextIO, _Shared(stream))


class _Shared:
    """Is another stream, but for its being closed."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.closed = stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @property
    def buffer(self) -> Any:
        return _Shared(self.stream.buffer)

    def flush(self) -> None:
        if self.closed:
            raise ValueError("closed")
        self.stream.flush()

    def close(self) -> None:
        self.closed = True


def _take_back(streams: Mapping[str, tuple[TextIO, TextIO]]) -> Iterator[str]:
    for name, (own, lent) in streams.items():
        if getattr(sys, name) is not lent:
            yield f"it replaces sys.{name}"
        try:
            lent.flush()
        except ValueError:
            yield f"it closes sys.{name}"
        setattr(sys, name, own)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _go_back(folder: str | None) -> Iterator[str]:
    if folder is not None and (now := _folder()) != folder:
        os.chdir(folder)
        yield f"it changes the working folder, to {now!r}"


def running() -> list[Worker]:
    """Return the threads and processes beside the main thread that Python waits for before it ends."""
    pooled: Collection[object] = pools._threads_queues  # which Python ends by itself
    threads = [one for one in threading.enumerate() if one is not threading.main_thread()]
    both: list[Worker] = [*threads, *multiprocessing.active_children()]
    return [one for one in both if not one.daemon and one not in pooled]


def _left_running(before: Collection[Worker]) -> Iterator[str]:
    until = time.monotonic() + PATIENCE
    for one in running():
        if one not in before:
            one.join(max(0.0, until - time.monotonic()))
            if one.is_alive() and not isinstance(one, threading.Thread):
                one.terminate()
                yield f"it leaves a process running: {one.name!r}"
            elif one.is_alive():
                yield f"it leaves a thread running that keeps the program from ending: {one.name!r}"


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise ``TookTooLong`` in the context after so many seconds, unless another alarm is set already."""
    timer = getattr(signal, "ITIMER_REAL", None)
    in_main = threading.current_thread() is threading.main_thread()
    if timer is None or not in_main or signal.getitimer(timer)[0]:
        yield
        return

    with _noting_collections() as collecting:

        def ring(signum: int, frame: FrameType | None) -> None:
            if not collecting:
                raise TookTooLong(f"took longer than {seconds:g} s")

        before = signal.signal(signal.SIGALRM, ring)
        try:
            signal.setitimer(timer, seconds, AGAIN)
            yield
        finally:
            signal.setitimer(timer, 0)
            signal.signal(signal.SIGALRM, before)


@contextmanager
def _noting_collections() -> Iterator[Collection[str]]:
    """Yield a list that is not empty while garbage is collected: what is raised then is printed and lost."""
    collecting: list[str] = []

    def begins_or_ends(phase: str, info: Mapping[str, int]) -> None:
        collecting[:] = [phase] if phase == "start" else []

    gc.callbacks.append(begins_or_ends)  # at its end others' callbacks are run before this one
    try:
        yield collecting
    finally:
        gc.callbacks.remove(begins_or_ends)
