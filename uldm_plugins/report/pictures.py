"""Arrays as pictures within a page."""

from __future__ import annotations

import struct
from base64 import b64encode
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray
from PIL import Image

from uldm_plugins.shared.images import displayable

_SHOWN_AT = 56
"""Small images are enlarged to about this side, in CSS pixels; large ones shown at most twice as large."""
_MOST_BYTES, _MOST_PIXELS = 1 << 25, 1 << 26


@frozen
class Picture:
    """A picture that is written into the page itself.

    Args:
        source: a ``data:`` address.
        width: in its own pixels.
        height: in its own pixels.
        alt: what it shows, for who cannot see it.
    """

    source: str
    width: int
    height: int
    alt: str


def picture(pixels: NDArray[np.uint8], alt: str) -> Picture:
    """Return uint8 pixels [H, W, C] as a picture, as ``displayable`` has it."""
    shown = displayable(torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).unsqueeze(0))[0]
    image = Image.fromarray(shown.permute(1, 2, 0).squeeze(-1).contiguous().numpy())
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return _of_bytes(buffer.getvalue(), image.size, alt)


def file_picture(path: Path, alt: str) -> Picture | None:
    """Return a PNG file as a picture, or None if it is none, cut short, or too large for a page."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        content = path.read_bytes()
        width, height = struct.unpack(">II", content[16:24])
        if width * height > _MOST_PIXELS:  # before Pillow is asked, which warns of it first
            return None
        with Image.open(BytesIO(content), formats=["PNG"]) as image:
            image.load()
            return _of_bytes(content, image.size, alt)
    except (OSError, SyntaxError, ValueError, struct.error):  # Pillow's errors, and ours
        return None


def _of_bytes(content: bytes, size: tuple[int, int], alt: str) -> Picture:
    return Picture("data:image/png;base64," + b64encode(content).decode("ascii"), *size, alt)


def larger_side(images: NDArray[np.uint8]) -> int:
    """Return the larger side that images [..., H, W, C] have as pictures."""
    height, width, channels = images.shape[-3:]
    return max(height, width if channels in (1, 3, 4) else channels * width)


def shown_at(side: int) -> int:
    """Return the CSS pixels that an image's larger side is shown at: a whole multiple if it is small."""
    if side > 2 * _SHOWN_AT:
        return 2 * _SHOWN_AT
    return side * max(1, round(_SHOWN_AT / max(side, 1)))


def how_many(side: int, most: int, pixels: int = 400_000) -> int:
    """Return how many images of a larger side to show, so that a page stays small: 8, ``most`` at most."""
    return max(min(8, most), min(most, pixels // max(side * side, 1)))
