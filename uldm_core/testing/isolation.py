"""Isolating a component while it is checked: the process is everybody's.

``process_state`` and ``changes`` name what a component has changed of it, ``restored`` puts that back, and
``contained`` raises for what no check allows: to end the program, to close its output, to hang, and the like.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import thread as pools
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, TextIO, cast

import numpy as np
import torch

from uldm_core.testing.expectations import Broken

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Worker = threading.Thread | BaseProcess
STREAMS, OUTPUT = ("stdout", "stderr"), (1, 2)
AGAIN = 1.0
"""Seconds after which an alarm that was lost, as in a destructor, rings again."""
PATIENCE = 0.5
"""Seconds that a thread or process may take to end after the component is done with."""


class TookTooLong(BaseException):
    """What was checked took too long; no ``Exception``, so that no component catches it."""


@contextmanager
def contained(seconds: float) -> Iterator[None]:
    """Raise ``Broken`` if what is done in the context leaves traces in the process.

    It may not end the program, close, replace or redirect its output, change its working folder, or leave a
    thread or process that keeps it from ending. Output and folder are put back and processes ended; threads
    go on.

    Args:
        seconds: it may take; checked in the main thread of a POSIX system only.

    Raises:
        Broken: it left traces.
        TookTooLong: it took longer.
    """
    streams, descriptors = _lend_streams(), _keep_descriptors()
    folder, before = _folder(), running()
    try:
        with _limited(seconds):
            yield
    except SystemExit as error:
        raise Broken(f"it ends the program: sys.exit({error.code!r})") from error
    finally:
        traces = [*_put_back(descriptors), *_take_back(streams), *_go_back(folder), *_left_running(before)]
        if traces:
            raise Broken("; ".join(dict.fromkeys(traces)))


def _lend_streams() -> dict[str, tuple[TextIO, TextIO]]:
    """Replace the output streams by stand-ins; return the streams and the stand-ins, by name."""
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
    """Another stream, which ``close`` does not close."""

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


def _keep_descriptors() -> dict[int, int]:
    """Return copies of the descriptors that the system writes output to, by their numbers."""
    kept = {}
    for number in OUTPUT:
        with suppress(OSError):  # one that is closed anyway
            kept[number] = os.dup(number)
    return kept


def _put_back(descriptors: Mapping[int, int]) -> Iterator[str]:
    for number, own in descriptors.items():
        try:
            same = os.path.sameopenfile(number, own)
        except OSError:
            same = False
        if not same:
            os.dup2(own, number)
            yield f"it closes or redirects file descriptor {number}"
        os.close(own)


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


def process_state() -> dict[str, Any]:
    """Return the state of the process by what it is called; values compare equal where nothing changed.

    Random states are compared by their content, threads by their identity.
    """
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "numpy's random state": (kind, np.asarray(keys).tobytes(), *rest),
        "Python's random state": random.getstate(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's number of threads": torch.get_num_threads(),
        "whether gradients are computed": torch.is_grad_enabled(),
        "whether algorithms are deterministic": torch.are_deterministic_algorithms_enabled(),
        "whether autograd looks for anomalies": torch.is_anomaly_enabled(),
        "whether autocast is on": torch.is_autocast_enabled("cpu"),
        "the environment": dict(os.environ),
        "sys.path": list(sys.path),
        "what Ctrl-C calls": signal.getsignal(signal.SIGINT),
        "what a termination calls": signal.getsignal(signal.SIGTERM),
        "the running threads": frozenset(threading.enumerate()),
    }


def changes(before: dict[str, Any], *, but: frozenset[str] = frozenset()) -> list[str]:
    """Return what differs from an earlier state; threads that have ended are no change."""
    now = process_state()
    now["the running threads"] = before["the running threads"] | now["the running threads"]
    return [name for name, value in now.items() if name not in but and value != before[name]]


@contextmanager
def restored() -> Iterator[None]:
    """Put the process back as it was when the context ends: all that ``process_state`` knows but threads."""
    environment, path = dict(os.environ), list(sys.path)
    python, numpy = random.getstate(), np.random.get_state()
    dtype, threads, device = torch.get_default_dtype(), torch.get_num_threads(), torch.get_default_device()
    flags = torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with torch.random.fork_rng(), torch.set_grad_enabled(torch.is_grad_enabled()), warnings.catch_warnings():
        try:
            yield
        finally:
            sys.path[:] = path
            random.setstate(python)
            np.random.set_state(numpy)
            torch.set_default_dtype(dtype)
            if torch.get_default_device() != device:
                torch.set_default_device(device)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            if torch.are_deterministic_algorithms_enabled() != flags[0]:  # or torch's compiler is imported
                torch.use_deterministic_algorithms(flags[0])
            torch.autograd.set_detect_anomaly(flags[1])
            torch.set_autocast_enabled("cpu", False)
            _restore_signals(handlers)
            _restore_environment(environment)  # last: torch sets variables of its own on the way


def _restore_environment(environment: dict[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _restore_signals(handlers: dict[signal.Signals, Any]) -> None:
    """Only the main thread may; elsewhere nobody else could have changed them either."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
