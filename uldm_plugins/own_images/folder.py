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

import numpy as np
from attrs import evolve, frozen

from uldm_core.errors import MistakeError, OptionError
from uldm_plugins.own_images.facts import FEWEST, FolderSummary
from uldm_plugins.shared.checked_files import CheckedFiles, check
from uldm_plugins.shared.files import MAX_PIXELS, Reading, image_files, image_shape, shown

MOST_CHECKED = 50_000
"""Of larger folders a part is decoded here, drawn by chance; the run decodes all."""
SAMPLE = 1000
"""Images whose shape and colours are looked at."""
ALIKE = 1.1
"""Ratios within this factor are about the same."""
OPAQUE, LIGHT, COLOURED = 250, 235, 8
"""Alpha from which a pixel is opaque, grey value from which it is light, range of RGB that shows a colour."""
_SMALL = Reading((32, 32), 4, fit="stretch")


@frozen
class Look:
    """What one image looks like.

    Args:
        height: of the upright image, in pixels.
        width: likewise.
        grey: whether it has no colour.
        transparent: whether some of it is transparent.
        light: whether what is not transparent is light all over.
    """

    height: int
    width: int
    grey: bool
    transparent: bool
    light: bool


@frozen
class Folder:
    """A folder of images: what is known of it, and the files that can be used."""

    summary: FolderSummary
    paths: Sequence[Path]

    def some(self, count: int) -> list[Path]:
        """Return so many images, or all that there are, drawn by chance: the same each time."""
        return _some(self.paths, count)


def read_folder(root: Path) -> Folder:
    """Return what a folder of images holds.

    Raises:
        MistakeError: there is no such folder, or it has too few images.
    """
    try:
        with _quiet():
            paths, left_out = image_files(root)
            files = check(root, _some(paths, MOST_CHECKED), left_out, MAX_PIXELS)
    except OptionError as error:
        raise MistakeError(str(error), hint=_NEEDED) from error
    summary = FolderSummary(
        root=root,
        count=len(files.paths) * len(paths) // min(len(paths), MOST_CHECKED),
        checked=min(len(paths), MOST_CHECKED),
        left_out=Counter(files.left_out.values()),
        repeated=len(files.hashes) - len(set(files.hashes)),
        class_folders=_class_folders(root, files),
    )
    if summary.count < FEWEST:
        what = f"{shown(root)}: {summary.count} images can be used, and {FEWEST} are the least"
        raise MistakeError(what, hint=_NEEDED)
    return Folder(_with_looks(summary, _some(files.paths, SAMPLE)), files.paths)


_NEEDED = f"give a folder of {FEWEST} images or more; below some hundred, samples are copies of them"


def _with_looks(summary: FolderSummary, paths: Sequence[Path]) -> FolderSummary:
    """Return a summary with the shapes and colours of some of its images."""
    started = time.monotonic()
    with ThreadPoolExecutor() as pool:
        looks = list(pool.map(_look, paths))
    seconds = (time.monotonic() - started) / len(looks)
    heights, widths = (np.array([getattr(look, side) for look in looks]) for side in ("height", "width"))
    ratios, shorter = widths / heights, np.minimum(heights, widths)
    ratio = float(np.median(ratios))
    transparent = [look for look in looks if look.transparent]
    return evolve(
        summary,
        sampled=len(looks),
        height=int(np.median(heights)),
        width=int(np.median(widths)),
        shorter=tuple(int(side) for side in np.quantile(shorter, (0.05, 0.5, 0.95))),
        ratio=ratio,
        of_that_ratio=float(np.mean(np.maximum(ratios / ratio, ratio / ratios) <= ALIKE)),
        landscape=float(np.mean(ratios > ALIKE)),
        portrait=float(np.mean(ratios < 1 / ALIKE)),
        grey=float(np.mean([look.grey for look in looks])),
        transparent=len(transparent) / len(looks),
        light=float(np.mean([look.light for look in transparent])) if transparent else 0.0,
        read_seconds=seconds,
    )


def _look(path: Path) -> Look:
    _, height, width = image_shape(path)
    pixels = _SMALL.read(path)
    colours, visible = pixels[..., :3].astype(int), pixels[..., 3] >= OPAQUE // 2
    seen = colours[visible] if visible.any() else colours.reshape(-1, 3)
    return Look(
        height,
        width,
        grey=bool((np.ptp(seen, axis=1) < COLOURED).all()),
        transparent=bool((pixels[..., 3] < OPAQUE).any()),
        light=bool((seen.mean(1) >= LIGHT).all()),
    )


def _class_folders(root: Path, files: CheckedFiles) -> Mapping[str, int]:
    """Return how many images lie in each folder of the uppermost level, if all images lie in several."""
    parts = [path.relative_to(root).parts for path in files.paths]
    counts = Counter(names[0] for names in parts if len(names) > 1)
    return counts if len(counts) > 1 and counts.total() == len(parts) else {}


def _some(paths: Sequence[Path], count: int) -> list[Path]:
    """Return so many of some paths, drawn by chance, in their order: the same each time."""
    if len(paths) <= count:
        return list(paths)
    return [paths[place] for place in sorted(Random(0).sample(range(len(paths)), count))]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log still: what it would say is reported otherwise."""
    muted = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(muted)
