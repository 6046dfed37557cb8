"""What a folder of images holds: how many, their shapes and colours, what is broken or there twice."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from attrs import evolve, frozen
from torch import Tensor

from uldm_core.errors import MistakeError, OptionError
from uldm_core.protocols import HasClassNames
from uldm_plugins.datasets.image_folder import ImageFolder
from uldm_plugins.own_images.facts import FEWEST, FolderSummary
from uldm_plugins.shared.checked_files import FileNames, ImageFiles
from uldm_plugins.shared.files import (
    MAX_PIXELS,
    Reading,
    UnreadableImageError,
    image_names,
    image_shape,
    shown,
)

MOST_CHECKED = 50_000
"""Files of a folder; of larger ones only some are read here, and the run reads all."""
SAMPLE = 1000
"""Images whose shape and colours are looked at."""
ALIKE = 1.1
"""Ratios within this factor are about the same."""
OPAQUE, LIGHT, COLOURED = 250, 235, 8
"""Alpha from which a pixel is opaque, grey value from which it is light, range of RGB that shows a colour."""
NEARLY_ALL = 0.9
"""A share of an image's pixels that decides; at edges colours are mixed."""
_SMALL = Reading((32, 32), 4, fit="stretch")
_NEEDED = f"give a folder of {FEWEST} images or more; below some hundred, samples are copies of them"


@frozen
class Look:
    """What one image looks like.

    Args:
        height: of the upright image, in pixels.
        width: likewise.
        grey: whether it has no colour.
        transparent: whether some of it is transparent.
        light: whether nearly all of it that is not transparent is light.
    """

    height: int
    width: int
    grey: bool
    transparent: bool
    light: bool


@frozen
class Folder:
    """A folder's image files, by their names, those of some that can be read, and what these look like."""

    root: Path
    names: FileNames
    left_out: Mapping[str, str]
    sample: Sequence[Path]
    summary: FolderSummary


def look_at(root: Path) -> Folder:
    """Return what the names of a folder's files and some of its images show.

    Raises:
        MistakeError: there is no such folder, or it has too few images.
    """
    try:
        found, left_out = image_names(root)
    except OptionError as error:
        raise MistakeError(str(error), hint=_NEEDED) from error
    names = FileNames(root, found)
    some = [names[place] for place in _some(len(names), SAMPLE)]
    started = time.monotonic()
    with ThreadPoolExecutor() as pool:
        tried = list(zip(some, pool.map(_look, some), strict=True))
    seconds = (time.monotonic() - started) / max(len(some), 1)
    seen = [(path, look) for path, look in tried if look]
    count = len(names) * len(seen) // max(len(some), 1)
    broken = {str(path): "it cannot be decoded" for path, look in tried if not look}
    _require_enough(root, count, {**left_out, **broken})
    summary = FolderSummary(
        root=root,
        count=count,
        left_out=Counter(left_out.values()),
        read_seconds=seconds,
        **_shapes([look for _, look in seen]),
        **_colours([look for _, look in seen]),
    )
    return Folder(root, names, left_out, [path for path, _ in seen], summary)


def read_all(folder: Folder, options: Mapping[str, Any]) -> FolderSummary:
    """Read a folder as the recipe's dataset does, which keeps what it found, and return what that shows.

    Args:
        folder: of no more files than ``MOST_CHECKED``.
        options: of the dataset.

    Raises:
        MistakeError: it has too few images.
    """
    with _quiet():
        dataset = ImageFolder(folder.root, **options)
        files = ImageFiles(folder.root, image_names(folder.root)[0], MAX_PIXELS)
        files.read()
        usable = files.hashes[files.sound({})[0]]
    count = sum(len(dataset.split(name)) for name in dataset.splits)
    _require_enough(folder.root, count, dataset.left_out)
    alike = dataset.duplicates
    return evolve(
        folder.summary,
        count=count,
        checked=len(folder.names),
        left_out=Counter(dataset.left_out.values()),
        repeated=len(usable) - len(np.unique(usable, axis=0)),
        similar=alike.near / alike.compared if alike.compared else 0.0,
        classes=dataset.class_names if isinstance(dataset, HasClassNames) else (),
    )


def some_images(folder: Folder, reading: Reading, count: int) -> Tensor:
    """Return so many images at most, drawn by chance, uint8 [N, C, H, W]."""
    return reading.batch(folder.sample[place] for place in _some(len(folder.sample), count))


def _require_enough(root: Path, count: int, left_out: Mapping[str, str]) -> None:
    if count < FEWEST:
        reasons = Counter(left_out.values()).most_common(3)
        others = "".join(f"; {number} left out: {reason}" for reason, number in reasons)
        what = (
            f"{shown(root)} has {count} usable image{'s' * (count != 1)}, and {FEWEST} are the least{others}"
        )
        raise MistakeError(what, hint=_NEEDED)


def _shapes(looks: Sequence[Look]) -> dict[str, Any]:
    """Return the fields of a summary that are about shapes."""
    heights, widths = (np.array([getattr(look, side) for look in looks]) for side in ("height", "width"))
    ratios, shorter = widths / heights, np.minimum(heights, widths)
    ratio = float(np.median(ratios))
    return {
        "sampled": len(looks),
        "height": int(np.median(heights)),
        "width": int(np.median(widths)),
        "shorter": tuple(int(side) for side in np.quantile(shorter, (0.05, 0.5, 0.95))),
        "ratio": ratio,
        "of_that_ratio": float(np.mean(np.maximum(ratios / ratio, ratio / ratios) <= ALIKE)),
        "landscape": float(np.mean(ratios > ALIKE)),
        "portrait": float(np.mean(ratios < 1 / ALIKE)),
    }


def _colours(looks: Sequence[Look]) -> dict[str, Any]:
    """Return the fields of a summary that are about colours."""
    transparent = [look for look in looks if look.transparent]
    return {
        "grey": float(np.mean([look.grey for look in looks])),
        "transparent": len(transparent) / len(looks),
        "light": float(np.mean([look.light for look in transparent])) if transparent else 0.0,
    }


def _look(path: Path) -> Look | None:
    """Return what an image looks like; None if it cannot be read."""
    try:
        _, height, width = image_shape(path)
        pixels = _SMALL.read(path)
    except UnreadableImageError:
        return None
    colours, visible = pixels[..., :3].astype(int), pixels[..., 3] >= OPAQUE // 2
    seen = colours[visible] if visible.any() else colours.reshape(-1, 3)
    return Look(
        height,
        width,
        grey=bool((np.ptp(seen, axis=1) < COLOURED).all()),
        transparent=bool((pixels[..., 3] < OPAQUE).any()),
        light=bool((seen.mean(1) >= LIGHT).mean() >= NEARLY_ALL),
    )


def _some(total: int, count: int) -> Sequence[int]:
    """Return so many of some places, drawn by chance, in order: the same each time."""
    return range(total) if total <= count else sorted(Random(0).sample(range(total), count))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log still: what it would say is reported otherwise."""
    muted = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(muted)
