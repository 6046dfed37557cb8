"""Image files that lie within other files, decoded once and packed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from typing import TypeVar

import numpy as np
import PIL
from attrs import define

from uldm_plugins.shared.cache import packed
from uldm_plugins.shared.files import HASH_BYTES, Reading, hash_of

T = TypeVar("T")
_CHUNK = 256
_VERSION = 1
_NAMES = 5
_log = logging.getLogger(__name__)


@define(slots=False)
class EncodedImages:
    """Image files that come one after the other, as a source of a dataset's images.

    Args:
        key: of the files: where they come from, and in which state that is.
        count: how many they are.
        contents: gives their contents from a place on.
        reading: how they become images.
        where: they come from, for messages.
    """

    key: str
    count: int
    contents: Callable[[int], Iterable[bytes]]
    reading: Reading
    where: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return channels, height and width."""
        return (self.reading.channels, *self.reading.size)

    @cached_property
    def hashes(self) -> np.ndarray:
        """Hashes of the files' contents, uint8 [N, 16]."""

        def hashed(start: int) -> Iterator[np.ndarray]:
            for chunk in chunks(self.contents(start)):
                yield np.stack([np.frombuffer(hash_of(content), np.uint8) for content in chunk])

        key = f"hashes of {hash_of(self.key.encode('utf-8', 'surrogateescape')).hex()}"
        return packed(key, (self.count, HASH_BYTES), np.uint8, hashed, f"hashes of images of {self.where}")

    @cached_property
    def _key(self) -> str:
        how = repr((_VERSION, PIL.__version__, self.reading)).encode()
        return hash_of(how + self.hashes.tobytes()).hex()

    @cached_property
    def _rows(self) -> np.ndarray:
        """Each image's bytes, and one that says whether it could be decoded."""
        shape = (self.count, int(np.prod(self.shape)) + 1)
        return packed(self._key, shape, np.uint8, self._decoded, f"images of {self.where}")

    @cached_property
    def sound(self) -> np.ndarray:
        """The places of the images that could be decoded, int64."""
        key, rows = f"which can be decoded of {self._key}", self._rows
        flags = packed(key, (self.count,), np.uint8, lambda start: [rows[start:, -1]], "images checked")
        return np.flatnonzero(flags)

    def left_out(self) -> Mapping[str, str]:
        """Return the images that cannot be decoded, by their number, and log how many these are."""
        faulty = sorted({*range(self.count)} - {*self.sound.tolist()}) if len(self.sound) < self.count else []
        if faulty:
            some = ", ".join(map(str, faulty[:_NAMES])) + (" and others" if len(faulty) > _NAMES else "")
            what = f"{len(faulty)} of {self.count} images cannot be decoded: those of number {some}"
            _log.warning("%s: left out: %s", self.where, what)
        return {f"{self.where}: image {number}": "cannot be decoded" for number in faulty}

    def images(self, places: np.ndarray) -> np.ndarray:
        """Return the images at some places, uint8 [B, C, H, W]."""
        return np.ascontiguousarray(np.take(self._rows, places, axis=0)[:, :-1]).reshape(-1, *self.shape)

    def _decoded(self, start: int) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for chunk in chunks(self.contents(start)):
                yield np.stack(list(pool.map(self._row, chunk)))

    def _row(self, content: bytes) -> np.ndarray:
        row = np.zeros(int(np.prod(self.shape)) + 1, np.uint8)
        try:
            row[:-1] = self.reading.decode(content).transpose(2, 0, 1).reshape(-1)
            row[-1] = 1
        except ValueError as error:
            _log.info("%s: an image cannot be decoded: %s", self.where, error)
        return row


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield lists of some items each."""
    coming = iter(items)
    while chunk := list(islice(coming, _CHUNK)):
        yield chunk
