"""Images of files by index: decoded once and packed, or decoded ahead of their use."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import numpy as np
import PIL
import torch
from torch import Tensor

from uldm_core import RunError
from uldm_plugins.shared.cache import packed, rows
from uldm_plugins.shared.checked_files import ImageFiles, Verdict, state_of
from uldm_plugins.shared.containers import parse
from uldm_plugins.shared.decoding_workers import Decoding
from uldm_plugins.shared.files import Reading, UnreadableImageError, content_of, hash_of, named, shown

_CHUNK = 256
_MOST_AHEAD = 3  # batches: the next one, the one after, and one that a preview came before
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
        self._count = 0
        self._ahead: dict[tuple[int, ...], Decoding] = {}  # by process and places: a copy has no threads

    def images(self, places: Tensor) -> Tensor:
        """Return the images of the files at some places, uint8 [B, C, H, W].

        Raises:
            UnreadableImageError: one can no longer be decoded.
        """
        wanted = places.tolist()
        decoding = self._ahead.pop((os.getpid(), *wanted), None) or self._decoding(wanted)
        return torch.from_numpy(decoding.result())

    def prefetch(self, places: Tensor) -> None:
        """Begin to decode images that are asked for soon."""
        wanted = places.tolist()
        self._ahead[(os.getpid(), *wanted)] = self._decoding(wanted)
        while len(self._ahead) > _MOST_AHEAD:
            self._ahead.pop(next(iter(self._ahead))).cancel()

    def _decoding(self, places: list[int]) -> Decoding:
        paths = [self.files.names[place] for place in places]
        self._count += len(paths)
        return Decoding(self.reading, paths, lambda number: self.reading.read(paths[number]), self._count)


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
    for first in range(start, len(files), _CHUNK):
        images, verdicts = _of_chunk(files, reading, range(first, min(first + _CHUNK, len(files))))
        files.note(verdicts)
        yield images


def _of_chunk(files: ImageFiles, reading: Reading, places: range) -> tuple[np.ndarray, dict[int, Verdict]]:
    """Return the images of the files at some places, and what was found out of these."""
    paths, hashes = [files.names[place] for place in places], files.hashes[places.start : places.stop]
    black = np.zeros((*reading.size, reading.channels), np.uint8)
    verdicts = {
        place: Verdict(state_of(path), digest.tobytes(), "")
        for place, path, digest in zip(places, paths, hashes)
        if not files.is_faulty(place)
    }

    def read(number: int) -> np.ndarray:
        place, path = places[number], paths[number]
        if files.is_faulty(place):
            return black
        state, digest = state_of(path), hashes[number].tobytes()
        with named(path):
            content = content_of(path)
        if hash_of(content) != digest:
            raise RunError(f"{shown(path)} was changed while images were packed", hint="run again")
        try:
            image = reading.decode(content)
            verdicts[place] = Verdict(state, digest, "", parse(content).more)
        except ValueError as error:
            image, verdicts[place] = black, Verdict(state, digest, str(error))
        return image

    return Decoding(reading, paths, read, len(files), hashes).result(), verdicts
