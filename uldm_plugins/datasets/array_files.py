"""Images in arrays of NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Interval

from uldm_core import Exists
from uldm_core.errors import OptionError
from uldm_plugins.shared.files import shown
from uldm_plugins.shared.split_images import Classes, SplitImages, named_classes
from uldm_plugins.shared.stored_arrays import Layout, stored_images, stored_shape


class Arrays(SplitImages):
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
        super().__init__(sources, classes or None, test_share, split_seed, subset, limit)

    @classmethod
    def image_shape(cls, options: Mapping[str, Any]) -> tuple[int, tuple[int, int]]:
        """Return channels and size of the images; only the heads of the files are read."""
        return stored_shape(Path(options["root"]), options["member"], options["layout"])


def _classes(given: list[tuple[Path, int]]) -> list[Classes]:
    """Return the classes of the images of each split, from its file and its number of images.

    Raises:
        ValueError: a file is not of as many labels, or holds something else.
    """
    read = [_labels(path, count) for path, count in given]
    texts = [labels for labels in read if isinstance(labels, list)]
    if not texts:
        return [Classes(labels) for labels in read if not isinstance(labels, list)]
    if len(texts) < len(read):
        raise OptionError("test_labels: they are numbers where labels are text, or the other way round")
    return named_classes(texts)


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
