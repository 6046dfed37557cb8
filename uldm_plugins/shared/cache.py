"""Arrays that are made once and kept, as memory-mapped files in the person's cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from attrs import frozen
from filelock import FileLock, Timeout
from torch import Tensor

from uldm_core import RunError
from uldm_core.errors import MistakeError, UldmError
from uldm_core.paths import free_bytes, make_folder, remove, writing
from uldm_core.run_folder.files import read_record, record_text

_VERSION = 1  # of the files; others are never used
_UNUSED_SECONDS = 30 * 24 * 3600
_NOTE_EVERY = 2.0  # seconds of work that a killed program loses
_WORTH = 20  # times as long as having rows on disk takes, others are made
_LOG_EVERY = 5.0
_LARGE = 10**8  # bytes, of which a person is told where they are written
_COMPARED = 16  # rows whose content is compared before an array is used
_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder of what may be made again: ``uldm`` below ``XDG_CACHE_HOME``, else ``~/.cache``.

    Raises:
        RunError: nobody's home is known.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "uldm"
    except RuntimeError as error:
        hint = "set XDG_CACHE_HOME to a folder"
        raise RunError("there is no place for the cache: nobody's home is known", hint=hint) from error


def packed(
    key: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any] | type[np.generic],
    batches: Callable[[int], Iterable[np.ndarray | Tensor]],
    what: str = "images",
    *,
    thorough: bool = False,
) -> np.ndarray:
    """Return an array of the cache, memory-mapped and read only; it is made first if it is not there.

    Several processes may ask at once: one makes it, the others wait. Work of a process that was killed is
    continued. An array that nobody used for 30 days is removed when another one is made.

    Args:
        key: everything that the values depend on; another shape or dtype is another array anyway.
        shape: [N, ...].
        dtype: of the values.
        batches: called with ``start``, gives the rows from there on, in order, some at a time.
        what: the rows are, for the log.
        thorough: before it is used all of it is read and compared with what was written, not some rows only.

    Raises:
        RunError: the cache cannot be written, there is no space for it, or ``batches`` does not give N rows.
    """
    if 0 in shape:
        return np.empty(shape, dtype)
    entry = _Entry(cache_folder() / "packed", key, shape, np.dtype(dtype), thorough)
    found = entry.open()
    if found is not None:
        return found
    make_folder(entry.folder)
    with _locked(entry, what):
        found = entry.open()
        if found is None:
            _prune(entry.folder)
            entry.fill(batches, what)
            found = entry.open()
    if found is None:
        raise RunError(f"{entry.path} was changed while it was written", hint="run again")
    return found


def rows(array: np.ndarray, indices: Tensor) -> Tensor:
    """Return rows of an array of ``packed`` as a tensor of its own; indices int64 [B], 0 to N - 1."""
    return torch.from_numpy(np.take(array, indices.cpu().numpy(), axis=0))


@frozen
class _Entry:
    """An array's files: ``NAME.npy``, ``NAME.part`` as long as it grows, and the record ``NAME.json``.

    The record holds the number of rows that are on disk. The array is whole if these are all.
    """

    folder: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    thorough: bool = False

    def place(self, ending: str) -> Path:
        """Return the path of one of the files."""
        content = repr((_VERSION, self.key, self.shape, self.dtype.str)).encode("utf-8", "surrogateescape")
        return self.folder / f"{hashlib.blake2b(content, digest_size=16).hexdigest()}.{ending}"

    @property
    def path(self) -> Path:
        """Return the path of the whole array."""
        return self.place("npy")

    @property
    def bytes_a_row(self) -> int:
        """Return the bytes of a row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def open(self) -> np.ndarray | None:
        """Return the array if it is whole and what its record says."""
        done, digest = self._noted()
        if done != self.shape[0]:
            return None
        found = self._mapped(self.path)
        if found is None or self._digest(found) != digest:
            return None
        with suppress(OSError):  # of a cache that may only be read
            os.utime(self.place("json"))
        return found

    def fill(self, batches: Callable[[int], Iterable[np.ndarray | Tensor]], what: str) -> None:
        """Write the array, or the rest of it; raises ``RunError`` if that cannot be."""
        part = self.place("part")
        done = self._noted()[0] if self._mapped(part) is not None else 0
        self._check_space(self.shape[0] - done)
        if done == 0:
            self._begin(part)
        if done < self.shape[0]:
            if self.shape[0] * self.bytes_a_row >= _LARGE:
                size = f"{self.shape[0] * self.bytes_a_row / 1e9:.1f} GB"
                _log.info("packing %s %s, %s: %s", f"{self.shape[0]:,}", what, size, self.path)
            self._write(part, done, batches, what)
        with writing(self.path):
            os.replace(part, self.path)  # which the next one does who asks, if the power goes

    def _begin(self, part: Path) -> None:
        """Make a file of the whole length: it is all holes."""
        for old in (self.place("json"), self.path):
            remove(old)
        with writing(part):
            np.lib.format.open_memmap(part, "w+", self.dtype, self.shape)

    def _write(
        self, part: Path, done: int, batches: Callable[[int], Iterable[np.ndarray | Tensor]], what: str
    ) -> None:
        logged = now = time.monotonic()
        note_at = now + _NOTE_EVERY
        with part.open("r+b") as file:
            file.seek((done - self.shape[0]) * self.bytes_a_row, os.SEEK_END)
            try:
                for batch in batches(done):
                    done += self._append(file, batch, done)
                    now = time.monotonic()
                    if now >= note_at:
                        self._save(file, done)
                        took = time.monotonic() - now  # seconds, where a disk is busy
                        note_at = now + took + max(_NOTE_EVERY, _WORTH * took)
                    if now - logged >= _LOG_EVERY:
                        logged = now
                        _log.info("packed %s of %s %s", f"{done:,}", f"{self.shape[0]:,}", what)
            finally:
                self._save(file, done)
        if done != self.shape[0]:
            raise RunError(f"{done} of {self.shape[0]} {what} came to be packed")

    def _append(self, file: BinaryIO, batch: np.ndarray | Tensor, done: int) -> int:
        values = np.ascontiguousarray(batch)
        if values.dtype != self.dtype or values.shape[1:] != self.shape[1:]:
            wanted = f"{self.dtype} {list(self.shape)}"
            raise TypeError(f"{values.dtype} {list(values.shape)} are no rows of {wanted}")
        if done + len(values) > self.shape[0]:
            raise ValueError(f"more than {self.shape[0]} rows")
        with writing(self.path, (self.shape[0] - done) * self.bytes_a_row):
            file.write(values.data)
        return len(values)

    def _save(self, file: BinaryIO, done: int) -> None:
        """Have the rows on disk, and then note them."""
        with writing(self.path):
            file.flush()
            os.fsync(file.fileno())
        self._note(done)

    def _note(self, done: int) -> None:
        array = self._mapped(self.place("part")) if done == self.shape[0] else None
        digest = "" if array is None else self._digest(array)
        own = {"key": self.key, "shape": list(self.shape), "dtype": self.dtype.str}
        record, text = self.place("json"), {**own, "done": done, "digest": digest}
        with writing(record):  # and not wait for the disk: half a record is none, by its checksum
            record.write_text(record_text(record, text), "utf-8")

    def _noted(self) -> tuple[int, str]:
        """Return how many rows are on disk, and the digest of the whole array; 0 if that cannot be known."""
        own = (self.key, list(self.shape), self.dtype.str)

        def read(record: dict[str, Any]) -> tuple[int, str]:
            same = (record["key"], record["shape"], record["dtype"]) == own
            return (int(record["done"]), str(record["digest"])) if same else (0, "")

        try:
            return read_record(self.place("json"), read) or (0, "")
        except (MistakeError, OSError):
            return 0, ""

    def _mapped(self, path: Path) -> np.ndarray | None:
        """Return the array in a file; None if it is not one of this shape and length."""
        try:
            found = np.lib.format.open_memmap(path, "r")
        except (OSError, ValueError, EOFError):
            return None
        fits = (found.shape, found.dtype) == (self.shape, self.dtype) and found.flags.c_contiguous
        whole = path.stat().st_size == found.offset + found.nbytes
        return np.asarray(found) if fits and whole else None

    def _digest(self, array: np.ndarray) -> str:
        """Return a hash of the array, or of some rows, the first and the last among them."""
        some = np.linspace(0, len(array) - 1, _COMPARED).astype(np.int64)
        compared = array if self.thorough else array[some]
        return hashlib.blake2b(compared.data, digest_size=16).hexdigest()

    def _check_space(self, count: int) -> None:
        needed, free = count * self.bytes_a_row, free_bytes(self.folder)
        if needed > free:
            what = f"{self.folder}: {needed:,} bytes are needed, {free:,} are free"
            raise RunError(what, hint="make room there, or set XDG_CACHE_HOME to a folder on another disk")


def is_unused(files: Iterable[Path]) -> bool:
    """Whether there are some of these files, and none was written or touched for 30 days."""
    used = [file.stat().st_mtime for file in files if file.exists()]
    return bool(used) and time.time() - max(used) > _UNUSED_SECONDS


@contextmanager
def _locked(entry: _Entry, what: str) -> Iterator[None]:
    """Keep other processes from making the array until the context ends, or wait for one that does."""
    lock = FileLock(entry.place("lock"))
    with writing(entry.path):
        try:
            lock.acquire(timeout=0.1)
        except Timeout:
            _log.info("another process is packing the same %s: waiting for it", what)
            lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        lock.release()


def _prune(folder: Path) -> None:
    """Remove arrays that nobody used for a long time. Locks stay: another process may be waiting for one."""
    for path in {path.with_suffix("") for path in folder.iterdir()}:
        files = [path.with_suffix(ending) for ending in (".json", ".npy", ".part")]
        with suppress(OSError, UldmError, Timeout), FileLock(path.with_suffix(".lock"), timeout=0):
            if is_unused(files):
                _log.info("removing what nobody used for 30 days: %s", files[1])
                for file in files:
                    remove(file)
