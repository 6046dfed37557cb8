"""Images that a person names: found, called by distinct names, and brought to a run's size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count
from pathlib import Path

import torch
from attrs import frozen
from torch import Tensor

from uldm_core import MistakeError
from uldm_core.protocols import Dataset
from uldm_plugins.shared.checked_files import fault, usable
from uldm_plugins.shared.containers import FORMATS
from uldm_plugins.shared.files import MAX_PIXELS, Reading, image_shape, shown
from uldm_plugins.shared.images import images_at_a_time

_LONGEST = 200  # bytes; file systems take 255


@frozen
class RealImages:
    """Images by name, read a batch at a time.

    Args:
        names: distinct, each fit for a file's name.
        read: gives those at some places, uint8 [B, C, H, W].
        sources: where each was found.
        size: height and width of each.
    """

    names: Sequence[str]
    read: Callable[[Sequence[int]], Tensor]
    sources: Sequence[str]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.names)

    def batches(self) -> Iterator[Tensor]:
        """Yield all images in order.

        Raises:
            MistakeError: a file cannot be decoded.
        """
        count = images_at_a_time(*self.size)
        for start in range(0, len(self), count):
            try:
                yield self.read(range(start, min(start + count, len(self))))
            except ValueError as error:
                raise MistakeError(str(error)) from error


def of_files(paths: Sequence[Path], size: tuple[int, int], channels: int, resize: str) -> RealImages:
    """Return images from files, and from every image file below folders.

    Args:
        paths: files and folders.
        size: height and width of the images that are wanted.
        channels: 1 (grey), 3 (RGB) or 4 (RGB and alpha).
        resize: ``crop`` (the middle part of their shape, resized), ``stretch``, or ``off``: other sizes are
            refused.

    Raises:
        MistakeError: a file is absent or no image, a folder has none, a size is refused, or files have no
            such channels.
    """
    found = image_paths(paths)
    if resize == "off":
        _check_sizes(found, size)

    try:
        reading = Reading(size, channels, "crop" if resize == "crop" else "stretch")
    except ValueError as error:
        raise MistakeError(str(error)) from error

    def read_some(places: Sequence[int]) -> Tensor:
        return reading.batch(found[place] for place in places)

    return RealImages(distinct_names(found), read_some, [str(path) for path in found], size)


def of_split(dataset: Dataset, split: str, most: int | None) -> RealImages:
    """Return the first ``most`` images of a dataset's split.

    Raises:
        MistakeError: there is no such split.
    """
    images = split_of(dataset, split)
    total = min(most or len(images), len(images))
    names = [f"{split}_{number:0{len(str(total - 1))}d}" for number in range(total)]
    return RealImages(names, lambda places: images.images(torch.tensor(places)), names, dataset.size)


def split_of(dataset: Dataset, split: str) -> Dataset:
    """Return a dataset's split; raises ``MistakeError`` if there is none of this name."""
    try:
        return dataset.split(split)
    except ValueError as error:
        raise MistakeError(f"--split: {error}") from error


def image_paths(paths: Sequence[Path]) -> list[Path]:
    """Return the files themselves, and in place of each folder the usable images below it; each once.

    Raises:
        MistakeError: a file is absent or no image, or a folder has no usable one.
    """
    found: list[Path] = []
    for path in paths:
        try:
            found += usable(path, MAX_PIXELS) if path.is_dir() else [path]
        except ValueError as error:
            raise MistakeError(str(error)) from error
        if not path.exists():
            raise MistakeError(f"there is no file or folder {shown(path)}")
        if not path.is_dir() and (what := fault(path, MAX_PIXELS)):
            raise MistakeError(f"{shown(path)}: {what}", hint=f"{FORMATS} files can be read")
    return list({path.resolve(): path for path in found}.values())


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each file: its stem, or ``folder_stem_ending`` where two have the same stem.

    Names differ in more than upper and lower case; a number does it where nothing else helps. They are UTF-8,
    and leave room for an ending.
    """
    stems = Counter(path.stem.casefold() for path in paths)
    names: list[str] = []
    for path in paths:
        own = stems[path.stem.casefold()] == 1
        name = shown(
            path.stem if own else "_".join(filter(None, (path.parent.name, path.stem, path.suffix[1:])))
        )
        name = name.encode()[:_LONGEST].decode("utf-8", "ignore")
        used = {other.casefold() for other in names}
        numbered = (f"{name}_{number}" for number in count(2))
        names.append(next(one for one in chain([name], numbered) if one.casefold() not in used))
    return names


def other_sizes(paths: Sequence[Path], size: tuple[int, int]) -> list[tuple[Path, int, int]]:
    """Return the files whose upright image is not of a size, with their height and width."""
    with ThreadPoolExecutor() as pool:
        shapes = list(pool.map(image_shape, paths))
    return [(path, *shape[1:]) for path, shape in zip(paths, shapes) if shape[1:] != size]


def _check_sizes(paths: Sequence[Path], size: tuple[int, int]) -> None:
    others = other_sizes(paths, size)
    if others:
        path, height, width = others[0]
        more = f", and {len(others) - 1} more have another size" if len(others) > 1 else ""
        raise MistakeError(
            f"{shown(path)} is {width}x{height}, the run's images are {size[1]}x{size[0]}{more}",
            hint="--resize crop resizes the middle part, --resize stretch the whole",
        )
