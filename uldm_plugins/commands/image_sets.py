"""Sets of images to be measured, wherever they were made: a folder, an ``.npz``, a registered dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor

from uldm_core import MistakeError, registry
from uldm_core.errors import listing
from uldm_core.protocols import Dataset, Paired
from uldm_core.spec.structure import path_of
from uldm_plugins.commands.real_images import image_paths
from uldm_plugins.shared.arrays import array_names, read_arrays
from uldm_plugins.shared.files import Reading, image_shape, read_image
from uldm_plugins.shared.images import images_at_a_time, in_batches
from uldm_plugins.stages.latents import image_batches

_LISTED = 5


@frozen
class ImageSet:
    """Images of one size, read a batch at a time and any number of times.

    Args:
        name: what a person called it.
        count: how many there are.
        shape: channels, height and width.
        read: yields batches with so many channels, uint8 [B, C, H, W].
        other: the training set, where it is the test set of a dataset.
        files: what each image is called, if they are files.
        adapts: it can be read in grey as well as in colour or with alpha.
    """

    name: str
    count: int
    shape: tuple[int, int, int]
    read: Callable[[int], Iterable[Tensor]]
    other: ImageSet | None = None
    files: Sequence[str] = ()
    adapts: bool = False

    def __len__(self) -> int:
        return self.count

    def batches(self) -> Iterator[Tensor]:
        """Yield the images in order, uint8 [B, C, H, W].

        Raises:
            MistakeError: one cannot be decoded.
        """
        try:
            yield from self.read(self.shape[0])
        except ValueError as error:
            raise MistakeError(str(error)) from error

    def can_have(self, channels: int) -> bool:
        """Whether the images can be read with so many channels."""
        return channels in ((1, 3, 4) if self.adapts else (self.shape[0], 3 if self.shape[0] == 1 else 0))

    def with_channels(self, channels: int) -> ImageSet:
        """Return the same set, its images with so many channels."""
        other = self.other.with_channels(channels) if self.other else None
        return evolve(self, shape=(channels, *self.shape[1:]), other=other)


def found(name: str, size: int | None = None) -> ImageSet:
    """Return the images of a folder, an ``.npz`` or a registered dataset's test split.

    Args:
        name: a path, or a dataset's name.
        size: the middle square of each file is resized to this side.

    Raises:
        MistakeError: there is no such thing, it holds no images, or they are of several sizes.
    """
    path = path_of(name)
    if path.is_dir():
        return of_folder(path, size)
    if path.is_file():
        return of_array(path, load_array(path))
    if "/" not in name and path.suffix:
        raise MistakeError(f"there is no file {name}")
    if name in registry.names("dataset") or not path.suffix:
        return of_dataset(name)
    raise MistakeError(f"there is no file or folder {name}")


def of_dataset(name: str) -> ImageSet:
    """Return a registered dataset's test split; ``other`` is its training split."""
    if name not in registry.names("dataset"):
        datasets = listing(registry.names("dataset"))
        raise MistakeError(f"{name} is no folder, no .npz and no dataset", hint=f"datasets: {datasets}")
    dataset = registry.build("dataset", name)
    train, test = (_of_split(dataset.split(split), f"{name}, {split} split") for split in ("train", "test"))
    return evolve(test, other=train)


def _of_split(dataset: Dataset, name: str) -> ImageSet:
    def read(channels: int) -> Iterator[Tensor]:
        return (batch.expand(-1, channels, -1, -1) for batch in image_batches(dataset))

    return ImageSet(name, len(dataset), (dataset.channels, *dataset.size), read)


def of_folder(folder: Path, size: int | None) -> ImageSet:
    """Return every usable image file below a folder, in the order of their paths."""
    paths = image_paths([folder])
    with ThreadPoolExecutor() as pool:
        shapes = list(pool.map(image_shape, paths))
    if size is None and len({shape[1:] for shape in shapes}) > 1:
        sizes = sorted({f"{width}x{height}" for _, height, width in shapes})
        more = f" and {len(sizes) - _LISTED} more" if len(sizes) > _LISTED else ""
        raise MistakeError(
            f"{folder} has images of several sizes: {', '.join(sizes[:_LISTED])}{more}",
            hint="--size N resizes the middle square of each",
        )

    def read(channels: int) -> Iterator[Tensor]:
        count = images_at_a_time(height, width)
        for start in range(0, len(paths), count):
            some = paths[start : start + count]
            if size:
                yield Reading((size, size), channels).batch(some)
            else:
                yield torch.stack([read_image(path, channels) for path in some])

    height, width = (size, size) if size else shapes[0][1:]
    channels = max(shape[0] for shape in shapes)
    files = [str(path.relative_to(folder).with_suffix("")) for path in paths]
    return ImageSet(str(folder), len(paths), (channels, height, width), read, files=files, adapts=True)


def of_array(path: Path, images: Tensor) -> ImageSet:
    """Return images uint8 [N, C, H, W] that were read from a file."""

    def read(channels: int) -> Iterator[Tensor]:
        return (batch.expand(-1, channels, -1, -1) for batch in in_batches(images))

    count, channels, height, width = images.shape
    return ImageSet(str(path), count, (channels, height, width), read)


def load_array(path: Path) -> Tensor:
    """Read an ``.npz``'s array ``images``, or its only one, as uint8 [N, C, H, W].

    Raises:
        MistakeError: it is no ``.npz``, or holds no images uint8 [N, H, W, C] or [N, H, W].
    """
    wanted = "uint8 [N, H, W, C], named images or the only array in the file"
    try:
        names = array_names(path)
        name = "images" if "images" in names or len(names) != 1 else names[0]
        images = read_arrays(path, [name])[name]
    except ValueError as error:
        raise MistakeError(f"{path}: no .npz with images, {wanted}", hint=str(error)) from error
    whole = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or whole.ndim != 4 or not whole.size:
        raise MistakeError(f"{path}: images are {images.dtype} {list(images.shape)}; expected {wanted}")
    return torch.from_numpy(whole).permute(0, 3, 1, 2).contiguous()


def alike(images: ImageSet, reference: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Return both sets with the same number of channels.

    Files are read as the other side is, grey or in colour; else grey images get three equal channels.

    Raises:
        MistakeError: their sizes differ, or their channels do and neither set is grey or of files.
    """
    if images.shape[1:] != reference.shape[1:]:
        sizes = [f"{one.name} has images of {one.shape[2]}x{one.shape[1]}" for one in (images, reference)]
        raise MistakeError(", ".join(sizes), hint="--size N resizes those of folders")
    fixed = {one.shape[0] for one in (images, reference) if not one.adapts}
    channels = max(fixed or {images.shape[0], reference.shape[0]})
    if not (images.can_have(channels) and reference.can_have(channels)):
        counts = [f"{one.name} has images of {one.shape[0]} channels" for one in (images, reference)]
        raise MistakeError(", ".join(counts), hint="both need as many; grey fits RGB")
    return images.with_channels(channels), reference.with_channels(channels)


def check_pairs(metrics: Sequence[Any], images: ImageSet, reference: ImageSet) -> None:
    """Raise ``MistakeError`` if a metric of pairs is wanted of folders whose files do not belong together."""
    paired = [type(metric).__name__ for metric in metrics if isinstance(metric, Paired) and metric.paired]
    if not (paired and images.files and reference.files):
        return
    lone = sorted(set(images.files) ^ set(reference.files))
    if lone:
        raise MistakeError(
            f"{paired[0]} compares files of one name: {len(lone)} are in one folder only, such as {lone[0]}",
            hint="give both folders the same names, or leave out metrics of pairs",
        )
