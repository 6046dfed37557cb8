"""What options are annotated with that take the size of images; see ``uldm_core.shapes``."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from annotated_types import Ge

Side: TypeAlias = Annotated[int, Ge(1)]
Size: TypeAlias = Side | tuple[Side, Side]
"""Height and width, or one number for a square."""
