"""Randomness that is derived, not remembered: every number comes from (seed, where, step).

So the state that a resumed run needs is a few integers, and what one stage draws never shifts another's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *path: str | int) -> int:
    """Return a 63-bit seed for a place, e.g. ``derive(seed, "first", step)``."""
    text = "/".join(map(repr, (seed, *path)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *path: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a generator seeded for a place."""
    return torch.Generator(device).manual_seed(derive(seed, *path))


@contextmanager
def seeded(seed: int, *path: str | int) -> Iterator[None]:
    """Seed torch's global generator for a place, and put it back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, *path))
        yield


def batch_indices(size: int, batch_size: int, seed: int, stage: str, step: int) -> torch.Tensor:
    """Return the indices of a step's batch: a new shuffle each epoch, no index twice within one.

    A batch that runs over the end of an epoch is filled from the next one's shuffle.

    Args:
        size: how many items there are.
        batch_size: how many to take.
        seed: the run's seed.
        stage: the stage's name.
        step: the step, from 0.

    Returns:
        int64 [batch_size].
    """
    start = step * batch_size
    parts, missing = [], batch_size
    while missing:
        epoch, offset = divmod(start, size)
        part = _shuffle(size, derive(seed, stage, "epoch", epoch))[offset : offset + missing]
        parts.append(part)
        start, missing = start + len(part), missing - len(part)
    return torch.cat(parts)


_last_shuffle: dict[tuple[int, int], torch.Tensor] = {}


def _shuffle(size: int, seed: int) -> torch.Tensor:
    """Return a permutation; the last one is kept, since an epoch asks for it at every step."""
    if (size, seed) not in _last_shuffle:
        _last_shuffle.clear()
        _last_shuffle[size, seed] = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return _last_shuffle[size, seed]
