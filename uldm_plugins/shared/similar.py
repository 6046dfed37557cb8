"""How many test images are nearly the same as a training image: which measures memory, not generalisation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from attrs import frozen
from torch import Tensor
from torch.nn import functional as F

from uldm_plugins.shared.cache import packed
from uldm_plugins.shared.packed_images import DecodedImages, PackedImages

_BITS = 64
_ROWS, _COLUMNS = 8, 9
_MOST_BITS = 2  # that differ
_LEAST_SET = 4  # bits, and unset ones: of flat images nothing can be said
_AT_A_TIME = 512
_MOST_COMPARED = 100_000  # images, training and test together
_log = logging.getLogger(__name__)


@frozen
class Duplicates:
    """Test images that are training images as well, or nearly so.

    Args:
        exact: whose file has the content of a training image's.
        near: of those that were compared, how many look like a training image; the exact ones among them.
        compared: test images that were compared with training images, all of them or of a sample.
    """

    exact: int
    near: int
    compared: int

    def log(self, whose: str) -> None:
        """Log what was found, once."""
        if self.exact:
            _log_once(f"{whose}: {self.exact} test images have the very content of a training image")
        if self.near:
            advice = "groups keeps such images in one split" if not self.exact else "remove them"
            of = f"{self.near} of {self.compared} test images that were compared"
            _log_once(f"{whose}: {of} look nearly like a training image: {advice}")


@cache
def _log_once(text: str) -> None:
    _log.warning("%s", text)


def duplicates(
    hashes: np.ndarray, images: PackedImages | DecodedImages, train: np.ndarray, test: np.ndarray
) -> Duplicates:
    """Count the test images that are training images as well.

    Only packed images are looked at. Of many, a sample is.

    Args:
        hashes: of the files' contents, uint8 [N, bytes].
        images: of these files.
        train: the training images' places among them.
        test: the test images' places.
    """
    exact = copies(hashes[test], hashes[train])
    if not isinstance(images, PackedImages):
        return Duplicates(exact, 0, 0)
    count = len(images.array)
    looked_at = np.arange(count)
    if count > _MOST_COMPARED:
        looked_at = np.sort(np.random.default_rng(0).permutation(count)[:_MOST_COMPARED])
    key, shape = f"difference hashes of {_MOST_COMPARED} {images.key}", (len(looked_at), _BITS // 8)
    found = packed(
        key, shape, np.uint8, lambda start: _hashed(images, looked_at[start:]), "difference hashes"
    )
    of_test, of_train = (found[np.isin(looked_at, places)] for places in (test, train))
    return Duplicates(exact, int(near(of_test, of_train).sum()), len(of_test))


def copies(test: np.ndarray, train: np.ndarray) -> int:
    """Return how many test images have the content of a training image.

    Args:
        test: hashes of the test images' contents, uint8 [N, bytes].
        train: those of the training images, uint8 [M, bytes].
    """
    contents = {row.tobytes() for row in train}
    return sum(row.tobytes() in contents for row in test)


def _hashed(images: PackedImages, places: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(places), _AT_A_TIME):
        yield difference_hashes(images.images(torch.from_numpy(places[start : start + _AT_A_TIME])))


def difference_hashes(images: Tensor) -> np.ndarray:
    """Return the difference hash of images uint8 [B, C, H, W]: packed bits, uint8 [B, 8].

    A bit says whether a pixel of the grey image, averaged to 8 x 9, is brighter than its right neighbour.
    Source: N. Krawetz, Kind of Like That, 2013 (hackerfactor.com).
    """
    grey = images[:, :3].float().mean(1, keepdim=True)
    small = F.interpolate(grey, (_ROWS, _COLUMNS), mode="area")[:, 0]
    bits = small[:, :, :-1] > small[:, :, 1:]
    return np.packbits(bits.flatten(1).numpy(), axis=1)


def near(test: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return which test images look like a training image, bool [N].

    Args:
        test: difference hashes, uint8 [N, 8].
        train: those of the training images, uint8 [M, 8].
    """
    found = np.zeros(len(test), bool)
    signs = _signs(train)
    of_train = signs[_is_telling(signs)].T.contiguous()
    for start in range(0, len(test) if of_train.numel() else 0, _AT_A_TIME):
        some = _signs(test[start : start + _AT_A_TIME])
        alike = torch.zeros(len(some), dtype=torch.bool)
        for part in of_train.split(1 << 15, dim=1):
            alike |= (some @ part >= _BITS - 2 * _MOST_BITS).any(1)
        found[start : start + len(some)] = (alike & _is_telling(some)).numpy()
    return found


def _signs(hashes: np.ndarray) -> Tensor:
    """Return the bits as -1 and 1, float32 [N, 64]: the product of two is 64 less twice those that differ."""
    return torch.from_numpy(np.unpackbits(hashes, axis=1)).float() * 2 - 1


def _is_telling(signs: Tensor) -> Tensor:
    return signs.sum(1).abs() <= _BITS - 2 * _LEAST_SET
