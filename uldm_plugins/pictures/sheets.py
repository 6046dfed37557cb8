"""Sheets of images with a line of text below each: exact pixels, no axes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import ceil
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from uldm_core.paths import whole
from uldm_plugins.shared.images import displayable

GAP = 10
TEXT = 13
TITLE = 15
LABEL = 120
"""Width in pixels that a text may have where its image is narrower."""
_LINE = TEXT + 7
_TITLE_LINE = TITLE + 10
_COLOUR = "#222222"


def enlarged(image: Tensor, height: int) -> Image.Image:
    """Return a uint8 image [C, H, W] as a picture of about this height.

    A smaller one grows by a whole factor without smoothing, so that a pixel stays a square; a larger one
    is averaged down.
    """
    picture = Image.fromarray(coloured(image).permute(1, 2, 0).contiguous().numpy())
    if picture.height <= height:
        factor = height // picture.height
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    width = max(1, round(picture.width * height / picture.height))
    return picture.resize((width, height), Image.Resampling.BOX)


def coloured(image: Tensor) -> Tensor:
    """Return a uint8 image [C, H, W] as it is shown, [3, H, W']."""
    return displayable(image.cpu().unsqueeze(0))[0].expand(3, -1, -1)


def side_by_side(images: Sequence[Tensor], gap: int = 1) -> Tensor:
    """Return uint8 images of one height beside each other, [3, H, W], with white between them."""
    shown = [coloured(image) for image in images]
    white = torch.full((3, shown[0].shape[1], gap), 255, dtype=torch.uint8)
    return torch.cat([part for image in shown for part in (image, white)][:-1], 2)


def save_sheet(
    images: Sequence[Tensor],
    labels: Sequence[str],
    path: Path,
    *,
    columns: int,
    height: int,
    title: str = "",
) -> None:
    """Write images, row by row, as one PNG.

    Args:
        images: uint8 [C, H, W] each.
        labels: the text below each; cut short where it is wider than its image.
        path: the PNG.
        columns: images a row.
        height: about how many pixels high an image becomes.
        title: at the top.
    """
    pictures = [enlarged(image, height) for image in images]
    wide, high = (max(picture.size[side] for picture in pictures) for side in (0, 1))
    wide = max(wide, min(LABEL, *(ceil(text_width(label, TEXT)) for label in ["", *labels])))
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    lines = title.splitlines()
    head = GAP + len(lines) * _TITLE_LINE
    widths = [columns * (wide + GAP), *(ceil(text_width(line, TITLE)) + GAP for line in lines)]
    sheet = Image.new("RGB", (GAP + max(widths), head + rows * (high + _LINE + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        pen.text((GAP, GAP + number * _TITLE_LINE), line, _COLOUR, font(TITLE))
    for index, (picture, label) in enumerate(zip(pictures, labels)):
        left = GAP + index % columns * (wide + GAP)
        top = head + index // columns * (high + _LINE + GAP)
        sheet.paste(picture, (left, top))
        pen.text((left, top + high + 3), shortened(label, wide), _COLOUR, font(TEXT))
    with whole(path) as file:
        sheet.save(file, "PNG")


def shortened(text: str, width: int) -> str:
    """Return a text that is at most so many pixels wide, its middle left out if need be."""
    if text_width(text, TEXT) <= width:
        return text
    kept = next(
        (n for n in range(len(text) - 1, 0, -1) if text_width(_without_middle(text, n), TEXT) <= width), 0
    )
    return _without_middle(text, kept) if kept else ""


def _without_middle(text: str, kept: int) -> str:
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"


def text_width(text: str, size: int) -> float:
    """Return how many pixels wide a text is."""
    return font(size).getlength(text)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the typeface of the figures."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
