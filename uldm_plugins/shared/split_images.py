"""Datasets whose images come from one source, or from one for each split: drawn, labelled and identified."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Protocol, TypeVar

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from uldm_core.errors import OptionError
from uldm_core.shapes import written_size
from uldm_plugins.shared.checked_files import content_fingerprint
from uldm_plugins.shared.files import hash_of
from uldm_plugins.shared.similar import Duplicates, copies
from uldm_plugins.shared.split_names import check_split
from uldm_plugins.shared.splits import is_for_testing

Self = TypeVar("Self", bound="SplitImages")


class Source(Protocol):
    """Images in an order."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return channels, height and width."""

    @property
    def where(self) -> str:
        """Return where they come from, for messages."""

    @property
    def hashes(self) -> np.ndarray:
        """Return the hash of what makes each image, uint8 [N, 16]."""

    @property
    def sound(self) -> np.ndarray:
        """Return the places of those that can be used, int64."""

    def images(self, places: np.ndarray, /) -> np.ndarray:
        """Return the images at some places, uint8 [B, C, H, W]."""


@frozen
class Classes:
    """The classes of a source's images.

    Args:
        labels: of each image, int64 [N], each >= 0.
        names: of the classes; none where there are only numbers.
    """

    labels: np.ndarray
    names: tuple[str, ...] = ()


@frozen
class _Split:
    source: Source
    places: np.ndarray
    classes: Classes | None


class SplitImages:
    """Images of a ``train`` and a ``test`` split, with their labels and class names if there are any.

    Args:
        sources: of the images; of training and test images, if there are two.
        classes: of the images of each source; None where there are none.
        test_share: share of the images of one source that is drawn for ``test``, by content.
        split_seed: of that draw.
        subset: which split this is.
        limit: take only the first so many images of each split.

    Raises:
        ValueError: the sources are of different shapes, or one has too few images.
    """

    splits = ("train", "test")
    labels: Tensor
    class_names: tuple[str, ...]

    def __init__(
        self,
        sources: Sequence[Source],
        classes: Sequence[Classes] | None,
        test_share: float,
        split_seed: int,
        subset: str,
        limit: int | None,
    ) -> None:
        self.channels, *size = sources[0].shape
        self.size = size[0], size[1]
        if sources[-1].shape != sources[0].shape:
            raise OptionError(f"test: its images are {sources[-1].shape}, the others {sources[0].shape}")
        for source in sources:
            if not len(source.sound):
                raise OptionError(f"{source.where} has no usable image")
        places = [source.sound for source in sources]
        if len(sources) == 1:
            hashes = sources[0].hashes[places[0]]
            is_test = is_for_testing(hashes, None, test_share, split_seed, sources[0].where)
            places = [places[0][~is_test], places[0][is_test]]
        of_each: Sequence[Classes | None] = classes or [None] * len(sources)
        self._splits = {
            name: _Split(sources[index], some[:limit], of_each[index])
            for name, index, some in zip(self.splits, (0, len(sources) - 1), places)
        }
        train, test = (each.source.hashes[each.places] for each in self._splits.values())
        self.duplicates = Duplicates(copies(test, train) if len(sources) > 1 else 0, 0, 0)
        self.duplicates.log(sources[-1].where)
        self._take(subset)

    def _take(self, subset: str) -> None:
        """Become a split."""
        self.subset, self._split = subset, self._splits[subset]
        places, classes = self._split.places, self._split.classes
        options: list[object] = [written_size(self.size), self.channels, subset]
        if classes is not None:
            labels = classes.labels[places]
            self.labels = torch.from_numpy(labels)
            options.append(hash_of(labels.tobytes()).hex())
            if classes.names:
                self.class_names = classes.names
        self.fingerprint = content_fingerprint(self._split.source.hashes[places], *options)

    def __len__(self) -> int:
        return len(self._split.places)

    def images(self, indices: Tensor) -> Tensor:
        """Return images, uint8 [B, channels, height, width]."""
        return torch.from_numpy(self._split.source.images(self._split.places[indices.cpu().numpy()]))

    def split(self: Self, name: str) -> Self:
        """Return the ``train`` or ``test`` split."""
        check_split(name, self.splits)
        other = copy(self)
        other._take(name)
        return other


def named_classes(texts: Sequence[Sequence[str]]) -> list[Classes]:
    """Return the classes of several sources' images that are given as text: in the order of the alphabet."""
    names = sorted({name for labels in texts for name in labels})
    numbers = {name: number for number, name in enumerate(names)}
    return [Classes(np.array([numbers[name] for name in labels], np.int64), tuple(names)) for labels in texts]
