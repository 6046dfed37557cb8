"""Image files, found, decoded and brought to one size."""

from __future__ import annotations

import heapq
import os
import re
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from attrs import frozen
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from uldm_core import RunError
from uldm_core.errors import OptionError
from uldm_plugins.shared.containers import Container, parse

ENDINGS = (".apng", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".webp")
MAX_PIXELS = 100_000_000
_RAW = "3fr arw cr2 cr3 crw dcr dng erf iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f"
_NEWER = "avif avifs heic heif hif jxl svg"
_NO_IMAGES = {".bufr", ".grib", ".h5", ".hdf", ".mpeg", ".mpg", ".pdf", ".ps"}
# Image.open has a limit on pixels of its own, for all of the program, and warns: the classes do neither
_READERS = {"JPEG": JpegImageFile, "PNG": PngImageFile, "WEBP": WebPImageFile}
_GREY = ("1", "L", "LA")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_COLOURS = {"white": (255, 255, 255), "grey": (128, 128, 128), "black": (0, 0, 0)}
Fit = Literal["crop", "pad", "stretch"]
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(RunError, ValueError):
    """An image file cannot be decoded, perhaps no longer; one line with its name and why."""


def shown(path: Path | str) -> str:
    """Return a path as text of one line: what is no UTF-8 or not printable as backslash escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def image_files(root: Path) -> tuple[list[Path], dict[str, str]]:
    """Return the files under a folder that have a readable ending, sorted by path, and the others.

    Others are by their names below the folder, with the reason; see ``image_names``.

    Raises:
        ValueError: there is no such folder, or it is a run's.
    """
    names, left_out = image_names(root)
    return [root / os.fsdecode(name) for name in names], left_out


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
            left_out[shown(below)] = f"{ending}, not PNG, JPEG or WebP: convert to one of these"
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


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # where a pipe has just taken its place


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def decode(content: bytes, max_pixels: int, draft: tuple[int, int] | None = None) -> Image.Image:
    """Return an upright image of mode ``L``, ``LA``, ``RGB`` or ``RGBA``.

    Args:
        content: a file's bytes.
        max_pixels: larger images are refused before they are decoded.
        draft: a JPEG is decoded at a fraction of its size, at least this width and height.

    Raises:
        ValueError: it is no image, damaged, or too large.
    """
    container = parse(content)
    return _decoded(_opened(container, max_pixels), container, draft)


def _decoded(image: ImageFile, container: Container, draft: tuple[int, int] | None) -> Image.Image:
    with _any_fault_as_damage():
        if draft and container.kind == "JPEG":
            image.draft(None, _turned(draft, container))
        image.load()
        eight = _keyed(image, container) if container.transparent else _eight_bits(image)
        turn = _TURNS.get(container.orientation)
        return eight if turn is None else eight.transpose(turn)


def _turned(size: tuple[int, int], container: Container) -> tuple[int, int]:
    """Return an upright image's width and height as they are in the file, or the other way round."""
    return (size[1], size[0]) if container.orientation >= 5 else size


def _opened(container: Container, max_pixels: int) -> ImageFile:
    with _any_fault_as_damage():
        image = _READERS[container.kind](BytesIO(container.data))
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(f"more than {max_pixels} pixels, which is max_pixels")
    return image


@contextmanager
def _any_fault_as_damage() -> Iterator[None]:
    """Decoders have many ways to fail: each means that the file is damaged, or that memory is short."""
    try:
        yield
    except Exception as error:
        why = str(error) or type(error).__name__
        raise ValueError(
            "cut short" if "truncated" in why.lower() else f"Pillow cannot decode it: {why}"
        ) from error


def _keyed(image: Image.Image, container: Container) -> Image.Image:
    """Make one colour of a grey or RGB PNG transparent; it is compared with all of its bits."""
    pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
    most = (1 << container.bits) - 1
    if container.bits == 16 and image.mode == "RGB":  # of which Pillow keeps the upper halves
        pixels = pixels.astype(np.uint16) << 8 | _lower_halves(container)
    scale = 1 if container.bits == 16 else 255 // most
    key = np.array(container.transparent, np.uint16) * scale
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    opaque = (pixels != key).any(-1, keepdims=True)
    eight = pixels >> 8 if container.bits == 16 else pixels
    return Image.fromarray(np.concatenate([eight, opaque * 255], -1).astype(np.uint8))


def _lower_halves(container: Container) -> np.ndarray:
    """Decode RGB of sixteen bits once more, as if their bytes stood the other way round."""
    image = PngImageFile(BytesIO(container.data))
    image.tile = [(*image.tile[0][:3], "RGB;16L")]  # type: ignore[list-item]  # no named tuple before Pillow 11
    return np.asarray(image)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image as ``L``, ``LA``, ``RGB`` or ``RGBA``."""
    if image.mode.startswith("I"):  # the upper half of 16 bits: Pillow would clip
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    clear = "A" in image.getbands() or "transparency" in image.info
    mode = ("L" if image.mode in _GREY else "RGB") + ("A" if clear else "")
    return image if image.mode == mode else image.convert(mode)


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
        opened = _opened(container, self.max_pixels)
        inner = self._inner(_turned(opened.size, container))
        image = _decoded(opened, container, None if self.crop else inner)
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
    """Resize a part of an image (Lanczos); the colours of pixels count by their alpha."""
    if (part[2] - part[0], part[3] - part[1]) == size:
        return image.crop(part)
    weighted = image.convert("RGBa") if image.mode == "RGBA" else image
    return weighted.resize(size, Image.Resampling.LANCZOS, part, reducing_gap=3.0).convert(image.mode)


def read_image(path: Path, channels: int | None = None, size: int | None = None) -> Tensor:
    """Return an upright image, uint8 [C, H, W].

    Args:
        path: the file.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA); grey or RGB as the file has it by default.
        size: side of a square that it is stretched to (Lanczos); by default it keeps its size.

    Raises:
        UnreadableImageError: it cannot be decoded.
    """
    with named(path):
        image = decode(content_of(path), MAX_PIXELS)
    image = _laid_on(image, "white", channels or (1 if image.mode in _GREY else 3))
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
        image = _opened(container, MAX_PIXELS)
    width, height = image.size
    channels = 1 if image.mode in _GREY or image.mode.startswith("I") else 3
    return (channels, width, height) if container.orientation >= 5 else (channels, height, width)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name the file that cannot be decoded."""
    try:
        yield
    except ValueError as error:
        what = f"{shown(path)} cannot be decoded ({error}): remove or replace it"
        raise UnreadableImageError(what) from error
