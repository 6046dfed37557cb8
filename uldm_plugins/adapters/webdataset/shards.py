"""Images in the shards of webdataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Interval
from webdataset.tariterators import group_by_keys, tar_file_expander

from uldm_core import Exists
from uldm_core.errors import OptionError
from uldm_core.shapes import height_and_width
from uldm_core.sizes import Size
from uldm_plugins.shared.cache import packed
from uldm_plugins.shared.checked_files import state_of
from uldm_plugins.shared.encoded_images import EncodedImages, chunks
from uldm_plugins.shared.files import ENDINGS, MAX_PIXELS, Fit, Reading, shown
from uldm_plugins.shared.split_images import Classes, SplitImages


class WebDataset(SplitImages):
    """The images of shards: ``.tar`` files in which files of one name and several endings are a sample.

    Shards are read in the order of their names. Images are decoded once, as those of ``image_folder``, and
    kept in the cache. Nothing is unpickled, and no command or address is read from.

    Source: the library ``webdataset``; T. Breuel 2020.

    Args:
        root: a ``.tar`` file, or a folder of such files.
        image: the ending of the images in the shards, such as ``jpg``; by default the first that can be read.
        label: the ending of the files that hold the class of a sample, a whole number, such as ``cls``; or
            ``json.KEY`` for a number in a file ``json``.
        test: a file or folder of the ``test`` split, as ``root``; else a share of the images is drawn for it,
            by content, so that copies of an image are in one split.
        size: height and width of the images, one number for a square.
        channels: 1 (grey), 3 (RGB), or 4 (RGB and alpha).
        fit: ``crop`` (the largest middle part of that shape, resized), ``pad`` (the whole image, and around
            it the background) or ``stretch``.
        background: what lies below transparent pixels: ``white``, ``black``, ``grey`` or ``#rrggbb``.
        test_share: share of the images drawn for ``test``, one at least.
        split_seed: of that draw.
        subset: which split this is.
        limit: take only the first so many images of each split.
        max_pixels: larger images are left out: they may be bombs.

    Raises:
        ValueError: there are no such files, a sample lacks an image or a label, or no image can be used.
    """

    def __init__(
        self,
        root: Annotated[Path, Exists()],
        image: str | None = None,
        label: str | None = None,
        test: Annotated[Path, Exists()] | None = None,
        size: Size = 64,
        channels: Literal[1, 3, 4] = 3,
        fit: Fit = "crop",
        background: str = "white",
        test_share: Annotated[float, Interval(gt=0, lt=1)] = 0.1,
        split_seed: Annotated[int, Ge(0)] = 0,
        subset: Literal["train", "test"] = "train",
        limit: Annotated[int, Ge(1)] | None = None,
        max_pixels: Annotated[int, Ge(1)] = MAX_PIXELS,
    ) -> None:
        self.root = Path(root)
        reading = Reading(height_and_width(size), channels, fit, background, max_pixels=max_pixels)
        sources = [_source(path, image, reading) for path in (self.root, *([Path(test)] if test else []))]
        classes = [_classes(source, label) for source in sources] if label else None
        super().__init__(
            [source.images for source in sources], classes, test_share, split_seed, subset, limit
        )
        self.left_out = {what: why for source in sources for what, why in source.images.left_out().items()}


class _Shards:
    """The samples of some shards, and their images."""

    def __init__(self, shards: list[Path], image: str | None, reading: Reading, where: str) -> None:
        self.shards, self.where = shards, where
        states = [(str(shard.resolve()), state_of(shard)) for shard in shards]
        self.key = hashlib.blake2b(repr((states, image)).encode("utf-8", "surrogateescape")).hexdigest()
        counted = packed(f"samples of {self.key}", (1,), np.int64, lambda start: [self._counted()], "counts")
        contents = partial(self._contents, image)
        self.images = EncodedImages(f"images of {self.key}", int(counted[0]), contents, reading, where)

    def samples(self, start: int = 0) -> Iterator[Mapping[str, Any]]:
        """Yield the samples from one on: contents by ending.

        Raises:
            ValueError: a shard is damaged.
        """
        try:
            yield from islice(chain.from_iterable(map(_samples, self.shards)), start, None)
        except OptionError:
            raise
        except Exception as error:  # of tar files, of the library
            raise OptionError(f"{self.where} cannot be read: {error}") from error

    def _counted(self) -> np.ndarray:
        return np.array([sum(1 for _ in self.samples())])

    def _contents(self, image: str | None, start: int) -> Iterator[bytes]:
        for sample in self.samples(start):
            endings = [image] if image else [each for each in sample if f".{each.lower()}" in ENDINGS]
            if not endings or endings[0] not in sample:
                has = ", ".join(each for each in sample if not each.startswith("__"))
                what = f"no image in the sample {sample['__key__']}, which has: {has}"
                raise OptionError(f"{self.where}: {what}; image says which ending it has")
            yield bytes(sample[endings[0]])


def _samples(shard: Path) -> Iterator[Mapping[str, Any]]:
    with shard.open("rb") as stream:
        files = tar_file_expander([{"url": str(shard), "stream": stream}])
        yield from group_by_keys(files)


def _source(path: Path, image: str | None, reading: Reading) -> _Shards:
    shards = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    if not shards:
        raise OptionError(f"{shown(path)} has no .tar files")
    return _Shards(shards, image, reading, shown(path))


def _classes(source: _Shards, label: str) -> Classes:
    """Return the label of each sample, read once from files in their state.

    Raises:
        ValueError: a sample has none, or something else than a whole number from 0 on.
    """

    def labels(start: int) -> Iterator[np.ndarray]:
        for chunk in chunks(source.samples(start)):
            yield np.array([_label(sample, label, source.where) for sample in chunk])

    key = f"{label} of {source.key}"
    return Classes(np.array(packed(key, (source.images.count,), np.int64, labels, "labels")))


def _label(sample: Mapping[str, Any], label: str, where: str) -> int:
    ending, _, key = label.partition(".")
    try:
        value = json.loads(sample[ending])
        number = int(value[key] if key else value)
        if number < 0:
            raise ValueError("below 0")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        what = f"the sample {sample['__key__']} has no whole number from 0 on in {label}"
        raise OptionError(f"label: {where}: {what}") from error
    return number
