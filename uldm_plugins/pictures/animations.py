"""Images that change: a grid of them as an animated GIF."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from uldm_core.paths import whole
from uldm_plugins.pictures.sheets import GAP, TEXT, enlarged, font, text_width
from uldm_plugins.shared.images import displayable

BETWEEN = 4
FIRST, LAST = 700, 2500
"""How long the two ends are shown, in milliseconds: a loop without a pause has no end to look at."""
MOTION = 3000
"""How long the frames between them last together, and each at most."""
SLOWEST = 250
_COLOUR = "#222222"
_LINE = TEXT + 9


def save_animation(
    frames: Tensor, labels: Sequence[str], path: Path, *, height: int, back: bool = False
) -> None:
    """Write a GIF that repeats itself for ever.

    Args:
        frames: uint8 [F, N, C, H, W]; the N images of a frame form a grid, about a square.
        labels: the text above each frame.
        path: the GIF.
        height: about how many pixels high an image becomes.
        back: go back to the first frame the way it came, instead of jumping.
    """
    widest = ceil(max(text_width(label, TEXT) for label in labels))
    drawn = [_frame(images, label, height, widest) for images, label in zip(frames, labels)]
    step = min(SLOWEST, MOTION // max(len(drawn) - 2, 1))
    times = [FIRST, *[step] * (len(drawn) - 2), LAST]
    if back:
        drawn += drawn[-2:0:-1]
        times += [step] * (len(drawn) - len(times))
    with whole(path) as file:
        drawn[0].save(file, "GIF", save_all=True, append_images=drawn[1:], duration=times, loop=0)


def _frame(images: Tensor, label: str, height: int, least: int) -> Image.Image:
    """Return one grid with its label, ``least`` pixels wide or more."""
    images = displayable(images)
    pictures = [enlarged(image, height) for image in images]
    wide, high = pictures[0].size
    columns = ceil(sqrt(len(pictures)))
    rows = ceil(len(pictures) / columns)
    size = (
        2 * GAP + max(columns * (wide + BETWEEN) - BETWEEN, least),
        2 * GAP + _LINE + rows * (high + BETWEEN) - BETWEEN,
    )
    grid = Image.new("RGB" if images.shape[1] > 1 else "L", size, "white")
    ImageDraw.Draw(grid).text((GAP, GAP), label, _COLOUR, font(TEXT))
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        grid.paste(
            picture.convert(grid.mode),
            (GAP + column * (wide + BETWEEN), GAP + _LINE + row * (high + BETWEEN)),
        )
    return grid
