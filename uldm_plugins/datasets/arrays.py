"""Datasets whose images lie in memory as one tensor."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeVar

from torch import Tensor

from uldm_plugins.shared.split_names import check_split

Self = TypeVar("Self", bound="InMemory")
Subset = Literal["train", "test"]


class InMemory(ABC):
    """Images as one uint8 tensor ``pixels`` [N, channels, height, width], with ``labels`` [N]."""

    channels: int
    size: tuple[int, int]
    splits: Sequence[str] = ("train", "test")
    subset: str
    pixels: Tensor
    labels: Tensor
    fingerprint: str

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, indices: Tensor) -> Tensor:
        """Return images, uint8 [B, channels, height, width]."""
        return self.pixels[indices]

    def split(self: Self, name: str) -> Self:
        """Return the split of this name, one of ``splits``."""
        check_split(name, self.splits)
        return self if name == self.subset else self._other(name)

    @abstractmethod
    def _other(self: Self, name: str) -> Self:
        """Build another split with the same options."""


def array_fingerprint(pixels: Tensor, labels: Tensor, subset: str) -> str:
    """Return a hash of images uint8 [N, C, H, W] and labels int64 [N], wherever they lie."""
    digest = hashlib.blake2b(f"{tuple(pixels.shape)}:{subset}".encode(), digest_size=8)
    for values in (pixels, labels):
        digest.update(values.contiguous().numpy())  # type: ignore[arg-type]  # a buffer, numpy does not say so
    return digest.hexdigest()
