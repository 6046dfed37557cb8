"""Image files, found, looked at and brought to one size."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

ENDINGS = (".jpeg", ".jpg", ".png", ".webp")
_FORMATS = ("JPEG", "PNG", "WEBP")
_GREY = ("1", "L", "LA")
_MODES = {1: "L", 3: "RGB"}
_TAIL = 64
_NAMED = 5
_log = logging.getLogger(__name__)


def image_files(root: Path) -> list[Path]:
    """Return every image file under a folder, hidden ones left out, sorted by path.

    Raises:
        ValueError: there is no such folder, or no image in it.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}")
    found = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in ENDINGS and not any(p.startswith(".") for p in path.relative_to(root).parts)
    )
    if not found:
        raise ValueError(f"{root} has no images ({', '.join(ENDINGS)})")
    return found


def usable(paths: Sequence[Path], max_pixels: int) -> list[Path]:
    """Return the files that can be images, and count and name in the log those that cannot.

    Raises:
        ValueError: none of them can.
    """
    with ThreadPoolExecutor() as pool:
        faults = list(pool.map(lambda path: fault(path, max_pixels), paths))
    bad = [f"{path} ({what})" for path, what in zip(paths, faults) if what]
    if bad:
        named = ", ".join(bad[:_NAMED]) + (f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else "")
        if len(bad) == len(paths):
            raise ValueError(f"none of {len(paths)} files is a usable image: {named}")
        _log.warning("%d of %d image files are left out: %s", len(bad), len(paths), named)
    return [path for path, what in zip(paths, faults) if not what]


def fault(path: Path, max_pixels: int) -> str:
    """Return what is wrong with an image file, by its head and its end, or nothing; it is not decoded."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            kind = image.format
        if width * height > max_pixels:
            return f"{width}x{height} is more than {max_pixels} pixels"
        with path.open("rb") as file:
            file.seek(0, 2)
            length = file.tell()
            file.seek(max(0, length - _TAIL))
            tail = file.read()
            file.seek(0)
            head = file.read(8)
    except Image.DecompressionBombError as error:
        return str(error)
    except (OSError, ValueError) as error:
        return "no PNG, JPEG or WebP" if isinstance(error, Image.UnidentifiedImageError) else str(error)
    whole = {
        "PNG": b"IEND" in tail,
        "JPEG": b"\xff\xd9" in tail,
        "WEBP": length >= int.from_bytes(head[4:], "little") + 8,
    }
    return "" if whole[str(kind)] else "cut short"


def read_square(path: Path, size: int, channels: int, crop: int | None = None) -> np.ndarray:
    """Return an image as uint8 [size, size, channels]: the middle square of the upright image, resized.

    Args:
        path: the file.
        size: side of the result.
        channels: 1 (grey) or 3 (RGB).
        crop: side of the middle square, in pixels; by default the shorter side.

    Raises:
        ValueError: it cannot be decoded.
    """
    with _decoding(path):
        eight = _upright(path, draft=None if crop else size).convert(_MODES[channels])
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
        ValueError: it cannot be decoded.
    """
    with _decoding(path):
        image = _upright(path)
        image = image.convert(_MODES[channels or (1 if image.mode in _GREY else 3)])
        if size and image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
        pixels = np.array(image)
    return torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1).contiguous()


def image_shape(path: Path) -> tuple[int, int, int]:
    """Return channels (1 or 3), height and width of the upright image, by its head.

    Raises:
        ValueError: it is no image.
    """
    with _decoding(path), Image.open(path, formats=_FORMATS) as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        channels = 1 if image.mode in _GREY or image.mode.startswith("I") else 3
    return (channels, width, height) if turned else (channels, height, width)


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Say of any fault that this file cannot be decoded."""
    try:
        yield
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be decoded ({error}): remove or replace it") from error


def _upright(path: Path, draft: int | None = None) -> Image.Image:
    """Return an image of eight bits, turned as its EXIF says, what is transparent in it on white.

    Args:
        path: the file.
        draft: a JPEG is decoded at a fraction of its size, at least this.
    """
    with Image.open(path, formats=_FORMATS) as image:
        if draft and image.format == "JPEG":
            image.draft(None, (draft, draft))
        return _on_white(_eight_bits(ImageOps.exif_transpose(image)))


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


def read_batch(paths: Iterable[Path], size: int, channels: int, crop: int | None = None) -> Tensor:
    """Return images as uint8 [B, channels, size, size], decoded in parallel."""
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda path: read_square(path, size, channels, crop), paths))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def files_fingerprint(root: Path, paths: Sequence[Path], *more: object) -> str:
    """Return a hash of the files' names, lengths and times of change, and of what else is given."""
    digest = hashlib.blake2b(repr(more).encode(), digest_size=8)
    for path in paths:
        status = path.stat()
        digest.update(f"{path.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
