"""Images of files by index: decoded once and packed, or decoded ahead of their use."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import PIL
import torch
from torch import Tensor

from uldm_core import RunError
from uldm_plugins.shared.cache import packed, rows
from uldm_plugins.shared.checked_files import ImageFiles, Verdict, hash_of, state_of
from uldm_plugins.shared.containers import parse
from uldm_plugins.shared.files import Reading, UnreadableImageError, content_of, named, shown

_CHUNK = 256
_VERSION = 1  # of how images are read
_log = logging.getLogger(__name__)


class PackedImages:
    """Images of files in one memory-mapped array of the cache, as many as there are files.

    The array is made if it is not there: each file is decoded once. What cannot be decoded is noted with the
    files, and black.

    Args:
        files: whose contents are known.
        reading: how they become images.

    Raises:
        RunError: the cache cannot be written, or files change while they are read.
    """

    def __init__(self, files: ImageFiles, reading: Reading) -> None:
        files.read()
        how = repr((_VERSION, PIL.__version__, reading)).encode()
        self.key = hash_of(how + files.hashes.tobytes()).hex()
        shape = (len(files), reading.channels, *reading.size)
        self.array = packed(self.key, shape, np.uint8, lambda start: _decoded(files, reading, start))

    def images(self, places: Tensor) -> Tensor:
        """Return the images of the files at some places, uint8 [B, C, H, W]."""
        return rows(self.array, places)

    def prefetch(self, places: Tensor) -> None:
        """Do nothing: reading a packed image costs nothing."""


class DecodedImages:
    """Images of files that are decoded whenever they are asked for, or ahead.

    Args:
        files: the files.
        reading: how they become images.
    """

    def __init__(self, files: ImageFiles, reading: Reading) -> None:
        self.files, self.reading = files, reading
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._ahead: tuple[list[int], list[Future[np.ndarray]]] = [], []

    def images(self, places: Tensor) -> Tensor:
        """Return the images of the files at some places, uint8 [B, C, H, W].

        Raises:
            UnreadableImageError: one can no longer be decoded.
        """
        wanted, (ahead, coming) = places.tolist(), self._ahead
        if wanted != ahead:
            coming = [self._pool.submit(self._read, place) for place in wanted]
        else:
            self._ahead = [], []
        images = np.stack([future.result() for future in coming])
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def prefetch(self, places: Tensor) -> None:
        """Begin to decode the images that are asked for next."""
        wanted = places.tolist()
        self._ahead = wanted, [self._pool.submit(self._read, place) for place in wanted]

    def _read(self, place: int) -> np.ndarray:
        return self.reading.read(self.files.names[place])


def images_of(files: ImageFiles, reading: Reading, pack: bool) -> PackedImages | DecodedImages:
    """Return the images of some files, packed if that is wanted and possible; each is decoded once."""
    if pack and len(files):
        try:
            images = PackedImages(files, reading)
        except UnreadableImageError:
            raise
        except RunError as error:
            _log.warning("images are not packed, but decoded whenever they are needed: %s", error)
        else:
            files.decode()  # of an array that was there already, what its images were like
            return images
    files.decode()
    return DecodedImages(files, reading)


def _decoded(files: ImageFiles, reading: Reading, start: int) -> Iterator[np.ndarray]:
    """Yield the images of the files from a place on, uint8 [B, C, H, W], some at a time."""
    black = np.zeros((*reading.size, reading.channels), np.uint8)

    def read(place: int) -> tuple[np.ndarray, Verdict | None]:
        if files.is_faulty(place):
            return black, None
        path, digest = files.names[place], files.hashes[place].tobytes()
        state = state_of(path)
        with named(path):
            content = content_of(path)
        if hash_of(content) != digest:
            raise RunError(f"{shown(path)} was changed while images were packed", hint="run again")
        try:
            return reading.decode(content), Verdict(state, digest, "", parse(content).more)
        except ValueError as error:
            return black, Verdict(state, digest, str(error))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(start, len(files), _CHUNK):
            places = range(first, min(first + _CHUNK, len(files)))
            images, verdicts = zip(*pool.map(read, places))
            files.note({place: verdict for place, verdict in zip(places, verdicts) if verdict})
            yield np.stack(images).transpose(0, 3, 1, 2)
