"""The lock on a run's folder: one run writes into it, and stops when the folder is no longer there."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from attrs import define, field
from filelock import BaseFileLock, FileLock, Timeout

from uldm_core import paths
from uldm_core.errors import MistakeError, RunError, UldmError
from uldm_core.paths import inside, make_folder, refused, remove, whole, writing

PATIENCE = 0.1
"""Seconds to wait for the lock: whoever asks whether a run is alive holds it for a moment."""
LOCK, HOLDER = ".lock", "lock.json"


@define
class FolderLock:
    """A run's folder that this process alone writes into; ``lock_folder`` makes one.

    Args:
        path: of the folder.
    """

    path: Path
    _descriptor: int | None = field(init=False)
    _identity: tuple[int, int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        # held open, so that no other folder gets its number
        self._descriptor = None if os.name == "nt" else os.open(self.path, os.O_RDONLY)
        self._identity = _identity(self.path)

    def check(self) -> None:
        """Raise ``RunError`` if the folder was moved, removed or replaced."""
        try:
            there = _identity(self.path)
        except (FileNotFoundError, NotADirectoryError):
            there = None
        if there != self._identity:
            what = f"{self.path}: the run's folder is gone{self._whereabouts()}; nothing more is written"
            raise RunError(what, hint="leave a folder where it is while its run goes, and run again")

    def is_gone(self) -> bool:
        """Whether the folder was moved, removed or replaced."""
        try:
            self.check()
        except RunError:
            return True
        return False

    def _whereabouts(self) -> str:
        """Return where the folder is now, where the system tells."""
        try:
            now = os.readlink(f"/proc/self/fd/{self._descriptor}")
        except OSError:
            return ": it was moved or removed"
        return ": it was removed" if now.endswith(" (deleted)") else f": it is now {now}"

    def close(self) -> None:
        """Watch the folder no more."""
        if self._descriptor is not None:
            os.close(self._descriptor)


@contextmanager
def lock_folder(path: Path, command: str = "") -> Iterator[FolderLock]:
    """Make a run's folder, and keep other runs out of it until the context ends.

    A folder in which nothing was written is removed again.

    Args:
        path: of the folder.
        command: what a person typed, for whoever finds the folder locked.

    Raises:
        MistakeError: another run is using the folder.
        RunError: it cannot be written to.
    """
    lock = FileLock(_lock_file(path), timeout=PATIENCE, poll_interval=0.02)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    make_folder(path)
    try:
        with writing(_lock_file(path)):
            _acquire(lock, path)
            folder = FolderLock(path)
    except UldmError:
        lock.release()
        raise
    paths.CHECKS[path] = folder.check
    try:
        with _noted(path, command, folder):
            yield folder
    finally:
        del paths.CHECKS[path]
        if not folder.is_gone():
            _remove_if_empty(made)
        folder.close()
        lock.release()


@contextmanager
def _noted(path: Path, command: str, folder: FolderLock) -> Iterator[None]:
    """Note in the folder who holds it, as long as the context lasts."""
    note = inside(path, HOLDER)
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": _now(), "command": command}
    try:
        with whole(note) as file:
            file.write(json.dumps(holder, indent=2).encode())
        yield
    finally:
        if not folder.is_gone():
            remove(note)


def is_locked(path: Path) -> bool:
    """Whether a run is using a folder; also where that cannot be found out."""
    if not _lock_file(path).is_file():
        return False
    try:
        FileLock(_lock_file(path), timeout=0).acquire().lock.release()
    except (Timeout, OSError):
        return True
    return False


def _lock_file(path: Path) -> Path:
    lock = inside(path, LOCK)
    if lock.is_dir():
        raise refused(lock, "a folder where a file belongs", "remove it")
    return lock


def _acquire(lock: BaseFileLock, path: Path) -> None:
    try:
        lock.acquire()
    except Timeout as error:
        hint = "wait for it, or give another folder: --out"
        raise MistakeError(f"{path}: another run is using this folder{_holder(path)}", hint=hint) from error


def _remove_if_empty(made: list[Path]) -> None:
    """Remove the folders that were made for a run, if it has written nothing there."""
    if made and os.listdir(made[0]) == [LOCK]:
        with suppress(OSError, RunError):  # somebody has put something there meanwhile
            remove(made[0] / LOCK)
            for folder in made:
                folder.rmdir()


def _holder(path: Path) -> str:
    """Return who holds the lock, for a message; empty if that cannot be read."""
    try:
        found: Any = json.loads(inside(path, HOLDER).read_text("utf-8"))
        return f": process {int(found['pid'])} on {found['host']!s:.100}, since {found['since']!s:.40}"
    except (OSError, MistakeError, ValueError, TypeError, KeyError, RecursionError):
        return ""


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _now() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
