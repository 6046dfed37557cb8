"""A recipe's datasets: what they hold, split by split, and one that is opened only when it is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field

from uldm_core.protocols import Fingerprinted, HasLeftOut
from uldm_core.spec.building import Builder


@define
class Data:
    """The datasets of a recipe; each split is opened once.

    Args:
        builder: builds them.
        splits: those that were opened, by the dataset's name and theirs.
    """

    builder: Builder
    splits: dict[tuple[str, str], Any] = field(factory=dict)

    def content(self, name: str, reads: Sequence[str] | None) -> dict[str, Any]:
        """Return what identifies the images that a stage reads: their shape, and each split's fingerprint.

        ``given`` is the dataset as the recipe names it. A split without a fingerprint is known by its length,
        one that cannot be opened by nothing.

        Args:
            name: the dataset's.
            reads: the splits that are read; None for all that there are.
        """
        dataset = self.builder.component(name)
        shape = {"channels": dataset.channels, "size": dataset.size}
        if reads is not None and not reads:
            return {**shape, "splits": {}}
        wanted = [split for split in dataset.splits if reads is None or split in reads]
        given = _identity(dataset)
        found = {split: _identity(self._split(name, split)) for split in wanted}
        others = {split: identity for split, identity in found.items() if identity != given}
        return {**shape, "splits": {"given": given, **others}}

    def has_fingerprint(self, name: str) -> bool:
        """Whether a dataset says what its images are: then its options need not count."""
        return bool(_fingerprint(self.builder.component(name)))

    def left_out(self) -> dict[str, str]:
        """Return the images that the datasets leave out, by name, with the reason."""
        opened = [*self.builder.built.values(), *self.splits.values()]
        datasets = [dataset for dataset in opened if isinstance(dataset, HasLeftOut)]
        return {name: why for dataset in datasets for name, why in dataset.left_out.items()}

    def _split(self, name: str, split: str) -> Any:
        if (name, split) not in self.splits:
            try:
                self.splits[name, split] = self.builder.component(name).split(split)
            except ValueError:  # there are no images for it; the stage that needs them will say so
                self.splits[name, split] = None
        return self.splits[name, split]


def _identity(split: Any) -> str:
    if split is None:
        return ""
    return _fingerprint(split) or f"{len(split)} images"


def _fingerprint(dataset: object) -> str:
    return str(dataset.fingerprint) if isinstance(dataset, Fingerprinted) else ""


class Unopened:
    """A dataset whose images are looked for only when they are asked for; its shape is known without them.

    Args:
        channels: of its images.
        size: of its images.
        open_it: opens the dataset.
    """

    def __init__(self, channels: int, size: int, open_it: Callable[[], Any]) -> None:
        self.channels = channels
        self.size = size
        self._open_it = open_it
        self._opened: Any = None

    def _dataset(self) -> Any:
        if self._opened is None:
            self._opened = self._open_it()
        return self._opened

    def __len__(self) -> int:
        return len(self._dataset())

    def __getattr__(self, name: str) -> Any:
        """Open the dataset for anything else: ``images``, ``split``, ``labels``."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._dataset(), name)
