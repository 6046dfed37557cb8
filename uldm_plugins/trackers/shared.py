"""What trackers of other libraries share: a run that goes on is the same run, and names say their stage."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from uldm_core.engine.files import write_text


def kept_id(path: Path) -> str:
    """Return the identifier that a file keeps, made the first time: a run that goes on is the same run."""
    if not path.is_file():
        write_text(path, secrets.token_hex(4))
    return path.read_text("utf-8").strip()


def tagged(stage: str, values: Mapping[str, float]) -> dict[str, float]:
    """Return values by names that say their stage: ``{"first/loss": 0.5}``."""
    return {f"{stage}/{name}": value for name, value in values.items()}
