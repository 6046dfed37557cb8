"""What checks of components that take images share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from uldm_core.testing.case import Case

LIKELY_CHANNELS = (3, 1, 4, 2)


def channels_of(case: Case, component: Any, call: Callable[[Tensor], object], side: int) -> int:
    """Return how many channels of images a component takes: as drawn, as it says, or as found by trying."""
    told = case.given().get("in_channels") or getattr(component, "in_channels", None)
    if told:
        return int(told)

    def works(channels: int) -> None:
        with torch.no_grad():
            call(torch.zeros(2, channels, side, side))

    return int(case.subject.found("channels", LIKELY_CHANNELS, works))
