"""Image files, found, decoded and brought to one size."""

from __future__ import annotations

import hashlib
import heapq
import os
import re
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from attrs import frozen
from PIL import Image

from uldm_core import RunError
from uldm_core.errors import OptionError
from uldm_plugins.shared.containers import FORMATS, parse
from uldm_plugins.shared.decoding import decode, decoded, is_grey, opened, upright_size

if TYPE_CHECKING:
    from torch import Tensor  # which is imported late: workers that decode do without

HASH_BYTES = 16
_READ = "apng bmp gif jfif jpe jpeg jpg mpo png tif tiff webp"
ENDINGS = tuple(f".{ending}" for ending in _READ.split())
MAX_PIXELS = 100_000_000
_RAW = "3fr arw cr2 cr3 crw dcr dng erf iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f"
_NEWER = "avif avifs heic heif hif jxl svg"
_NO_IMAGES = {".bufr", ".grib", ".h5", ".hdf", ".mpeg", ".mpg", ".pdf", ".ps"}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_COLOURS = {"white": (255, 255, 255), "grey": (128, 128, 128), "black": (0, 0, 0)}
Fit = Literal["crop", "pad", "stretch"]


class UnreadableImageError(RunError, ValueError):
    """An image file cannot be decoded, perhaps no longer; one line with its name and why."""


def shown(path: Path | str) -> str:
    """Return a path as text of one line: what is no UTF-8 or not printable as backslash escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def image_names(root: Path) -> tuple[list[bytes], dict[str, str]]:
    """Return the names below a folder of files that have a readable ending, sorted, and the others.

    Links to folders are followed. Others are images that are hidden or of another format, broken links,
    folders that cannot be listed, and folders of runs: why, by their names below the folder.

    Raises:
        ValueError: there is no such folder, or it is a run's.
    """
    if not root.is_dir():
        raise OptionError(f"there is no folder {shown(root)}")
    if (root / "recipe.toml").exists() and (root / "stages").exists():
        samples = "stages/NAME/artifacts/samples.npz"
        raise OptionError(f"{shown(root)} is a run's folder, not one of images; its samples are in {samples}")
    found: list[bytes] = []
    left_out: dict[str, str] = {}
    above = len(os.path.join(root, ""))
    for path in _files_under(root, left_out):
        below = path[above:]
        ending = os.path.splitext(path)[1].lower()
        hidden = any(part.startswith(".") for part in below.split(os.sep))
        if ending not in ENDINGS and ending not in other_endings():
            if not hidden and leads_nowhere(path):  # perhaps to a folder of images
                left_out[shown(below)] = "a broken link"
        elif hidden:
            left_out[shown(below)] = "hidden: the name begins with a dot"
        elif ending not in ENDINGS:
            left_out[shown(below)] = f"{ending}, not {FORMATS}: convert to one of these"
        else:
            found.append(os.fsencode(below))
    found.sort(key=lambda name: name.replace(os.fsencode(os.sep), b"\0"))  # as paths are sorted
    return found, left_out


def leads_nowhere(path: str | Path) -> bool:
    """Return whether a path is a link, and what it leads to is not there."""
    return os.path.islink(path) and not os.path.exists(path)


@cache
def other_endings() -> frozenset[str]:
    """Return the endings of image files that are not read."""
    more = {f".{ending}" for ending in f"{_RAW} {_NEWER}".split()}
    return frozenset(({*Image.registered_extensions(), *more}) - {*ENDINGS} - _NO_IMAGES)


def _files_under(root: Path, unreadable: dict[str, str]) -> Iterator[str]:
    """Yield all files under a folder. Each folder is entered once, by its own name if it lies there too."""
    own, linked, hidden = range(3)
    waiting, entered = [(own, str(root))], set()
    while waiting:
        _, folder = heapq.heappop(waiting)
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            entries = list(os.scandir(folder))
            if {"recipe.toml", "stages"} <= {entry.name for entry in entries}:
                unreadable[shown(Path(folder).relative_to(root))] = "a run's folder"
                continue
        except OSError as error:
            unreadable[shown(Path(folder).relative_to(root))] = _reason(error)
            continue
        for entry in entries:
            # a link to itself is none; of others is_dir asks the system nothing
            if not (os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()):
                yield entry.path
            elif any(part.startswith(".") for part in Path(entry.path).relative_to(root).parts):
                heapq.heappush(waiting, (hidden, entry.path))
            else:
                heapq.heappush(waiting, (linked if entry.is_symlink() else own, entry.path))


def content_of(path: Path) -> bytes:
    """Return a file's bytes; pipes, sockets and devices, which may have no end, are not opened.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("no regular file")
        with open(path, "rb", opener=_open_without_waiting) as file:
            return file.read()
    except OSError as error:
        raise ValueError("a broken link" if leads_nowhere(path) else _reason(error)) from error
    except MemoryError as error:
        raise ValueError("larger than the memory") from error


def hash_of(content: bytes) -> bytes:
    """Return the hash by which the content of an image file is known."""
    return hashlib.blake2b(content, digest_size=HASH_BYTES).digest()


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # where a pipe has just taken its place


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


@frozen
class Reading:
    """How image files become arrays of one shape.

    Args:
        size: height and width of the result.
        channels: 1 (grey), 3 (RGB), or 4 (RGB and alpha, 0 transparent).
        fit: ``crop`` (the largest middle part of this shape, resized), ``pad`` (the whole image, resized, and
            around it the background) or ``stretch`` (the whole image, whatever its shape).
        background: what lies below transparent pixels, ``white``, ``black``, ``grey`` or ``#rrggbb``. With
            4 channels it is the colour of pixels that are wholly transparent, padding too.
        crop: only the middle square of so many pixels of the file is used; by default all of it.
        max_pixels: a larger image is refused.

    Raises:
        ValueError: the background is no colour, or the number of channels is another.
    """

    size: tuple[int, int]
    channels: int
    fit: Fit = "crop"
    background: str = "white"
    crop: int | None = None
    max_pixels: int = MAX_PIXELS

    def __attrs_post_init__(self) -> None:
        colour(self.background)
        if self.fit not in get_args(Fit):
            raise OptionError(f"fit: {self.fit} is none of {', '.join(get_args(Fit))}")
        if self.channels not in _MODES:
            raise OptionError(f"channels: {self.channels}, where files have 1 (grey), 3 (RGB) or 4 (RGBA)")

    def batch(self, paths: Iterable[Path]) -> Tensor:
        """Return images as uint8 [B, channels, height, width], decoded in parallel.

        Raises:
            UnreadableImageError: one cannot be decoded.
        """
        import torch

        with ThreadPoolExecutor() as pool:
            images = list(pool.map(self.read, paths))
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    def read(self, path: Path) -> np.ndarray:
        """Return an image as uint8 [height, width, channels].

        Raises:
            UnreadableImageError: it cannot be decoded.
        """
        with named(path):
            return self.decode(content_of(path))

    def decode(self, content: bytes) -> np.ndarray:
        """Return the image of a file with this content, as ``read`` does.

        Raises:
            ValueError: it cannot be decoded.
        """
        container = parse(content)
        file = opened(container, self.max_pixels)
        inner = self._inner(upright_size(file, container))
        image = decoded(file, container, None if self.crop else inner)
        flat = _laid_on(image, self.background, self.channels)
        pixels = np.asarray(self._framed(_resized(flat, inner, self._part(flat.size))))
        if self.channels == 4:
            pixels = np.where(pixels[..., 3:], pixels, np.array((*colour(self.background), 0), np.uint8))
        return pixels.reshape(*self.size, self.channels)

    def _inner(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the width and height of what an image of a width and height becomes, without padding."""
        height, width = self.size
        return _largest(self._used(size), (width, height)) if self.fit == "pad" else (width, height)

    def _part(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return which part of an image is used: left, top, right, bottom."""
        used = self._used(size)
        width, height = _largest(self.size[::-1], used) if self.fit == "crop" else used
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        return left, top, left + width, top + height

    def _used(self, size: tuple[int, int]) -> tuple[int, int]:
        return (min(self.crop, size[0]), min(self.crop, size[1])) if self.crop else size

    def _framed(self, image: Image.Image) -> Image.Image:
        """Return an image in the middle of one of the wanted size."""
        height, width = self.size
        if image.size == (width, height):
            return image
        clear = Image.new("RGBA", (width, height), (*colour(self.background), 0))
        frame = _laid_on(clear, self.background, self.channels)
        frame.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        return frame


def colour(name: str) -> tuple[int, int, int]:
    """Return a background's red, green and blue, 0 to 255.

    Raises:
        ValueError: it is none of ``white``, ``black``, ``grey`` and ``#rrggbb``.
    """
    if name in _COLOURS:
        return _COLOURS[name]
    if not re.fullmatch("#[0-9a-fA-F]{6}", name):
        raise OptionError(f"background: {name} is no colour: white, black, grey or #rrggbb")
    red, green, blue = bytes.fromhex(name[1:])
    return red, green, blue


def _largest(shape: tuple[int, int], within: tuple[int, int]) -> tuple[int, int]:
    """Return the largest width and height of a shape that fit into others, to the nearest pixel."""
    scale = min(within[0] / shape[0], within[1] / shape[1])
    return max(round(shape[0] * scale), 1), max(round(shape[1] * scale), 1)


def _laid_on(image: Image.Image, background: str, channels: int) -> Image.Image:
    """Return an image with 1, 3 or 4 channels; without alpha, what is transparent shows the background."""
    if channels != 4 and image.mode in ("LA", "RGBA"):
        below = Image.new("RGBA", image.size, colour(background))
        image = Image.alpha_composite(below, image.convert("RGBA"))
    return image if image.mode == _MODES[channels] else image.convert(_MODES[channels])


def _resized(image: Image.Image, size: tuple[int, int], part: tuple[int, int, int, int]) -> Image.Image:
    """Resize a part of an image (Lanczos)."""
    if (part[2] - part[0], part[3] - part[1]) == size:
        return image.crop(part)
    if image.mode == "RGBA":
        return _resized_by_alpha(image, size, part)
    return image.resize(size, Image.Resampling.LANCZOS, part, reducing_gap=3.0)


def _resized_by_alpha(
    image: Image.Image, size: tuple[int, int], part: tuple[int, int, int, int]
) -> Image.Image:
    """Resize a part of an RGBA image, colours weighted by alpha: what is transparent adds none.

    In floats: Pillow clips weighted colours and alpha apart from each other, and edges become bright.
    """
    length = (part[2] - part[0], part[3] - part[1])
    factors = (max(length[0] // (3 * size[0]), 1), max(length[1] // (3 * size[1]), 1))
    weighted = np.array(image.reduce(factors, part), np.float32)
    weighted[..., :3] *= weighted[..., 3:] / 255
    box = (0.0, 0.0, length[0] / factors[0], length[1] / factors[1])
    bands = (Image.fromarray(band) for band in weighted.transpose(2, 0, 1))
    resized = np.stack([np.array(band.resize(size, Image.Resampling.LANCZOS, box)) for band in bands], -1)
    resized[..., :3] *= 255 / np.maximum(resized[..., 3:], 0.5)
    return Image.fromarray(resized.round().clip(0, 255).astype(np.uint8))


def read_image(path: Path, channels: int | None = None, size: int | None = None) -> Tensor:
    """Return an upright image, uint8 [C, H, W].

    Args:
        path: the file.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA); grey or RGB as the file has it by default.
        size: side of a square that it is stretched to (Lanczos); by default it keeps its size.

    Raises:
        UnreadableImageError: it cannot be decoded.
    """
    import torch

    with named(path):
        image = decode(parse(content_of(path)), MAX_PIXELS)
    image = _laid_on(image, "white", channels or (1 if is_grey(image) else 3))
    if size:
        image = _resized(image, (size, size), (0, 0, *image.size))
    pixels = np.array(image)
    return torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1).contiguous()


def image_shape(path: Path) -> tuple[int, int, int]:
    """Return channels (1 or 3), height and width of the upright image, by its head.

    Raises:
        UnreadableImageError: it is no image.
    """
    with named(path):
        container = parse(content_of(path))
        image = opened(container, MAX_PIXELS)
    width, height = upright_size(image, container)
    return 1 if is_grey(image) else 3, height, width


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name the file that cannot be decoded."""
    try:
        yield
    except ValueError as error:
        what = f"{shown(path)} cannot be decoded ({error}): remove or replace it"
        raise UnreadableImageError(what) from error
