"""What trackers of other libraries share: identifiers that resumed runs keep, names with their stage."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from uldm_core.paths import inside
from uldm_core.run_folder.files import damaged, read_bytes, write_text

_IDENTIFIER = re.compile(rb"[0-9A-Za-z_\-]{1,128}")


def kept_id(folder: Path, *names: str) -> str:
    """Return the identifier that a file of a run keeps, made the first time; a resumed run has the same.

    Raises:
        MistakeError: there is something else in the file.
    """
    path = inside(folder, *names)
    if not path.is_file():
        write_text(path, secrets.token_hex(4))
    return read_id(path)


def read_id(path: Path) -> str:
    """Read an identifier, which may become a part of a path; raises ``MistakeError`` if it is none."""
    content = read_bytes(path).strip()
    if not _IDENTIFIER.fullmatch(content):
        raise damaged(path, "no identifier of a run")
    return content.decode("ascii")


def tagged(stage: str, values: Mapping[str, float]) -> dict[str, float]:
    """Return values by names that begin with their stage: ``{"first/loss": 0.5}``."""
    return {f"{stage}/{name}": value for name, value in values.items()}
