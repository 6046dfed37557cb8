"""Tables of images, with labels for rows and columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from uldm_core.paths import whole
from uldm_plugins.pictures.sheets import GAP, TEXT, TITLE, enlarged, font, shortened, text_width

BETWEEN = 4
"""Pixels between images of a row, which belong together."""
_COLOUR = "#222222"
_LINE = TEXT + 7
_TITLE_LINE = TITLE + 10


def save_table(
    rows: Sequence[Iterable[Tensor]],
    path: Path,
    *,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    height: int,
    title: str = "",
) -> None:
    """Write rows of images as one PNG.

    Args:
        rows: uint8 [1 or 3, H, W] each, all of one size.
        path: the PNG.
        row_labels: the text left of each row.
        column_labels: the text above each column; cut short where it is wider.
        height: about how many pixels high an image becomes.
        title: lines on top.
    """
    pictures = [[enlarged(image, height) for image in row] for row in rows]
    wide, high = pictures[0][0].size
    lines = title.splitlines()
    left = 2 * GAP + ceil(max(text_width(label, TEXT) for label in row_labels))
    top = GAP + len(lines) * _TITLE_LINE + _LINE
    right = max(
        left + len(column_labels) * (wide + BETWEEN),
        *(GAP + ceil(text_width(line, TITLE)) for line in ["", *lines]),
    )
    table = Image.new("RGB", (right + GAP, top + len(rows) * (high + BETWEEN) + GAP), "white")
    pen = ImageDraw.Draw(table)
    for number, line in enumerate(lines):
        pen.text((GAP, GAP + number * _TITLE_LINE), line, _COLOUR, font(TITLE))
    for column, label in enumerate(column_labels):
        middle = left + column * (wide + BETWEEN) + wide // 2
        pen.text((middle, top - 4), shortened(label, wide), _COLOUR, font(TEXT), anchor="ms")
    for row, (label, images) in enumerate(zip(row_labels, pictures)):
        place = top + row * (high + BETWEEN)
        pen.text((left - GAP, place + high // 2), label, _COLOUR, font(TEXT), anchor="rm")
        for column, picture in enumerate(images):
            table.paste(picture, (left + column * (wide + BETWEEN), place))
    with whole(path) as file:
        table.save(file, "PNG")
