"""How much memory there is: of the machine, of the control group that a process runs in, of a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
SWAP = Path("/proc/meminfo")


def memory_of(device: torch.device) -> int | None:
    """Return the bytes that a process can have on a device, others aside; None if that is not known.

    Of a CPU it is what the machine has, or what the control group (a container, a job of a queue) may use of
    it, and the space to swap to.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type not in ("cpu", "mps"):
        return None
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # Windows has no such function
        return None
    return min([machine, *_group_limits()]) + _swap()


def _group_limits() -> Iterator[int]:
    """Yield the limits of the process's control groups and of those around them, of both versions."""
    for line in _lines(OWN_CGROUPS):
        _, controllers, path = line.split(":", 2)
        memory = "memory" in controllers.split(",")
        if controllers and not memory:
            continue
        root, name = (CGROUPS / "memory", "memory.limit_in_bytes") if memory else (CGROUPS, "memory.max")
        own = root / path.lstrip("/")
        for group in (own, *own.parents):
            yield from (int(text) for text in _lines(group / name) if text.isdecimal())
            if group == root:
                break


def _swap() -> int:
    """Return the bytes of the machine's swap space."""
    sizes = (line.split() for line in _lines(SWAP) if line.startswith("SwapTotal:"))
    return next((int(words[1]) * 1024 for words in sizes), 0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
