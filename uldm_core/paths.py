"""Files below a run's folder, of which nothing is followed out of it, and files that are whole or absent.

A run's folder may come from somebody else. So every path in it is made by ``inside``, which refuses whatever
would lead elsewhere; ``whole`` writes, ``remove`` deletes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from uldm_core.errors import MistakeError, Problem, Where, shortened

LONGEST_NAME = 255
"""Bytes of a file's name, on every file system that is in use."""

CHECKS: dict[Path, Callable[[], object]] = {}
"""By a run's folder that this process writes into: raises ``RunError`` once the folder is no longer there."""


def inside(folder: Path, *names: str) -> Path:
    """Return the path of ``names`` below a run's folder, with nothing on the way that leads out of it.

    The folder itself may be reached through a link; what lies below it are folders and plain files. A path
    whose end is not there yet is fine.

    Args:
        folder: the run's.
        names: of folders, and at last of a folder or file, as they come from a recipe or from a file.

    Raises:
        MistakeError: a name is none of a file; on the way, or at its end, is a symbolic link, a pipe, a
            socket or a device, or a file where a folder is to be; it may not be looked at.
        RunError: this process writes into the run's folder, and the folder was moved or removed.
    """
    path = Path(folder)
    if check := CHECKS.get(path):
        check()
    for left, name in zip(range(len(names) - 1, -1, -1), names):
        odd = name in ("", ".", "..") or any(sign in "/\\" or sign < " " for sign in name)
        if odd or len(os.fsencode(name)) > LONGEST_NAME:
            raise refused(path, f"{shortened(name, 60)} is no name of a file in a run's folder")
        path = path / name
        if what := _obstacle(path, is_folder=left > 0):
            raise refused(path, *what)
    return path


def listed(folder: Path) -> list[Path]:
    """Return what lies in a folder of a run, by name, each as ``inside`` does; nothing if it is not there."""
    return [inside(folder, name) for name in names_in(folder)]


def names_in(folder: Path) -> list[str]:
    """Return the names of what lies in a folder, sorted; none if it is not there."""
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def refused(path: Path | str, what: str, hint: str = "") -> MistakeError:
    """Return the error that says what is wrong with a file or folder."""
    return MistakeError(Problem(Where((), str(path)), what, hint))


def _obstacle(path: Path, is_folder: bool) -> tuple[str, str] | None:
    """Return what is wrong with what is at a path, and the fix; None if nothing is."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', error)}", ""
    if stat.S_ISLNK(mode):
        return "a symbolic link; a run's folder holds its own files", "replace it by what it points to"
    if not stat.S_ISDIR(mode) and (is_folder or not stat.S_ISREG(mode)):
        what = "a file where a folder belongs" if stat.S_ISREG(mode) else "neither a file nor a folder"
        return what, "remove it"
    return None


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be written that replaces ``path`` when the context ends without an error.

    A crash leaves the old file or the new one, never half of it. Where a person names a link, what it points
    to is replaced, and what is no file, such as a pipe, is written to; ``inside`` refuses both
    in a run's folder.

    Raises:
        MistakeError: a folder is there.
    """
    if path.is_dir():
        raise refused(path, "a folder where a file is to be written", "remove it, or move it away")
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(target)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def beside(path: Path) -> Path:
    """Return a path beside another that nobody can know beforehand, for what is to replace it."""
    return path.with_name(f".{secrets.token_hex(8)}.part")


def copy(source: Path, target: Path) -> None:
    """Copy a file; the copy appears whole or not at all."""
    with source.open("rb") as content, whole(target) as file:
        shutil.copyfileobj(content, file)


def remove(path: Path) -> None:
    """Remove a file or folder if it is there; of a link the link itself, never what it points to."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
