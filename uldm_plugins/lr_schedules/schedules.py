"""Learning-rate schedules: a factor in [0, 1] for each step."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge, Interval

Warmup = Annotated[int, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]


class Constant:
    """The same learning rate throughout, after a linear warm-up.

    Args:
        warmup: steps over which the rate rises.
    """

    def __init__(self, steps: int, /, warmup: Warmup = 0) -> None:
        self.warmup = warmup

    def __call__(self, step: int) -> float:
        """Return the factor at a step, counted from 0."""
        return rise(step, self.warmup)


class Linear:
    """A linear warm-up, then a stretch at full rate, then a straight fall.

    Args:
        warmup: steps over which the rate rises.
        hold: share of the steps before the fall begins.
        end: factor at the last step.
    """

    def __init__(self, steps: int, /, warmup: Warmup = 0, hold: Share = 0.0, end: Share = 0.0) -> None:
        self.steps, self.warmup, self.hold, self.end = steps, warmup, hold, end

    def __call__(self, step: int) -> float:
        """Return the factor at a step, counted from 0."""
        return rise(step, self.warmup) * (1 - (1 - self.end) * fallen(step, self.steps, self.hold))


class Cosine:
    """A linear warm-up, then a fall along half a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983).

    Args:
        warmup: steps over which the rate rises.
        end: factor at the last step.
    """

    def __init__(self, steps: int, /, warmup: Warmup = 0, end: Share = 0.0) -> None:
        self.steps, self.warmup, self.end = steps, warmup, end

    def __call__(self, step: int) -> float:
        """Return the factor at a step, counted from 0."""
        wave = 0.5 * (1 + math.cos(math.pi * fallen(step, self.steps)))
        return rise(step, self.warmup) * (self.end + (1 - self.end) * wave)


def rise(step: int, warmup: int) -> float:
    """Return how far a warm-up is, in (0, 1]."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def fallen(step: int, steps: int, hold: float = 0.0) -> float:
    """Return how much of the fall is done, in [0, 1]."""
    length = steps * (1 - hold)
    return min(1.0, max(0.0, step - steps * hold) / length) if length > 0 else 0.0
