"""Logs: files of lines that are only ever added to."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

MOST_BYTES = 1 << 26
"""Of a log, read at once."""


def append_lines(path: Path, lines: Iterable[str], *, sync: bool = False) -> None:
    """Add lines to a file, all of them or none; the file is made, its folder is not.

    A last line that a crash has cut short is closed first. A link is not followed.

    Args:
        path: of the file.
        lines: without their line feeds.
        sync: wait until they are on disk.

    Raises:
        OSError: they cannot be written; its ``filename`` is set.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        torn = size > 0 and os.lseek(descriptor, -1, os.SEEK_END) >= 0 and os.read(descriptor, 1) != b"\n"
        text = "".join(f"{line}\n" for line in lines)
        left = memoryview((b"\n" if torn else b"") + text.encode("utf-8", "backslashreplace"))
        try:
            while left:
                left = left[os.write(descriptor, left) :]
            if sync:
                os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, size)
            error.filename = str(path)
            raise
    finally:
        os.close(descriptor)


def read_lines(path: Path, start: int = 0) -> tuple[list[str], int]:
    """Return the lines of a file from a byte on, ``MOST_BYTES`` at most, and where the next one begins.

    A last line that has no line feed is left: it is being written, or a crash has cut it short.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(MOST_BYTES)
    whole = content[: content.rfind(b"\n") + 1] or (content if len(content) == MOST_BYTES else b"")
    lines = whole.decode("utf-8", "replace").split("\n")
    return lines[:-1] if whole.endswith(b"\n") else lines[: len(whole)], start + len(whole)
