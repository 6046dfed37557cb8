"""Timing several ways to do one thing in turns, so that other load on the machine affects all of them."""

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
    """Time the first way, ours, in turns with each of the others, and return a line of the table a peer.

    With no third way between them: who runs after one that emptied the caches would pay for it.
    """
    (name, ours), *peers = ways.items()
    lines = []
    for peer, theirs in peers:
        own, their = timed({name: ours, peer: theirs}, seconds).values()
        ratio = statistics.median(b / a for a, b in zip(own, their))
        a, b = (1e3 * statistics.median(values) for values in (own, their))
        lines.append(f"| {case} | {a:.2f} | {peer} | {b:.2f} | {ratio:.2f} |")
    return "\n".join(lines)


HEAD = "| case | ours, ms | peer | its, ms | times faster |\n|---|---|---|---|---|"
