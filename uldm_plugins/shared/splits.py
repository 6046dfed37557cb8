"""Which images are for testing: chosen by their content, so that other images change nothing."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from uldm_core.errors import OptionError


def is_for_testing(
    hashes: np.ndarray, groups: Iterable[str] | None, share: float, seed: int, whose: str
) -> np.ndarray:
    """Return which images are for testing, bool [N]: about a share of them, and neither all nor none.

    Images of one content are on the same side, and so are images of one group. Each content, or group, is
    drawn by itself: where images are added or removed the others stay on their side.

    Args:
        hashes: of the images' contents, uint8 [N, bytes].
        groups: the name of each image's group; empty for one that is in none.
        share: of the images that are for testing, 0 to 1.
        seed: of the draw.
        whose: the images are, for the message.

    Raises:
        ValueError: all are of one content, or in one group.
    """
    contents, content = np.unique(_rows(hashes), return_inverse=True)
    names, unit = [row.tobytes() for row in contents], content
    if groups is not None:
        names, unit = _joined(names, content, groups)
    draws = np.array([_draw(name, seed) for name in names])
    if len(draws) < 2:
        alike = "are in one group" if groups is not None else "have one content"
        count = "one usable image" if len(hashes) == 1 else f"{len(hashes)} usable images, which {alike}"
        raise OptionError(f"{whose} has {count}: add more, one at least is kept for testing")
    is_test = draws < min(max(share, np.nextafter(draws.min(), 1)), draws.max())
    return np.asarray(is_test[unit])


def groups_of(names: Iterable[str], groups: str) -> Iterable[str] | None:
    """Return the group of each image, by its name below the folder; None where there are none.

    Args:
        names: of the images.
        groups: ``none``, ``folder`` (each folder is one), or a regular expression whose group 1, where it is
            found, is the name of the group.

    Raises:
        ValueError: it is no regular expression with a group.
    """
    if groups == "none":
        return None
    if groups == "folder":
        return map(os.path.dirname, names)
    try:
        pattern = re.compile(groups)
    except re.error as error:
        raise OptionError(f"groups: {groups!r} is no regular expression: {error}") from error
    if not pattern.groups:
        hint = "put what is the same in a group's images in parentheses, as in '(.*)_[0-9]+'"
        raise OptionError(f"groups: {groups!r} is neither none nor folder, and has no parentheses: {hint}")
    found = map(pattern.search, names)
    return (match[1] or "" if match else "" for match in found)


def _rows(hashes: np.ndarray) -> np.ndarray:
    """Return rows of bytes as one value each."""
    return np.ascontiguousarray(hashes).view(np.dtype((np.void, hashes.shape[1])))[:, 0]


def _draw(name: bytes, seed: int) -> float:
    """Return a number in [0, 1) that belongs to a name."""
    digest = hashlib.blake2b(name, digest_size=8, key=str(seed).encode()[:64]).digest()
    return int.from_bytes(digest, "big") / 2**64


def _joined(
    contents: list[bytes], content: np.ndarray, groups: Iterable[str]
) -> tuple[list[bytes], np.ndarray]:
    """Join groups that share a content, and contents of one group.

    Args:
        contents: the hashes that there are.
        content: which of them each image has, int64 [N].
        groups: each image's, empty for none.

    Returns:
        What each joined set is known by, and each image's set, int64 [N].
    """
    numbers: dict[str, int] = {}
    group = np.array([numbers.setdefault(name, len(numbers)) if name else -1 for name in groups])
    grouped = group >= 0
    ends = content[grouped], group[grouped] + len(contents)
    nodes = len(contents) + len(numbers)
    edges = coo_array((np.ones(len(ends[0]), bool), ends), shape=(nodes, nodes))
    count, joined = connected_components(edges, directed=False)
    names = [b""] * count
    of_groups = [hashlib.blake2b(os.fsencode(name), digest_size=16).digest() for name in numbers]
    for known, first in (
        (of_groups, len(contents)),
        (contents, 0),
    ):  # a group keeps its name with more images
        fresh: dict[int, bytes] = {}
        for name, place in zip(known, joined[first : first + len(known)]):
            if not names[place]:
                fresh[place] = min(name, fresh.get(place, name))
        for place, name in fresh.items():
            names[place] = name
    return names, joined[content]
