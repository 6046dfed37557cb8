"""Arrays in ``.npz`` files: written whole, and their heads looked at before anything is unpacked."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from uldm_core.paths import whole

_CHUNK = 1 << 24
_HEADS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def half_of_memory() -> int:
    """Return half the bytes of memory of this computer; where the system does not report it, 32 GiB."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # on Windows
        return 1 << 35


def save_arrays(path: Path, **arrays: Tensor) -> None:
    """Write tensors as an ``.npz``, compressed."""
    with whole(path) as file:
        values: dict[str, Any] = {name: one.cpu().contiguous().numpy() for name, one in arrays.items()}
        np.savez_compressed(file, **values)


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays in an ``.npz``; raises ``ValueError`` if it is none."""
    with _archive(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_arrays(
    path: Path, names: Sequence[str] | None = None, most: int | None = None
) -> dict[str, NDArray[Any]]:
    """Read arrays of numbers.

    Args:
        path: the ``.npz``.
        names: which; all by default.
        most: bytes that they may take together, unpacked; by default half of the computer's memory.

    Raises:
        ValueError: it is no ``.npz``, is cut short, holds something else than numbers, lacks one of the
            names, or is larger.
    """
    left = half_of_memory() if most is None else most
    found = {}
    with _archive(path) as archive:
        for name in (
            [member.removesuffix(".npy") for member in archive.namelist()] if names is None else names
        ):
            with archive.open(f"{name}.npy") as file:
                shape, by_column, dtype = _head(file, archive.getinfo(f"{name}.npy").file_size)
                left -= prod(shape) * dtype.itemsize
                if left < 0:
                    raise ValueError(f"{name} is {dtype} {list(shape)}: more than may be unpacked here")
                content = _read(file, prod(shape), dtype)
                found[name] = content.reshape(shape, order="F" if by_column else "C")
    return found


def first_of(path: Path, name: str, count: int, most: int = 1 << 28) -> tuple[NDArray[Any], int]:
    """Return the first rows of an array, and how many it has: the others need not be unpacked.

    Args:
        path: the ``.npz``.
        name: the array's.
        count: how many rows at most; fewer are returned where ``most`` bytes hold no more.
        most: bytes.

    Raises:
        ValueError: as ``read_arrays``, or one row alone is larger.
    """
    with _archive(path) as archive, archive.open(f"{name}.npy") as file:
        (total, *row), by_column, dtype = _head(file, archive.getinfo(f"{name}.npy").file_size)
        if by_column or prod(row) * dtype.itemsize > most:
            raise ValueError(f"{name} is {dtype} {[total, *row]}: its rows are too large, or not rows")
        count = min(count, total, most // max(prod(row) * dtype.itemsize, 1))
        return _read(file, count * prod(row), dtype).reshape(count, *row), total


def head_of(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape of an array and the type of its numbers.

    Raises:
        ValueError: as ``read_arrays``, or it lies column by column.
    """
    with _archive(path) as archive, archive.open(f"{name}.npy") as file:
        shape, by_column, dtype = _head(file, archive.getinfo(f"{name}.npy").file_size)
        if by_column:
            raise ValueError(f"{name} lies column by column: save it with np.ascontiguousarray")
        return shape, dtype


def rows_of(path: Path, name: str, start: int) -> Iterator[NDArray[Any]]:
    """Yield the rows of an array from one on, some at a time.

    Raises:
        ValueError: as ``read_arrays``.
    """
    with _archive(path) as archive, archive.open(f"{name}.npy") as file:
        (total, *row), _, dtype = _head(file, archive.getinfo(f"{name}.npy").file_size)
        count = max(_CHUNK // max(prod(row) * dtype.itemsize, 1), 1)
        for first in range(0, total, count):
            some = min(count, total - first)
            values = _read(file, some * prod(row), dtype).reshape(some, *row)
            yield values[max(start - first, 0) :]


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except Exception as error:  # zipfile, its decompressors and numpy have many errors for it
        raise ValueError(f"no .npz that can be read: {' '.join(str(error).split())[:200]}") from error


def _head(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read what an array is: its shape, whether it lies column by column, and the type of its numbers."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADS:
        raise ValueError(f"an array of format {version}")
    shape, by_column, dtype = _HEADS[version](file)
    if dtype.kind not in "biuf" or any(length < 0 for length in shape):
        raise ValueError(f"an array of {dtype} {list(shape)} holds no numbers")
    if size - file.tell() != prod(shape) * dtype.itemsize:
        raise ValueError(f"there is more or less in it than {dtype} {list(shape)}")
    return shape, by_column, dtype


def _read(file: IO[bytes], count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read so many numbers."""
    found = np.empty(count, dtype)
    content, done = found.view(np.uint8), 0
    while done < len(content):
        piece = file.read(min(_CHUNK, len(content) - done))
        if not piece:
            raise ValueError("it is cut short")
        content[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
        done += len(piece)
    return found
