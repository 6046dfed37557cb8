"""From a container to pixels: upright, of eight bits, in sRGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from uldm_plugins.shared.containers import Container
from uldm_plugins.shared.profiles import to_srgb


class _TiffImageFile(TiffImageFile):
    def load(self) -> Any:
        planes = self.tag_v2.get(_PLANES) == 2 and self.tag_v2.get(_BITS, ())[:1] == (16,)
        if planes and self.tile and not self.use_load_libtiff:  # Pillow itself would take 16 bits for 8
            where = (f"{self.mode};16N", "raw", False, self.tag_v2.offset)
            self.tile = [("libtiff", (0, 0, *self.size), 0, where)]  # type: ignore[list-item]
            self.use_load_libtiff = True
        return super().load()

    def load_prepare(self) -> None:
        ImageFile.load_prepare(self)  # its own looks at the limit, too


# Image.open has a limit on pixels of its own, for all of the program, and warns: the classes do neither
_READERS: dict[str, type[ImageFile]] = {
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "TIFF": _TiffImageFile,
    "WEBP": WebPImageFile,
}
_GREY = ("1", "L", "LA")
_BITS, _PLANES = 258, 284
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(container: Container, max_pixels: int, draft: tuple[int, int] | None = None) -> Image.Image:
    """Return an upright image in sRGB, of mode ``L``, ``LA``, ``RGB`` or ``RGBA``.

    Args:
        container: an image file.
        max_pixels: larger images are refused before they are decoded.
        draft: a JPEG is decoded at a fraction of its size, at least this width and height.

    Raises:
        ValueError: it is damaged, or too large.
    """
    return decoded(opened(container, max_pixels), container, draft)


def opened(container: Container, max_pixels: int) -> ImageFile:
    """Return an image of which the head is read.

    Raises:
        ValueError: it is damaged, or has too many pixels.
    """
    with _any_fault_as_damage():
        image = _READERS[container.kind](BytesIO(container.data))
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(f"more than {max_pixels} pixels, which is max_pixels")
    return image


def decoded(image: ImageFile, container: Container, draft: tuple[int, int] | None) -> Image.Image:
    """Return the pixels of an image that is opened; see ``decode``."""
    with _any_fault_as_damage():
        if draft and container.kind == "JPEG":
            image.draft(None, _turned(draft, container))
        image.load()
        eight = _keyed(image, container) if container.transparent else _eight_bits(image, container)
        turn = _TURNS.get(container.orientation)
        return eight if turn is None else eight.transpose(turn)


def upright_size(image: Image.Image, container: Container) -> tuple[int, int]:
    """Return the width and height that an image of a container has when it is upright."""
    return _turned(image.size, container)


def is_grey(image: Image.Image) -> bool:
    """Return whether an image, decoded or only opened, has no colours."""
    return image.mode in _GREY or image.mode.startswith("I")


def _turned(size: tuple[int, int], container: Container) -> tuple[int, int]:
    return (size[1], size[0]) if container.orientation >= 5 else size


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
    clear = Image.fromarray(np.concatenate([eight, opaque * 255], -1).astype(np.uint8))
    return to_srgb(clear, container.profile)


def _lower_halves(container: Container) -> np.ndarray:
    """Decode RGB of sixteen bits once more, as if their bytes stood the other way round."""
    image = PngImageFile(BytesIO(container.data))
    image.tile = [(*image.tile[0][:3], "RGB;16L")]  # type: ignore[list-item]  # no named tuple before Pillow 11
    return np.asarray(image)


def _eight_bits(image: Image.Image, container: Container) -> Image.Image:
    """Return an image as ``L``, ``LA``, ``RGB`` or ``RGBA``, in sRGB."""
    if image.mode.startswith("I"):  # the upper half of 16 bits: Pillow would clip
        sixteen = np.asarray(image).astype(np.uint16)
        sixteen = ~sixteen if container.inverted else sixteen
        image = Image.fromarray((sixteen >> (container.bits - 8)).astype(np.uint8))
    if image.mode in ("CMYK", "LAB"):
        return to_srgb(image, container.profile).convert("RGB")
    clear = "A" in image.getbands() or "transparency" in image.info
    mode = ("L" if image.mode in _GREY else "RGB") + ("A" if clear else "")
    eight = image if image.mode == mode else image.convert(mode)
    return to_srgb(eight, container.profile)
