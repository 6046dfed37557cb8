"""Image files, found, decoded and brought to one size."""

from __future__ import annotations

import heapq
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
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
_MODES = {1: "L", 3: "RGB"}
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
    found: list[Path] = []
    left_out: dict[str, str] = {}
    for path in _files_under(root, left_out):
        ending, below = path.suffix.lower(), path.relative_to(root)
        hidden = any(part.startswith(".") for part in below.parts)
        if ending not in ENDINGS and ending not in other_endings():
            if not hidden and leads_nowhere(path):  # perhaps to a folder of images
                left_out[shown(below)] = "a broken link"
        elif hidden:
            left_out[shown(below)] = "hidden: the name begins with a dot"
        elif ending not in ENDINGS:
            left_out[shown(below)] = f"{ending}, not PNG, JPEG or WebP: convert to one of these"
        else:
            found.append(path)
    return sorted(found), left_out


def leads_nowhere(path: str | Path) -> bool:
    """Return whether a path is a link, and what it leads to is not there."""
    return os.path.islink(path) and not os.path.exists(path)


@cache
def other_endings() -> frozenset[str]:
    """Return the endings of image files that are not read."""
    more = {f".{ending}" for ending in f"{_RAW} {_NEWER}".split()}
    return frozenset(({*Image.registered_extensions(), *more}) - {*ENDINGS} - _NO_IMAGES)


def _files_under(root: Path, unreadable: dict[str, str]) -> Iterator[Path]:
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
            if not os.path.isdir(entry.path):
                yield Path(entry.path)
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


def decode(content: bytes, max_pixels: int, draft: int | None = None) -> Image.Image:
    """Return an upright image of mode ``L`` or ``RGB``, what is transparent in it on white.

    Args:
        content: a file's bytes.
        max_pixels: larger images are refused before they are decoded.
        draft: a JPEG is decoded at a fraction of its size, at least this.

    Raises:
        ValueError: it is no image, damaged, or too large.
    """
    container = parse(content)
    image = _opened(container, max_pixels)
    with _any_fault_as_damage():
        if draft and container.kind == "JPEG":
            image.draft(None, (draft, draft))
        image.load()
        flat = _keyed(image, container) if container.transparent else _on_white(_eight_bits(image))
        mode = "L" if flat.mode in _GREY else "RGB"
        flat = flat if flat.mode == mode else flat.convert(mode)
        turn = _TURNS.get(container.orientation)
        return flat if turn is None else flat.transpose(turn)


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
    """Make one colour of a grey or RGB PNG white; it is compared with all of its bits."""
    pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
    most = (1 << container.bits) - 1
    if container.bits == 16 and image.mode == "RGB":  # of which Pillow keeps the upper halves
        pixels = pixels.astype(np.uint16) << 8 | _lower_halves(container)
    scale = 1 if container.bits == 16 else 255 // most
    key = np.array(container.transparent, np.uint16) * scale
    clear = (pixels.reshape(*pixels.shape[:2], -1) == key).all(-1)
    eight = (pixels >> 8 if container.bits == 16 else pixels).astype(np.uint8)
    eight[clear] = 255
    return Image.fromarray(eight)


def _lower_halves(container: Container) -> np.ndarray:
    """Decode RGB of sixteen bits once more, as if their bytes stood the other way round."""
    image = PngImageFile(BytesIO(container.data))
    image.tile = [(*image.tile[0][:3], "RGB;16L")]  # type: ignore[list-item]  # no named tuple before Pillow 11
    return np.asarray(image)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Keep the upper half of 16-bit grey: Pillow would clip it."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    """Lay an image that is transparent somewhere on white: below, its colours are anything."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    clear = image.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return flat.convert("L" if image.mode in _GREY else "RGB")


def read_square(
    path: Path, size: int, channels: int, crop: int | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Return an image as uint8 [size, size, channels]: the middle square of the upright image, resized.

    Args:
        path: the file.
        size: side of the result.
        channels: 1 (grey) or 3 (RGB).
        crop: side of the middle square, in pixels; by default the shorter side.
        max_pixels: a larger image is refused.

    Raises:
        UnreadableImageError: it cannot be decoded.
    """
    with _named(path):
        eight = decode(content_of(path), max_pixels, None if crop else size).convert(_MODES[channels])
        side = min(crop or min(eight.size), *eight.size)
        left, top = ((length - side) // 2 for length in eight.size)
        square = (left, top, left + side, top + side)
        resized = eight.resize((size, size), Image.Resampling.LANCZOS, box=square, reducing_gap=3.0)
    return np.asarray(resized).reshape(size, size, channels)


def read_image(path: Path, channels: int | None = None, size: int | None = None) -> Tensor:
    """Return an upright image, uint8 [C, H, W].

    Args:
        path: the file.
        channels: 1 (grey) or 3 (RGB); as the file has it by default.
        size: side of a square that it is stretched to (Lanczos); by default it keeps its size.

    Raises:
        UnreadableImageError: it cannot be decoded.
    """
    with _named(path):
        image = decode(content_of(path), MAX_PIXELS)
        image = image.convert(_MODES[channels] if channels else image.mode)
        if size and image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
        pixels = np.array(image)
    return torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1).contiguous()


def image_shape(path: Path) -> tuple[int, int, int]:
    """Return channels (1 or 3), height and width of the upright image, by its head.

    Raises:
        UnreadableImageError: it is no image.
    """
    with _named(path):
        container = parse(content_of(path))
        image = _opened(container, MAX_PIXELS)
    width, height = image.size
    channels = 1 if image.mode in _GREY or image.mode.startswith("I") else 3
    return (channels, width, height) if container.orientation >= 5 else (channels, height, width)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file that cannot be decoded."""
    try:
        yield
    except ValueError as error:
        what = f"{shown(path)} cannot be decoded ({error}): remove or replace it"
        raise UnreadableImageError(what) from error


def read_batch(
    paths: Iterable[Path], size: int, channels: int, crop: int | None = None, max_pixels: int = MAX_PIXELS
) -> Tensor:
    """Return images as uint8 [B, channels, size, size], decoded in parallel.

    Raises:
        UnreadableImageError: one cannot be decoded.
    """
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda path: read_square(path, size, channels, crop, max_pixels), paths))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
