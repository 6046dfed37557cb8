"""What an autoencoder makes of images, drawn beside them, with the codes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from uldm_core.paths import whole
from uldm_plugins.pictures.codes import code_map
from uldm_plugins.pictures.sheets import GAP, save_sheet, side_by_side
from uldm_plugins.shared.images import displayable

PANEL = 224
THUMB = 84
MOST = 100
"""Images on a summary."""


def save_image(image: Tensor, path: Path) -> None:
    """Write one uint8 image [C, H, W], pixel for pixel: with alpha if it has four channels."""
    shown = image if len(image) == 4 else displayable(image.unsqueeze(0))[0]
    with whole(path) as file:
        Image.fromarray(shown.cpu().permute(1, 2, 0).squeeze(-1).contiguous().numpy()).save(file, "PNG")


def triptych(image: Tensor, reconstruction: Tensor, codes: Tensor | None, codebook_size: int) -> list[Tensor]:
    """Return image, reconstruction and, with a quantizer, the map of each codebook's codes [Q, h, w]."""
    pictures = [image, reconstruction]
    if codes is not None:
        height, width = image.shape[1:]
        pictures += [code_map(one.unsqueeze(0), (height, width), codebook_size)[0] for one in codes]
    return pictures


def titles(codes: Tensor | None) -> list[str]:
    """Return what the pictures of a ``triptych`` are called."""
    if codes is None:
        return ["original", "reconstruction"]
    grid = f"{codes.shape[1]}x{codes.shape[2]}"
    several = [f"codes {number + 1}, a colour each ({grid})" for number in range(len(codes))]
    one = [f"codes, a colour each ({grid})"]
    return ["original", "reconstruction", *(several if len(codes) > 1 else one)]


def save_triptych(pictures: Sequence[Tensor], names: Sequence[str], path: Path, title: str) -> None:
    """Write the pictures beside each other, each with its name."""
    save_sheet(pictures, names, path, columns=len(pictures), height=PANEL, title=title)


def save_summary(rows: Sequence[Sequence[Tensor]], labels: Sequence[str], path: Path, title: str) -> None:
    """Write the pictures of many images, each image's beside each other, with its label."""
    joined = [side_by_side(row, gap=2) for row in rows]
    widest = max(one.shape[2] * THUMB // one.shape[1] for one in joined) + GAP
    save_sheet(joined, labels, path, columns=max(1, 1400 // widest), height=THUMB, title=title)
