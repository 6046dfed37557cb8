"""The names of a dataset's splits."""

from __future__ import annotations

from collections.abc import Sequence

from uldm_core.errors import OptionError


def check_split(name: str, splits: Sequence[str]) -> None:
    """Raise ``ValueError`` unless there is a split of this name."""
    if name not in splits:
        raise OptionError(f"there is no split {name!r}; there are: {', '.join(splits)}")
