"""A recipe's datasets: what they hold, split by split; ones that are opened late, and stand-ins for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from attrs import define, field, frozen
from torch import Tensor

from uldm_core.errors import MistakeError, Problem, Where
from uldm_core.protocols import (
    Dataset,
    Fingerprinted,
    HasClassNames,
    HasDuplicates,
    HasLabels,
    HasLeftOut,
    KnowsShape,
)
from uldm_core.shapes import height_and_width, is_size, written_size
from uldm_core.spec.building import ComponentStore
from uldm_core.spec.component_spec import ComponentSpec

COUNT = 100_000
"""Images of a stand-in: more than any batch."""
DATA_RECORD = "data.json"
"""The record of what a person should know of a run's datasets."""


@define
class Data:
    """The datasets of a recipe; each split is opened once.

    Args:
        store: builds them.
        splits: those that were opened, by the dataset's name and theirs.
        refused: why others could not be opened; a stage that reads them cannot run.
    """

    store: ComponentStore
    splits: dict[tuple[str, str], Dataset | None] = field(factory=dict)
    refused: dict[tuple[str, str], str] = field(factory=dict)

    def content(self, name: str, reads: Sequence[str] | None) -> dict[str, object]:
        """Return what identifies the images that a stage reads: their shape, and each split's fingerprint.

        ``given`` is the dataset as the recipe names it. A split without a fingerprint is known by its length,
        one that cannot be opened by nothing.

        Args:
            name: the dataset's.
            reads: the splits that are read; None for all that there are.

        Raises:
            MistakeError: the dataset's size is no height and width.
        """
        dataset = self.store.component(name)
        if not isinstance(dataset.size, tuple):
            what = f"the size of its images is {dataset.size!r}, not a tuple of height and width"
            raise MistakeError(Problem(Where((name,)), what, "say it so in its class: size = (28, 28)"))
        size = written_size(dataset.size)  # as JSON has it, which records are read from
        shape = {"channels": dataset.channels, "size": size if isinstance(size, int) else list(size)}
        if reads is not None and not reads:
            return {**shape, "splits": {}}
        wanted = [split for split in dataset.splits if reads is None or split in reads]
        given = _identity(dataset)
        found = {split: _identity(self._split(name, split)) for split in wanted}
        others = {split: identity for split, identity in found.items() if identity != given}
        return {**shape, "splits": {"given": given, **others}}

    def has_fingerprint(self, name: str) -> bool:
        """Whether a dataset identifies its images: then its options need not count."""
        return bool(_fingerprint(self.store.component(name)))

    def class_names(self, name: str) -> list[str] | None:
        """Return the names of the classes of a dataset; None if it has none."""
        dataset = self.store.component(name)
        return list(dataset.class_names) if isinstance(dataset, HasClassNames) else None

    def labels(self, name: str) -> Tensor | None:
        """Return the labels of a dataset, int64 [N]; None if it has none."""
        dataset = self.store.component(name)
        return dataset.labels if isinstance(dataset, HasLabels) else None

    def left_out(self) -> dict[str, dict[str, str]]:
        """Return the images that each dataset leaves out, by their names, with the reason."""
        found: dict[str, dict[str, str]] = {}
        for name, dataset in self._opened():
            if isinstance(dataset, HasLeftOut) and dataset.left_out:
                found.setdefault(name, {}).update(dataset.left_out)
        return found

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return what a person should know of the datasets: counts, by the dataset's name.

        ``left_out`` has the number of files by reason, ``duplicates`` those of ``HasDuplicates``, where there
        are any.
        """
        found = {name: {"left_out": dict(Counter(why.values()))} for name, why in self.left_out().items()}
        for name, dataset in self._opened():
            if isinstance(dataset, HasDuplicates) and dataset.duplicates.exact + dataset.duplicates.near:
                copies = dataset.duplicates
                counts = {"exact": copies.exact, "near": copies.near, "compared": copies.compared}
                found.setdefault(name, {})["duplicates"] = counts
        return found

    def _opened(self) -> Iterator[tuple[str, object]]:
        """Yield what was built and the splits that were opened, by the names of components."""
        yield from self.store.built.items()
        yield from ((name, split) for (name, _), split in self.splits.items())

    def _split(self, name: str, split: str) -> Dataset | None:
        if (name, split) not in self.splits:
            try:
                self.splits[name, split] = self.store.component(name).split(split)
            except ValueError as error:  # there are no images for it, say
                self.splits[name, split] = None
                self.refused[name, split] = str(error)
        return self.splits[name, split]


def _identity(split: Dataset | None) -> str:
    return "" if split is None else _fingerprint(split) or f"{len(split)} images"


def _fingerprint(dataset: object) -> str:
    return str(dataset.fingerprint) if isinstance(dataset, Fingerprinted) else ""


@define(slots=False)
class Unopened:
    """A dataset whose images are looked for only when they are asked for; its shape is known without them.

    Args:
        channels: of its images.
        size: of its images.
        open_it: opens the dataset.
        names: of its classes, if they are known.
    """

    channels: int
    size: tuple[int, int]
    open_it: Callable[[], Dataset]
    names: Sequence[str] | None = None

    @property
    def class_names(self) -> Sequence[str]:
        """The names of its classes; nobody is to look into the images for them."""
        if self.names is None:
            raise AttributeError("class_names")
        return self.names

    @cached_property
    def _dataset(self) -> Dataset:
        return self.open_it()

    def __len__(self) -> int:
        return len(self._dataset)

    def __getattr__(self, name: str) -> Any:
        """Open the dataset for anything else: ``images``, ``split``, ``labels``."""
        if name.startswith("_") or name == "class_names":
            raise AttributeError(name)
        return getattr(self._dataset, name)


@frozen
class StandIn:
    """A dataset of which only the shapes are known; its images are black."""

    channels: int
    size: tuple[int, int]
    splits: tuple[str, ...]
    class_names: Sequence[str] | None = None
    fingerprint: str = ""

    def __len__(self) -> int:
        return COUNT

    @property
    def labels(self) -> Tensor:
        """Zeros, int64."""
        return torch.zeros(COUNT, dtype=torch.int64)

    def images(self, indices: Tensor) -> Tensor:
        """Return zeros, uint8 [B, channels, H, W]."""
        return torch.zeros(len(indices), self.channels, *self.size, dtype=torch.uint8)

    def split(self, name: str) -> StandIn:
        """Return itself."""
        return self


def stand_in(spec: ComponentSpec) -> StandIn:
    """Return a stand-in for a dataset, of the shapes that its class or its options declare.

    Raises:
        NotImplementedError: they declare none.
    """
    target: object = spec.component.load()
    splits = tuple(getattr(target, "splits", ("train", "test")))
    if isinstance(target, KnowsShape):
        try:
            return StandIn(*target.image_shape(spec.options), splits)
        except (ValueError, OSError) as error:
            raise NotImplementedError(str(error)) from error

    def declared(name: str, wanted: Callable[..., bool]) -> Any:
        for value in (getattr(target, name, None), spec.options.get(name)):
            if wanted(value):
                return value
        raise NotImplementedError(f"neither its class nor its options say its {name}")

    size = height_and_width(declared("size", is_size))
    names = getattr(target, "class_names", None)
    return StandIn(declared("channels", lambda value: type(value) is int), size, splits, names)
