"""Any folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval
from torch import Tensor

from uldm_core import Exists
from uldm_plugins.datasets.arrays import check_split
from uldm_plugins.nn.files import files_fingerprint, image_files, read_batch, usable

MAX_PIXELS = 100_000_000


class ImageFolder:
    """Every PNG, JPEG and WebP under a folder, in the order of their paths, cut to squares of one size.

    Folders ``train`` and ``test``, if there are both, are the splits; else every so many images one is kept
    for ``test``. Files that cannot be images (no image, cut short, too many pixels) are left out, counted
    and named in the log. Images are decoded when they are asked for, in parallel.

    Source: as ``torchvision.datasets.ImageFolder``, without classes.

    Args:
        root: the folder.
        size: side of the images: the middle square, resized (Lanczos).
        channels: 1 (grey) or 3 (RGB).
        test_share: share of the images kept for ``test``, where the folder does not say.
        subset: which split this is.
        limit: take only the first so many images of each split.
        max_pixels: larger images are left out: they may be bombs.

    Raises:
        ValueError: there is no such folder, no usable image in it, or a split stays empty.
    """

    splits = ("train", "test")

    def __init__(
        self,
        root: Annotated[Path, Exists(folder=True)],
        size: Annotated[int, Ge(1)] = 64,
        channels: Literal[1, 3] = 3,
        test_share: Annotated[float, Interval(gt=0, lt=1)] = 0.1,
        subset: Literal["train", "test"] = "train",
        limit: Annotated[int, Ge(1)] | None = None,
        max_pixels: Annotated[int, Ge(1)] = MAX_PIXELS,
    ) -> None:
        self.root, self.size, self.channels, self.subset = Path(root), size, channels, subset
        self._options = (root, size, channels, test_share)
        self._more = (limit, max_pixels)
        self.paths = usable(_paths(self.root, subset, test_share), max_pixels)[:limit]
        if not self.paths:
            raise ValueError(f"{self.root} has too few images for a {subset} split")
        self.fingerprint = files_fingerprint(self.root, self.paths, size, channels, subset)

    def __len__(self) -> int:
        return len(self.paths)

    def images(self, indices: Tensor) -> Tensor:
        """Return images, uint8 [B, channels, size, size].

        Raises:
            ValueError: a file can no longer be decoded.
        """
        return read_batch([self.paths[int(index)] for index in indices], self.size, self.channels)

    def split(self, name: str) -> ImageFolder:
        """Return the ``train`` or ``test`` split."""
        check_split(name, self.splits)
        return self if name == self.subset else ImageFolder(*self._options, name, *self._more)


def _paths(root: Path, subset: str, test_share: float) -> list[Path]:
    if all((root / name).is_dir() for name in ImageFolder.splits):
        return image_files(root / subset)
    return [
        path
        for index, path in enumerate(image_files(root))
        if (int((index + 1) * test_share) > int(index * test_share)) == (subset == "test")
    ]
