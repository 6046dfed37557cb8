"""What the adapted networks of diffusers share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_types import Ge, MinLen
from torch import nn

from uldm_plugins.nn.diffusers_blocks import load_named

Count = Annotated[int, Ge(1)]
Widths = Annotated[tuple[Count, ...], MinLen(1)]


def load_weights(network: nn.Module, weights: Path | None) -> None:
    """Load a state dict, if one is given.

    Raises:
        ValueError: it is not to be read, or of another network.
    """
    if weights is not None:
        load_named(network, Path(weights))
