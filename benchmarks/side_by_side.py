"""Timing several ways to do one thing in turns, so that the machine's moods fall on all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Ways = Mapping[str, Callable[[], object]]


def timed(ways: Ways, seconds: float = 6.0, least: int = 5) -> dict[str, list[float]]:
    """Run all ways in turns for about so long, after a first round that does not count; return seconds."""
    for way in ways.values():
        way()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(taken.values()))) < least:
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - start)
    return taken


def row(case: str, ways: Ways, seconds: float = 6.0) -> str:
    """Time the ways, the first one ours, and return a line of the table a peer."""
    ours, *peers = timed(ways, seconds).items()
    lines = []
    for name, taken in peers:
        ratio = statistics.median(theirs / own for theirs, own in zip(taken, ours[1]))
        own, their = (1e3 * statistics.median(values) for values in (ours[1], taken))
        lines.append(f"| {case} | {own:.2f} | {name} | {their:.2f} | {ratio:.2f} |")
    return "\n".join(lines)


HEAD = "| case | ours, ms | peer | its, ms | times faster |\n|---|---|---|---|---|"
