"""Image files decoded by worker processes: threads share the interpreter, which decoding needs much of.

A worker is an interpreter of its own, which does not import the program's main module: ``decoding_process``.
What it cannot decode is read in the program itself, and raises the error there. A worker ends when its input
does: with the program, however that ends.
"""

from __future__ import annotations

import atexit
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from attrs import asdict

from uldm_plugins.shared.decoding_process import READY
from uldm_plugins.shared.files import Reading

if sys.platform == "linux":
    import fcntl

FEW = 1000
"""So many images of a dataset are decoded by threads: to start a worker takes about as long."""
_MOST_WORKERS = 16
_MOST_FILES = 16  # of a request
_PIPE = 1 << 20  # bytes
_START = (
    "import sys; sys.path[:] = sys.argv[1:]; from uldm_plugins.shared.decoding_process import work; work()"
)
_log = logging.getLogger(__name__)


class Decoding:
    """Images that are being decoded.

    Args:
        reading: how files become images.
        paths: of the files.
        read: reads the image of a number, uint8 [H, W, C], if no worker has decoded it.
        count: how many images are decoded for the same purpose: few in threads, many by workers.
        hashes: of the files' contents, uint8 [B, 16]: no worker decodes one with another hash or with further
            images, of which there is something to note.
    """

    def __init__(
        self,
        reading: Reading,
        paths: Sequence[Path],
        read: Callable[[int], np.ndarray],
        count: int,
        hashes: np.ndarray | None = None,
    ) -> None:
        self._reading, self._paths, self._read = reading, paths, read
        self._hashes = [""] * len(paths) if hashes is None else [one.tobytes().hex() for one in hashes]
        self._shape = (reading.channels, *reading.size)
        self._rows = np.empty((len(paths), 1 + int(np.prod(self._shape))), np.uint8)
        self._rows[:, 0] = 0
        in_threads = count <= FEW or cores() == 1 or multiprocessing.parent_process() is not None
        decode = self._in_thread if in_threads else self._by_worker
        step = max(1, min(_MOST_FILES, len(paths) // (2 * cores())))
        pool = _pool(os.getpid())
        self._parts = [pool.submit(decode, start, start + step) for start in range(0, len(paths), step)]

    def result(self) -> np.ndarray:
        """Return the images, uint8 [B, C, H, W], when all are there, or raise what ``read`` raises."""
        try:
            for part in self._parts:
                part.result()
        finally:
            self.cancel()
        return self._rows[:, 1:].reshape(-1, *self._shape)

    def cancel(self) -> None:
        """Decode no further images."""
        for part in self._parts:
            part.cancel()

    def _by_worker(self, start: int, end: int) -> None:
        paths = [os.path.abspath(path) for path in self._paths[start:end]]
        request = {"reading": asdict(self._reading), "paths": paths, "hashes": self._hashes[start:end]}
        _own.worker.decode(json.dumps(request).encode() + b"\n", self._rows[start:end])
        self._in_thread(start, end)

    def _in_thread(self, start: int, end: int) -> None:
        for number in (start + np.flatnonzero(self._rows[start:end, 0] == 0)).tolist():
            self._rows[number, 1:] = self._read(number).transpose(2, 0, 1).reshape(-1)


class _Worker:
    """A process that decodes, started when there is something to decode; each thread of the pool has one."""

    usable: ClassVar[bool] = True

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, request: bytes, rows: np.ndarray) -> None:
        """Fill the rows of files that can be decoded; all others begin with 0."""
        answered = False
        try:
            if _Worker.usable:
                process = self._process or self._started()
                _transfer(process.stdin.write, memoryview(request))  # type: ignore[union-attr]
                _transfer(process.stdout.readinto, rows.reshape(-1).data)  # type: ignore[union-attr]
                answered = True
        except OSError as error:
            here = "its images are decoded in this one"
            _log.warning("a process that decodes images ended (%s, status %s): %s", error, self.stop(), here)
        finally:
            if not answered:
                rows[:, 0] = 0
                self.stop()

    def _started(self) -> subprocess.Popen[bytes]:
        """Return a process that has said that it is ready; where one cannot be started, no other is."""
        ready = bytearray(len(READY))
        try:
            process = self._process = subprocess.Popen(
                [sys.executable, "-c", _START, *map(str, sys.path)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # more would take memory, and do nothing
            )
            _widen(process)
            _transfer(process.stdout.readinto, memoryview(ready))  # type: ignore[union-attr]
            if ready != READY:
                raise OSError("it does not say that it is ready")
        except OSError:
            _Worker.usable = False
            raise
        return process

    def stop(self, *, own: bool = True) -> int | None:
        """End the process and return its exit status; if it is not this process's own, only forget it."""
        process, self._process = self._process, None
        if process is None:
            return None
        if own:
            process.kill()
        else:
            process.returncode = 0  # there is nothing to wait for
        with process:  # which closes its pipes, and waits
            return process.wait()


def cores() -> int:
    """Return how many images are decoded at once."""
    there = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(there, _MOST_WORKERS)


def _widen(process: subprocess.Popen[bytes]) -> None:
    """Let a process write many images before somebody reads them, where the system has a way."""
    if sys.platform == "linux" and process.stdout is not None:
        with suppress(OSError):  # there is a limit for all of a user's pipes
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE)


def _transfer(call: Callable[[memoryview], int | None], memory: memoryview) -> None:
    """Write or read all of some memory, of which each call does a part."""
    while memory:
        count = call(memory)
        if not count:
            raise OSError("it gave no answer")
        memory = memory[count:]


_workers: list[_Worker] = []
_own = threading.local()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process, which has none of those of the process that it is a copy of."""
    return ThreadPoolExecutor(cores(), "decoding", _begin)


def _begin() -> None:
    _own.worker = _Worker()
    _workers.append(_own.worker)


def _stop_workers(*, own: bool = True) -> None:
    while _workers:
        _workers.pop().stop(own=own)


atexit.register(_stop_workers)
if sys.platform != "win32":
    os.register_at_fork(after_in_child=partial(_stop_workers, own=False))
