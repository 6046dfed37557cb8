"""Images that lie in ``.npy`` and ``.npz`` files, as rows that are read when they are needed."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from attrs import define

from uldm_core.errors import OptionError
from uldm_plugins.shared.arrays import array_names, head_of, rows_of
from uldm_plugins.shared.cache import packed
from uldm_plugins.shared.checked_files import state_of
from uldm_plugins.shared.files import HASH_BYTES, hash_of, shown

Layout = Literal["NHW", "NHWC", "NCHW"]
_CHANNELS = (1, 3, 4)  # that images have, where nothing else is said
_AT_A_TIME = 1 << 24  # bytes


@define(slots=False)
class StoredImages:
    """Images in memory-mapped arrays, one behind the other.

    Args:
        arrays: [N, H, W], [N, H, W, C] or [N, C, H, W], all but N alike.
        layout: which of these.
        range: the values of black and white; None for uint8 as it is.
        key: of what is in them: their files' places and states, and how they are read.
        where: they lie, for messages.
    """

    arrays: Sequence[np.ndarray]
    layout: Layout
    range: tuple[float, float] | None
    key: str
    where: str

    def __len__(self) -> int:
        return sum(map(len, self.arrays))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return channels, height and width."""
        return image_shape(self.arrays[0].shape, self.layout)

    @cached_property
    def hashes(self) -> np.ndarray:
        """Hashes of the images as they are read, uint8 [N, 16]: made once for files in their state.

        Raises:
            ValueError: a value is outside of the range, or no number.
        """

        def hashed(start: int) -> Iterator[np.ndarray]:
            for images in self.batches(start):
                yield np.stack([np.frombuffer(hash_of(image.tobytes()), np.uint8) for image in images])

        key = hash_of(self.key.encode("utf-8", "surrogateescape")).hex()
        shape = (len(self), HASH_BYTES)
        return packed(f"hashes of {key}", shape, np.uint8, hashed, f"hashes of images of {self.where}")

    @property
    def sound(self) -> np.ndarray:
        """The places of all images, int64."""
        return np.arange(len(self))

    def images(self, places: np.ndarray) -> np.ndarray:
        """Return the images at some places, uint8 [B, C, H, W].

        Raises:
            IndexError: there is no such image.
            ValueError: a value is outside of the range, or no number.
        """
        if len(places) and not 0 <= places.min() <= places.max() < len(self):
            raise IndexError(f"{self.where} has {len(self)} images")
        if len(self.arrays) == 1:
            return self._as_bytes(np.take(self.arrays[0], places, axis=0))
        ends = np.cumsum([len(array) for array in self.arrays])
        of_each = np.searchsorted(ends, places, side="right")
        first = self.arrays[0]
        found = np.empty((len(places), *first.shape[1:]), first.dtype)
        for number in np.unique(of_each):
            mine = of_each == number
            found[mine] = self.arrays[number][places[mine] - (ends[number] - len(self.arrays[number]))]
        return self._as_bytes(found)

    def batches(self, start: int = 0) -> Iterator[np.ndarray]:
        """Yield all images from a place on, uint8 [B, C, H, W], some at a time."""
        count = max(_AT_A_TIME // max(self.arrays[0][:1].nbytes, 1), 1)
        for place in range(start, len(self), count):
            yield self.images(np.arange(place, min(place + count, len(self))))

    def _as_bytes(self, values: np.ndarray) -> np.ndarray:
        images = values[:, None] if self.layout == "NHW" else values
        if self.range is not None:
            images = scaled(images, *self.range, self.where)
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2) if self.layout == "NHWC" else images)


def scaled(values: np.ndarray, low: float, high: float, where: str) -> np.ndarray:
    """Return numbers of a range as uint8, rounded.

    Raises:
        ValueError: one is outside of the range, or no number.
    """
    least, most = (values.min(), values.max()) if values.size else (low, high)
    if not (low <= least and most <= high):  # nan is neither
        what = f"values from {least:g} to {most:g}, range says {low:g} to {high:g}"
        raise OptionError(f"{where} has {what}: give the range that they have, nothing is clipped")
    floats = values.astype(np.result_type(values.dtype, np.float32))
    return np.rint((floats - low) * (255 / (high - low))).astype(np.uint8)


def stored_images(
    path: Path, member: str | None, layout: Layout | None, range: tuple[float, float] | None
) -> StoredImages:
    """Open the images of a file, or of all ``.npy`` files of a folder in the order of their names.

    Args:
        path: of an ``.npy`` or ``.npz``, or of a folder.
        member: which array of an ``.npz``; it may be left out where there is one.
        layout: of the arrays; it may be left out where it is clear.
        range: the values of black and white; it may be left out for uint8.

    Raises:
        ValueError: there are no such arrays, they are not alike, or what is left out is not clear.
    """
    files = _files(path)
    shape, dtype = _alike(files, member)
    layout = layout_of(shape, layout, shown(path))
    check_range(dtype, range, shown(path))
    found = [_opened(file, member) for file in files]
    states = [(str(file.resolve()), state_of(file)) for file in files]
    return StoredImages(found, layout, range, repr((states, member, layout, range)), shown(path))


def stored_shape(path: Path, member: str | None, layout: Layout | None) -> tuple[int, tuple[int, int]]:
    """Return channels, and height and width, of images that ``stored_images`` opens, by their heads."""
    shape, _ = _alike(_files(path), member)
    channels, *size = image_shape(shape, layout_of(shape, layout, shown(path)))
    return channels, (size[0], size[1])


def layout_of(shape: tuple[int, ...], layout: Layout | None, where: str) -> Layout:
    """Return the layout of an array of images, if it is stated or clear.

    Raises:
        ValueError: it is neither, or not one of this array.
    """
    layouts: Mapping[int, tuple[Layout, ...]] = {3: ("NHW",), 4: ("NHWC", "NCHW")}
    fitting = layouts.get(len(shape), ())
    if layout is not None and layout not in fitting:
        raise OptionError(f"layout: {layout}, and {where} is {list(shape)}")
    if not fitting or 0 in shape:
        raise OptionError(f"{where} is {list(shape)}: images are [N, H, W], [N, H, W, C] or [N, C, H, W]")
    if layout is None and len(fitting) > 1:
        fitting = tuple(each for each in fitting if image_shape(shape, each)[0] in _CHANNELS)
    if layout is None and len(fitting) != 1:
        raise OptionError(f"{where} is {list(shape)}: say whether its layout is 'NHWC' or 'NCHW'")
    return layout or fitting[0]


def image_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, int, int]:
    """Return channels, height and width of the images of an array."""
    sides = dict(zip(layout, shape))
    return sides.get("C", 1), sides["H"], sides["W"]


def check_range(dtype: np.dtype[Any], range: tuple[float, float] | None, where: str) -> None:
    """Raise ``ValueError`` unless it is clear which values are black and white."""
    if range is None and dtype != np.uint8:
        usual = "[0, 1] or [-1, 1]" if dtype.kind == "f" else f"[0, {2 ** (8 * dtype.itemsize) - 1}]"
        raise OptionError(f"{where} is of {dtype}: say which values are black and white, as range = {usual}")
    if range is not None and not -np.inf < range[0] < range[1] < np.inf:
        raise OptionError(f"range: {list(range)} does not go from a number to a larger one")


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise OptionError(f"there is no file or folder {shown(path)}")
    if path.is_file():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix == ".npy" and not file.name.startswith("."))
    if not files:
        raise OptionError(f"{shown(path)} has no .npy files")
    return files


def _alike(files: Sequence[Path], member: str | None) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape of all files' rows together, and their type."""
    heads = [_head(file, member) for file in files]
    (first, dtype), total = heads[0], sum(shape[0] if shape else 0 for shape, _ in heads)
    for file, (shape, other) in zip(files, heads):
        if (shape[1:], other) != (first[1:], dtype):
            what = f"{shown(file)} is {other} {list(shape)}, {shown(files[0])} is {dtype} {list(first)}"
            raise OptionError(f"{what}: arrays of one folder are alike but for their number of images")
    return (total, *first[1:]), dtype


def _head(file: Path, member: str | None) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        if file.suffix == ".npz":
            return head_of(file, _member(file, member))
        mapped = np.lib.format.open_memmap(file, "r")
    except (ValueError, OSError, EOFError) as error:
        raise OptionError(f"{shown(file)} is no array that can be read: {error}") from error
    if mapped.dtype.kind not in "biuf":
        raise OptionError(f"{shown(file)} is of {mapped.dtype}, which are no numbers")
    return mapped.shape, mapped.dtype


def _member(file: Path, member: str | None) -> str:
    names = array_names(file)
    if member is None and len(names) != 1:
        raise OptionError(f"say which array of {shown(file)} is meant: member is one of {', '.join(names)}")
    if member is not None and member not in names:
        raise OptionError(f"{shown(file)} has no array {member}; it has {', '.join(names)}")
    return member or names[0]


def _opened(file: Path, member: str | None) -> np.ndarray:
    """Map an array; one of an ``.npz``, which may be compressed, is copied to the cache."""
    if file.suffix != ".npz":
        return np.asarray(np.lib.format.open_memmap(file, "r"))
    name = _member(file, member)
    shape, dtype = head_of(file, name)
    key = repr((str(file.resolve()), state_of(file), name))

    def rows(start: int) -> Iterator[np.ndarray]:
        return rows_of(file, name, start)

    try:
        return packed(key, shape, dtype, rows)
    except (ValueError, zipfile.BadZipFile) as error:
        raise OptionError(f"{shown(file)} is no array that can be read: {error}") from error
