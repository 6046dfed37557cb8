"""Image files that are decoded once before they are used, and what came of it, remembered."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import PIL
from attrs import frozen

from uldm_core.errors import OptionError, UldmError
from uldm_core.run_folder.files import write_bytes
from uldm_plugins.shared.files import ENDINGS, content_of, decode, image_files, shown

_REASONS = 10
_NAMES = 5
_EVERY = 5.0
_CHUNK = 256  # so many are under way when somebody presses Ctrl-C
_VERSION = 1  # of what counts as usable
_log = logging.getLogger(__name__)


@frozen
class CheckedFiles:
    """Image files that can be decoded.

    Args:
        paths: the files.
        hashes: of their contents.
        left_out: why others cannot be used, by their names below the folder.
    """

    paths: Sequence[Path]
    hashes: Sequence[str]
    left_out: Mapping[str, str]


def usable(root: Path, max_pixels: int) -> CheckedFiles:
    """Return the images under a folder that can be decoded, sorted by path, and log those that cannot.

    Raises:
        ValueError: there is no such folder, or no usable image in it.
    """
    return check(root, *image_files(root), max_pixels)


def check(root: Path, paths: Sequence[Path], left_out: Mapping[str, str], max_pixels: int) -> CheckedFiles:
    """Return those of some files under a folder that can be decoded, and log those that cannot.

    Args:
        root: the folder.
        paths: the files.
        left_out: what is left out already, and why.
        max_pixels: larger images are left out.

    Raises:
        ValueError: none can be used.
    """
    verdicts = _verdicts(root, paths, max_pixels)
    faults = {shown(path.relative_to(root)): fault for path, (_, fault) in zip(paths, verdicts) if fault}
    sound = [(path, digest) for path, (digest, fault) in zip(paths, verdicts) if not fault]
    left_out = {**left_out, **faults}
    said = list(_by_reason(left_out))
    if not sound:
        none = f": none of {len(paths)} files is a usable image"
        what = none if paths else f" has no images ({', '.join(ENDINGS)})"
        raise OptionError(shown(root) + what + "".join(f"; left out: {line}" for line in said))
    for line in said:
        _log.warning("%s: left out of %d images: %s", shown(root), len(sound) + len(left_out), line)
    return CheckedFiles([path for path, _ in sound], [digest for _, digest in sound], left_out)


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


def fault(path: Path, max_pixels: int) -> str:
    """Return what is wrong with an image file, by decoding it, or nothing."""
    return _verdict(path, max_pixels)[1]


def content_fingerprint(*content: object) -> str:
    """Return a hash of what makes a dataset's images: hashes of files in their order, options, labels."""
    return hashlib.blake2b(repr(content).encode(), digest_size=8).hexdigest()


def _verdict(path: Path, max_pixels: int) -> tuple[str, str]:
    """Return the hash of a file's content, nothing if it cannot be read, and what is wrong with it."""
    try:
        content = content_of(path)
    except ValueError as error:
        return "", str(error)
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    try:
        decode(content, max_pixels, draft=(1, 1))
    except ValueError as error:
        return digest, str(error)
    return digest, ""


def _verdicts(root: Path, paths: Sequence[Path], max_pixels: int) -> list[tuple[str, str]]:
    """Return the verdict on each file: remembered, if the file is the same as then, or found by decoding."""
    place = _remembered_at(root, max_pixels)
    remembered = _read(place)
    names = [str(path.relative_to(root)) for path in paths]
    states = [_state(path) for path in paths]
    known = [_known(remembered.get(name), state) for name, state in zip(names, states)]
    new = [index for index, verdict in enumerate(known) if verdict is None]
    found = _in_parallel([paths[index] for index in new], len(paths) - len(new), max_pixels)
    try:
        for index, verdict in zip(new, found):
            known[index] = verdict
            if verdict[0]:  # what cannot be read today may be readable tomorrow
                remembered[names[index]] = [*states[index], *verdict]
    finally:  # somebody may have had enough of waiting
        if new:
            _write(place, remembered)
    return [verdict for verdict in known if verdict is not None]


def _in_parallel(paths: Sequence[Path], before: int, max_pixels: int) -> Iterator[tuple[str, str]]:
    """Yield the verdict on each file, and log how far it is every few seconds."""
    reported = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # not more: each holds a whole image
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            verdicts = pool.map(lambda path: _verdict(path, max_pixels), chunk)
            for done, verdict in enumerate(verdicts, before + start + 1):
                if time.monotonic() - reported >= _EVERY:
                    reported = time.monotonic()
                    _log.info("checked %s of %s images", f"{done:,}", f"{before + len(paths):,}")
                yield verdict


def _state(path: Path) -> list[int]:
    """Return what changes whenever a file does; nothing if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _known(entry: Any, state: list[int]) -> tuple[str, str] | None:
    """Return a remembered verdict, if it is one on the file as it is."""
    whole = isinstance(entry, list) and len(entry) == 6 and all(isinstance(text, str) for text in entry[4:])
    return (entry[4], entry[5]) if whole and state and entry[:4] == state else None


def cache_folder() -> Path:
    """Return the folder of verdicts, ``~/.cache/uldm`` or below ``XDG_CACHE_HOME``.

    Raises:
        RuntimeError: nobody's home is known.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "uldm" / "images"


def _remembered_at(root: Path, max_pixels: int) -> Path | None:
    asked = (os.path.realpath(root), max_pixels, PIL.__version__, _VERSION)
    name = hashlib.blake2b(repr(asked).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    try:
        return cache_folder() / f"{name}.json"
    except RuntimeError:
        return None


def _read(place: Path | None) -> dict[str, Any]:
    """Return remembered verdicts by files' names; none if they are damaged."""
    try:
        found = json.loads(place.read_bytes()) if place else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(place: Path | None, remembered: Mapping[str, Any]) -> None:
    """Remember verdicts, if there is room for them."""
    try:
        if place:
            write_bytes(place, json.dumps(remembered).encode("ascii"))
    except UldmError as error:
        _log.debug("verdicts on images are not remembered: %s", error)
