"""Images in arrays of NumPy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Interval
from torch import Tensor

from uldm_core import Exists
from uldm_core.errors import OptionError
from uldm_core.shapes import written_size
from uldm_plugins.datasets.arrays import check_split
from uldm_plugins.datasets.splits import is_for_testing
from uldm_plugins.shared.cache import packed
from uldm_plugins.shared.checked_files import HASH_BYTES, content_fingerprint, hash_of
from uldm_plugins.shared.files import shown
from uldm_plugins.shared.stored_arrays import Layout, StoredImages, stored_images, stored_shape

Classes = tuple[np.ndarray, tuple[str, ...]]
"""The label of each image, int64 [N], and the classes' names; none where labels are numbers."""


class Arrays:
    """Images in a memory-mapped ``.npy``, in an array of an ``.npz``, or in all ``.npy`` files of a folder.

    Arrays are [N, H, W], [N, H, W, C] or [N, C, H, W], of any number of channels. All values are read once,
    to know the images by their content, and that they are within ``range``; then only what is asked for.
    What an ``.npz`` holds is copied to the cache. Nothing is unpickled.

    Args:
        root: the file or folder.
        member: which array of an ``.npz``; it may be left out where there is one.
        layout: which axes the arrays have; it may be left out where it is clear.
        range: the values of black and white, scaled to 0 to 255 and rounded; it may be left out for uint8.
        labels: a file with the class of each image: ``.npy`` of whole numbers, or text, a class a line.
        test: a file or folder of the ``test`` split, as ``root``; else a share of the images is drawn for it,
            by content, so that copies of an image are in one split.
        test_labels: the classes of these images.
        test_share: share of the images drawn for ``test``, one at least.
        split_seed: of that draw.
        subset: which split this is.
        limit: take only the first so many images of each split.

    Raises:
        ValueError: there is no such array, what is left out is not clear, or a value is outside of ``range``.
    """

    splits = ("train", "test")
    labels: Tensor
    class_names: tuple[str, ...]

    def __init__(
        self,
        root: Annotated[Path, Exists()],
        member: str | None = None,
        layout: Layout | None = None,
        range: tuple[float, float] | None = None,
        labels: Annotated[Path, Exists()] | None = None,
        test: Annotated[Path, Exists()] | None = None,
        test_labels: Annotated[Path, Exists()] | None = None,
        test_share: Annotated[float, Interval(gt=0, lt=1)] = 0.1,
        split_seed: Annotated[int, Ge(0)] = 0,
        subset: Literal["train", "test"] = "train",
        limit: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        self.root = Path(root)
        if (test_labels is None) != (labels is None or test is None):
            raise OptionError("test_labels: to be given with labels and test, and only with both")
        given = [(self.root, labels), *([(Path(test), test_labels)] if test else [])]
        sources = [stored_images(path, member, layout, range) for path, _ in given]
        classes = _classes([(path, len(one)) for (_, path), one in zip(given, sources) if path])
        hashes = [_hashes(source) for source in sources]
        if test is None:
            is_test = is_for_testing(hashes[0], None, test_share, split_seed, shown(self.root))
            places = [np.flatnonzero(~is_test)[:limit], np.flatnonzero(is_test)[:limit]]
        else:
            places = [np.arange(len(source))[:limit] for source in sources]
        self.channels, *size = sources[0].shape
        self.size = size[0], size[1]
        if sources[-1].shape != sources[0].shape:
            raise OptionError(f"test: its images are {sources[-1].shape}, those of root {sources[0].shape}")
        self._splits = {
            name: (sources[index], hashes[index][of_split], of_split, classes[index] if classes else None)
            for name, index, of_split in zip(self.splits, (0, len(sources) - 1), places)
        }
        self._take(subset)

    @classmethod
    def image_shape(cls, options: Mapping[str, Any]) -> tuple[int, tuple[int, int]]:
        """Return channels and size of the images; only the heads of the files are read."""
        return stored_shape(Path(options["root"]), options["member"], options["layout"])

    def _take(self, subset: str) -> None:
        """Become a split."""
        self.subset = subset
        self._source, hashes, self._places, classes = self._splits[subset]
        options: list[object] = [written_size(self.size), self.channels, subset]
        if classes is not None:
            labels, names = classes
            self.labels = torch.from_numpy(labels[self._places])
            options.append(hash_of(labels[self._places].tobytes()).hex())
            if names:
                self.class_names = names
        self.fingerprint = content_fingerprint(hashes, *options)

    def __len__(self) -> int:
        return len(self._places)

    def images(self, indices: Tensor) -> Tensor:
        """Return images, uint8 [B, channels, height, width]."""
        return torch.from_numpy(self._source.images(self._places[indices.cpu().numpy()]))

    def split(self, name: str) -> Arrays:
        """Return the ``train`` or ``test`` split."""
        check_split(name, self.splits)
        other = copy(self)
        other._take(name)
        return other


def _hashes(source: StoredImages) -> np.ndarray:
    """Return the hash of each image, uint8 [N, 16]: made once for a file in its state."""

    def hashed(start: int) -> Iterator[np.ndarray]:
        for images in source.batches(start):
            yield np.stack([np.frombuffer(hash_of(image.tobytes()), np.uint8) for image in images])

    key = f"hashes of {hashlib.blake2b(source.key.encode('utf-8', 'surrogateescape')).hexdigest()}"
    return packed(key, (len(source), HASH_BYTES), np.uint8, hashed, "hashes of images")


def _classes(given: list[tuple[Path, int]]) -> list[Classes]:
    """Return the classes of the images of each split, from its file and its number of images.

    Raises:
        ValueError: a file is not of as many labels, or holds something else.
    """
    read = [_labels(path, count) for path, count in given]
    texts = [labels for labels in read if isinstance(labels, list)]
    if not texts:
        return [(labels, ()) for labels in read if not isinstance(labels, list)]
    if len(texts) < len(read):
        raise OptionError("test_labels: they are numbers where labels are text, or the other way round")
    names = sorted({name for labels in texts for name in labels})
    numbers = {name: number for number, name in enumerate(names)}
    return [(np.array([numbers[name] for name in labels], np.int64), tuple(names)) for labels in texts]


def _labels(path: Path, count: int) -> np.ndarray | list[str]:
    try:
        if path.suffix == ".npy":
            labels: Any = np.load(path)
            if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
                what = f"{labels.dtype} {list(labels.shape)}"
                raise ValueError(f"{what} are no whole numbers [N] from 0 on")
            labels = labels.astype(np.int64)
        else:
            labels = [line.strip() for line in path.read_text("utf-8").splitlines()]
            if "" in labels:
                raise ValueError(f"line {labels.index('') + 1} is empty")
    except (OSError, ValueError, EOFError) as error:
        raise OptionError(f"labels: {shown(path)} cannot be read: {error}") from error
    if len(labels) != count:
        raise OptionError(f"labels: {shown(path)} has {len(labels)} labels, and there are {count} images")
    return labels
