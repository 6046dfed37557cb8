"""What checks of components that take images share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from uldm_core.testing.contract import Case
from uldm_core.testing.expectations import Broken, Skip

Shape = TypeVar("Shape", bound=Sequence[int])
LIKELY_CHANNELS = (3, 1, 4, 2)


def channels_of(
    case: Case, component: object, call: Callable[[Tensor], object], height: int, width: int
) -> int:
    """Return how many channels of images a component takes: as drawn, as it says, or as found by trying."""
    known = case.given().get("in_channels") or getattr(component, "in_channels", None)
    if known:
        return int(known)

    def works(channels: int) -> None:
        with torch.no_grad():
            call(torch.zeros(2, channels, height, width))

    return int(case.subject.found("channels", LIKELY_CHANNELS, works))


def accepted(call: Callable[..., object], shapes: Sequence[Shape]) -> list[Shape]:
    """Return the shapes that a component takes; it refuses others by ``ValueError``, small ones for instance.

    Raises:
        ValueError: it refuses them all.
    """
    error: ValueError | None = None
    found = []
    for shape in shapes:
        try:
            call(*shape)
        except ValueError as refusal:
            error = error or refusal
        except Exception:  # no refusal but a fault, which is for the checks to find
            found.append(shape)
        else:
            found.append(shape)
    if not found and error is not None:
        raise error
    return found


def check_refused(smallest: int | None, call: Callable[[int, int], object]) -> None:
    """Expect images of the declared ``smallest_size`` to be taken, and any a pixel smaller to be refused.

    Args:
        smallest: as declared; None if nothing is.
        call: exercises the component with images of a height and a width.
    """
    if smallest is None or smallest < 2:
        raise Skip("it declares no smallest_size")
    call(smallest, smallest)
    for height, width in ((smallest - 1, smallest + 8), (smallest + 8, smallest - 1)):
        try:
            call(height, width)
        except ValueError:
            continue
        raise Broken(
            f"smallest_size is {smallest}, but images of {height}x{width} are not refused with a ValueError"
        )
