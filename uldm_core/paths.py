"""Files below a run's folder, of which nothing is followed out of it, and files that are whole or absent.

A run's folder may come from somebody else. So every path in it is made by ``inside``, which refuses whatever
would lead elsewhere; ``whole`` writes, ``move`` renames, ``remove`` deletes: what they have done, a power cut
does not undo.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from uldm_core.errors import MistakeError, Problem, RunError, Where, shortened

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
def whole(path: Path, size: int = 0) -> Iterator[BinaryIO]:
    """Open a file to be written that replaces ``path`` when the context ends without an error.

    A crash or a power cut leaves the old file or the new one, never half of it: when the context has ended,
    the new one is on disk, and so is its name. Where a person names a link, what it points to is replaced,
    and what is no file, such as a pipe, is written to; ``inside`` refuses both in a run's folder.

    Args:
        path: of the file; folders on the way are made.
        size: bytes that will be written, where that is known, to say how many are missing.

    Raises:
        MistakeError: a folder is there.
        RunError: the system refuses: no space, no permission.
    """
    if path.is_dir():
        raise refused(path, "a folder where a file is to be written", "remove it, or move it away")
    if path.exists() and not path.is_file():
        with writing(path, size), path.open("wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    temporary = beside(target)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with writing(path, size):
        make_folder(target.parent)
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
        sync(target.parent)


@contextmanager
def writing(path: Path, size: int = 0) -> Iterator[None]:
    """Name the file or folder that the system refuses to write, in one line with what to do.

    Args:
        path: of the file or folder.
        size: bytes that are to be written, where that is known.

    Raises:
        RunError: in place of an ``OSError`` of writing there.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if isinstance(error.filename, (str, bytes)) and not _is_of(Path(os.fsdecode(error.filename)), path):
            raise  # of another file, which was being read
        why = f"cannot be written: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            why += f": {f'{size:,} bytes are needed, ' if size else ''}{free_bytes(path):,} are free"
        hint = _WHAT_TO_DO.get(error.errno or 0, "")
        named = (place for place in (path, *path.parents) if not any(map(LEFT_OVER.fullmatch, place.parts)))
        raise RunError(Problem(Where((), str(next(named))), why, hint)) from error


def _is_of(named: Path, path: Path) -> bool:
    """Whether an error of writing a path may name another one: a folder on the way, or what is beside it."""
    places = (path, Path(os.path.realpath(path)))
    on_the_way = any(named in (place, *place.parents) for place in places)
    return on_the_way or any(
        place.parent in named.parents and LEFT_OVER.fullmatch(named.relative_to(place.parent).parts[0])
        for place in places
    )


_WHAT_TO_DO = {
    errno.ENOSPC: "make room there; the same command then resumes",
    errno.EDQUOT: "your quota of that disk is used up: make room; the same command then resumes",
    errno.EFBIG: "files of that size are not allowed there: ulimit -f, or another file system",
    errno.EROFS: "it is mounted to be read only: give a place on another disk",
    errno.EACCES: "you may not write there: change the permissions of the folder, or give another place",
    errno.EPERM: "you may not write there: change the permissions of the folder, or give another place",
    errno.ENOENT: "it, or its folder, was moved or removed meanwhile",
}


def free_bytes(path: Path) -> int:
    """Return how many bytes are free on the disk where a path lies, or would."""
    there = next(place for place in (path, *Path(os.path.abspath(path)).parents) if place.exists())
    return shutil.disk_usage(there).free


def beside(path: Path) -> Path:
    """Return a path beside another that nobody can know beforehand, for what is to replace it."""
    return path.with_name(f".{secrets.token_hex(8)}.part")


LEFT_OVER = re.compile(r"\.[0-9a-f]{16}\.part")
"""The names that ``beside`` gives."""


def sweep(folder: Path) -> list[Path]:
    """Remove what killed programs left below a folder, files and folders that ``beside`` named; return them.

    No link is followed. Nobody else may be writing there.
    """
    left = []
    for place, folders, files in os.walk(folder):
        found = [Path(place, name) for name in (*folders, *files) if LEFT_OVER.fullmatch(name)]
        folders[:] = [name for name in folders if not LEFT_OVER.fullmatch(name)]
        left += found
    for path in left:
        remove(path)
    return left


def copy(source: Path, target: Path) -> None:
    """Copy a file; the copy appears whole or not at all."""
    with source.open("rb") as content, whole(target, source.stat().st_size) as file:
        shutil.copyfileobj(content, file)


def make_folder(path: Path) -> None:
    """Make a folder and those around it that are not there yet; they are on disk afterwards."""
    new = [place for place in (path, *path.parents) if not place.exists()]
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        for place in reversed(new):
            sync(place.parent)


def move(source: Path, target: Path) -> Path:
    """Give a file or folder another path, which is free; that is on disk afterwards."""
    make_folder(target.parent)
    with writing(target), writing(source):
        source.replace(target)
        for place in {source.parent, target.parent}:
            sync(place)
    return target


def remove(path: Path) -> None:
    """Remove a file or folder if it is there; of a link the link itself, never what it points to.

    A folder is gone at once: what is half removed has a name that ``sweep`` knows.
    """
    with writing(path):
        if path.is_dir() and not path.is_symlink():
            gone = path if LEFT_OVER.fullmatch(path.name) else move(path, beside(path))
            shutil.rmtree(gone)
        else:
            path.unlink(missing_ok=True)  # a pipe or a socket as well


def sync(path: Path) -> None:
    """Ask the system to have written a file or folder before we go on."""
    if os.name == "nt":  # pragma: no cover (folders cannot be opened there)
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # some file systems do not sync folders, and one may be written but not read
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.ENOTSUP):
            raise
