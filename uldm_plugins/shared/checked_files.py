"""Image files below a folder: their names, the hashes of their contents, and which of them can be decoded."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import PIL
from attrs import frozen

from uldm_core.errors import OptionError, UldmError
from uldm_core.paths import make_folder, remove
from uldm_plugins.shared import cache
from uldm_plugins.shared.containers import parse
from uldm_plugins.shared.decoding import decode
from uldm_plugins.shared.files import ENDINGS, HASH_BYTES, content_of, hash_of, image_names, shown

_REASONS = 10
_NAMES = 5
_EVERY = 5.0
_CHUNK = 256  # so many are under way when somebody presses Ctrl-C
_VERSION = 3  # of what counts as usable, and of how it is remembered
_UNREAD, _HASHED, _SOUND, _FAULTY = range(4)
_NO_MEMORY = (sqlite3.Error, OSError, UldmError)  # of a cache that cannot be used, which is done without
_log = logging.getLogger(__name__)


class FileNames:
    """Paths of files below a folder, in one piece of memory: a million of them are a hundred megabytes.

    Args:
        root: the folder.
        names: of the files, below it.
    """

    def __init__(self, root: Path, names: Iterable[bytes]) -> None:
        every = list(names)
        self.root, self._text = root, b"".join(every)
        self._ends = np.cumsum([0, *map(len, every)], dtype=np.int64)
        self._places = np.arange(len(every))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> Path:
        return self.root / self.name(place)

    def __iter__(self) -> Iterator[Path]:
        return (self[place] for place in range(len(self)))

    def name(self, place: int) -> str:
        """Return a file's name below the folder."""
        index = self._places[place]
        return os.fsdecode(self._text[self._ends[index] : self._ends[index + 1]])

    def names(self) -> Iterator[str]:
        """Yield all names."""
        return map(self.name, range(len(self)))

    def at(self, places: np.ndarray) -> FileNames:
        """Return some of the files, in the order of their places."""
        some = object.__new__(FileNames)
        some.__dict__ = {**self.__dict__, "_places": self._places[places]}
        return some


@frozen
class Verdict:
    """What reading a file has shown.

    Args:
        state: of the file before it was read; see ``state_of``.
        hash: of its content; empty if it cannot be read.
        fault: why it cannot be used; empty if it can, None if that is not known.
        more: why it has further images, of which the first is used: ``animated``, say; empty if it has none.
    """

    state: str
    hash: bytes
    fault: str | None
    more: str = ""


class ImageFiles:
    """Image files, and what is known of them; what was known before is remembered in the cache.

    Args:
        root: the folder that they lie in.
        names: of the files, below it.
        max_pixels: larger images cannot be used.
    """

    def __init__(self, root: Path, names: Iterable[bytes], max_pixels: int) -> None:
        self.root, self.max_pixels = root, max_pixels
        self.names = FileNames(root, names)
        self.hashes = np.zeros((len(self), HASH_BYTES), np.uint8)
        self._known = np.full(len(self), _UNREAD, np.uint8)
        self._faults: dict[int, str] = {}
        self._more: dict[int, str] = {}
        with suppress(*_NO_MEMORY), closing(_memory(root, max_pixels)) as memory:
            for start in range(0, len(self), _CHUNK):
                self._recall(memory, range(start, min(start + _CHUNK, len(self))))

    def __len__(self) -> int:
        return len(self.names)

    def read(self) -> None:
        """Find the hash of every file whose hash is not known."""
        self._learn(np.flatnonzero(self._known == _UNREAD), "read", lambda place: _hashed(self.names[place]))

    def decode(self) -> None:
        """Find the hash of every file, and whether it can be decoded."""
        unknown = np.flatnonzero(self._known < _SOUND)
        self._learn(unknown, "checked", lambda place: _decoded(self.names[place], self.max_pixels))

    def is_faulty(self, place: int) -> bool:
        """Whether a file is known to be of no use."""
        return bool(self._known[place] == _FAULTY)

    def note(self, verdicts: Mapping[int, Verdict]) -> None:
        """Take what was found out of files, by their places, and remember it."""
        for place, verdict in verdicts.items():
            self._take(place, verdict.hash, verdict.fault, verdict.more)
        rows = [
            (os.fsencode(self.names.name(place)), verdict.state, verdict.hash, verdict.fault, verdict.more)
            for place, verdict in verdicts.items()
            if verdict.hash  # what cannot be read today may be readable tomorrow
        ]
        with suppress(*_NO_MEMORY), closing(_memory(self.root, self.max_pixels)) as memory, memory:
            memory.executemany("REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)

    def sound(self, left_out: Mapping[str, str]) -> tuple[np.ndarray, dict[str, str]]:
        """Return the places of the files that can be used, int64, and why others are not; the log has these.

        Args:
            left_out: what is left out already, and why, by names below the folder.

        Raises:
            ValueError: none can be used.
        """
        places = np.flatnonzero(self._known == _SOUND)
        faults = {shown(self.names.name(place)): fault for place, fault in sorted(self._faults.items())}
        left_out = {**left_out, **faults}
        said = list(_by_reason(left_out))
        if not len(places):
            none = f": none of {len(self)} files is a usable image"
            what = none if len(self) else f" has no images ({', '.join(ENDINGS)})"
            raise OptionError(shown(self.root) + what + "".join(f"; left out: {line}" for line in said))
        for line in said:
            _log.warning("%s: left out of %d images: %s", shown(self.root), len(places) + len(left_out), line)
        more = {shown(self.names.name(place)): what for place, what in sorted(self._more.items())}
        for line in _by_reason(more):
            _log.warning("%s: images of which the first picture is used: %s", shown(self.root), line)
        return places, left_out

    def _take(self, place: int, digest: bytes, fault: str | None, more: str) -> None:
        if digest:
            self.hashes[place] = np.frombuffer(digest, np.uint8)
        self._known[place] = _HASHED if fault is None else _FAULTY if fault else _SOUND
        if fault:
            self._faults[place] = fault
        elif more:
            self._more[place] = more

    def _learn(self, places: np.ndarray, doing: str, verdict: Callable[[int], Verdict]) -> None:
        """Find something out of some files, in parallel, and log how far it is every few seconds."""
        reported, before = time.monotonic(), len(self) - len(places)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # not more: each holds a whole image
            for start in range(0, len(places), _CHUNK):
                chunk = places[start : start + _CHUNK].tolist()
                found: dict[int, Verdict] = {}
                try:
                    for place, one in zip(chunk, pool.map(verdict, chunk)):
                        found[place] = one
                        if time.monotonic() - reported >= _EVERY:
                            reported = time.monotonic()
                            done = before + start + len(found)
                            _log.info("%s %s of %s images", doing, f"{done:,}", f"{len(self):,}")
                finally:  # somebody may have had enough of waiting
                    self.note(found)

    def _recall(self, memory: sqlite3.Connection, places: range) -> None:
        """Take what is remembered of files that are the same as then."""
        wanted = {os.fsencode(self.names.name(place)): place for place in places}
        marks = ", ".join("?" * len(wanted))
        query = f"SELECT name, state, hash, fault, more FROM files WHERE name IN ({marks})"
        rows = memory.execute(query, list(wanted)).fetchall()
        for name, state, digest, fault, more in rows:
            if state == state_of(self.names[wanted[name]]) != "" and len(digest) == HASH_BYTES:
                self._take(wanted[name], digest, fault, more)


def usable(root: Path, max_pixels: int) -> FileNames:
    """Return the images under a folder that can be decoded, sorted by path, and log those that cannot.

    Raises:
        ValueError: there is no such folder, or no usable image in it.
    """
    names, left_out = image_names(root)
    files = ImageFiles(root, names, max_pixels)
    files.decode()
    return files.names.at(files.sound(left_out)[0])


def fault(path: Path, max_pixels: int) -> str:
    """Return what is wrong with an image file, by decoding it, or nothing."""
    return _decoded(path, max_pixels).fault or ""


def state_of(path: Path) -> str:
    """Return what changes whenever a file does; nothing if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def content_fingerprint(hashes: np.ndarray, *options: object) -> str:
    """Return a hash of what makes a dataset's images.

    Args:
        hashes: of the contents of its files, in their order, uint8 [N, 16].
        options: others that change the images, labels.
    """
    digest = hashlib.blake2b(b"([", digest_size=8)
    for start in range(0, len(hashes), _CHUNK):
        some = ", ".join(repr(bytes(row).hex()) for row in hashes[start : start + _CHUNK])
        digest.update(f"{', ' if start else ''}{some}".encode())
    digest.update(f"], {repr(options)[1:]}".encode())
    return digest.hexdigest()


def _hashed(path: Path) -> Verdict:
    state = state_of(path)
    try:
        return Verdict(state, hash_of(content_of(path)), None)
    except ValueError as error:
        return Verdict(state, b"", str(error))


def _decoded(path: Path, max_pixels: int) -> Verdict:
    state = state_of(path)
    try:
        content = content_of(path)
    except ValueError as error:
        return Verdict(state, b"", str(error))
    digest = hash_of(content)
    try:
        container = parse(content)
        decode(container, max_pixels, draft=(1, 1))
    except ValueError as error:
        return Verdict(state, digest, str(error))
    return Verdict(state, digest, "", container.more)


def _by_reason(left_out: Mapping[str, str]) -> Iterator[str]:
    """Yield how many are left out for each reason, and the first of them."""
    names = defaultdict(list)
    for name, reason in left_out.items():
        names[reason].append(name)
    often_first = sorted(names, key=lambda reason: -len(names[reason]))
    for reason in often_first[:_REASONS]:
        some = ", ".join(names[reason][:_NAMES])
        more = len(names[reason]) - _NAMES
        yield f"{len(names[reason])} {reason} ({some}{f' and {more} more' if more > 0 else ''})"
    if rest := sum(len(names[reason]) for reason in often_first[_REASONS:]):
        yield f"{rest} for other reasons"


def _memory(root: Path, max_pixels: int) -> sqlite3.Connection:
    """Open the database of what is known of the files below a folder; a damaged one is replaced.

    Raises:
        sqlite3.Error, OSError, RunError: it cannot be used.
    """
    asked = (os.path.realpath(root), max_pixels, PIL.__version__, _VERSION)
    name = hash_of(repr(asked).encode("utf-8", "surrogateescape")).hex()
    place = cache.cache_folder() / "images" / f"{name}.sqlite"
    make_folder(place.parent)
    if place.exists():
        with suppress(OSError):  # of a cache that may only be read
            os.utime(place)
    else:
        _prune(place.parent)
    try:
        return _opened(place)
    except sqlite3.OperationalError:  # another process is writing, say
        raise
    except sqlite3.DatabaseError:
        remove(place)
        return _opened(place)


def _opened(place: Path) -> sqlite3.Connection:
    memory = sqlite3.connect(place)
    try:
        memory.execute("PRAGMA synchronous = OFF")  # a damaged one is replaced
        columns = "name BLOB PRIMARY KEY, state TEXT, hash BLOB, fault TEXT, more TEXT"
        memory.execute(f"CREATE TABLE IF NOT EXISTS files ({columns}) WITHOUT ROWID")
    except BaseException:
        memory.close()
        raise
    return memory


def _prune(folder: Path) -> None:
    """Remove databases that nobody opened for 30 days: whoever opens one touches it first."""
    for place in folder.glob("*.sqlite"):
        with suppress(OSError, UldmError):
            if cache.is_unused([place]):
                remove(place)
