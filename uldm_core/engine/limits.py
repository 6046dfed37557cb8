"""Limits of the machine: room on the disk before a run begins, and memory that does not suffice."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from uldm_core.errors import MistakeError, RunError
from uldm_core.paths import free_bytes

if TYPE_CHECKING:
    from uldm_core.preflight.preflight import Preflight
    from uldm_core.recipe import ResolvedRecipe
    from uldm_core.spec.component_spec import ComponentSpec

IN_HAND = 0.1
"""The share of what a run needs that has to be free beyond it."""
_SAID = ("can't allocate memory", "out of memory", "not enough memory", "std::bad_alloc")


def require_space(folder: Path, resolved: ResolvedRecipe, found: Preflight, stages: Iterable[str]) -> None:
    """Raise ``MistakeError`` if a run's disk has no room for what these stages are going to write."""
    from uldm_core.preflight.preflight import short
    from uldm_core.preflight.storage import stored_bytes

    need = 0
    for name in stages:
        there = (path for path in (folder / "stages" / name).rglob("*") if path.is_file())
        need += max(0, stored_bytes(resolved, found, name) - sum(path.lstat().st_size for path in there))
    need, free = int(need * (1 + IN_HAND)), free_bytes(folder)
    if need > free:
        what = f"{folder}: too little room on the disk: {short(need, 'B')} needed, {short(free, 'B')} free"
        raise MistakeError(what, hint="make room, or give a folder on another disk: --out")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice: of the CPU, of CUDA, or of another device."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error)
    named = type(error).__name__ == "OutOfMemoryError"
    return (
        named
        or isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and any(said in text for said in _SAID))
    )


def out_of_memory(stage: ComponentSpec, device: object) -> RunError:
    """Return the error of a stage for which memory does not suffice, with what to lower."""
    name = ".".join(map(str, stage.key))
    options = {
        option: value
        for option, value in stage.options.items()
        if option == "batch_size" or option.endswith("_batch_size")
    }
    lower = [
        f"{name}.{option} (now {'not set' if value is None else value})" for option, value in options.items()
    ]
    others = "the size of the images, or the networks' channels"
    hint = f"lower {', '.join([*lower, others])}; the last checkpoint is kept"
    return RunError(f"{name}: out of memory on {device}", hint=hint)
