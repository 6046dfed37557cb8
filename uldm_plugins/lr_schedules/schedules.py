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


class LinearWarmup:
    """A straight rise from a share of the learning rate to all of it, which then stays.

    Source: ``torch.optim.lr_scheduler.LinearLR``.

    Args:
        warmup: steps over which the rate rises.
        start: factor at the first step.
    """

    def __init__(self, steps: int, /, warmup: Warmup = 500, start: Share = 0.01) -> None:
        self.warmup, self.start = warmup, start

    def __call__(self, step: int) -> float:
        """Return the factor at a step, counted from 0."""
        risen = min(1.0, step / self.warmup) if self.warmup else 1.0
        return self.start + (1 - self.start) * risen


class OneCycle:
    """Half a cosine up to the learning rate, and another down to almost nothing.

    Source: Smith and Topin 2018 (arXiv 1708.07120); ``torch.optim.lr_scheduler.OneCycleLR``.

    Args:
        pct_start: share of the steps spent rising.
        div_factor: by which the first rate is smaller than the highest.
        final_div_factor: by which the last rate is smaller than the first.
    """

    def __init__(
        self,
        steps: int,
        /,
        pct_start: Annotated[float, Interval(ge=0, lt=1)] = 0.3,
        div_factor: Annotated[float, Ge(1)] = 25.0,
        final_div_factor: Annotated[float, Ge(1)] = 1e4,
    ) -> None:
        self.top = max(pct_start * steps - 1, 0.0)
        self.last = max(steps - 1, 1)
        self.first, self.end = 1 / div_factor, 1 / (div_factor * final_div_factor)

    def __call__(self, step: int) -> float:
        """Return the factor at a step, counted from 0."""
        if step < self.top:
            return _between(self.first, 1.0, step / self.top)
        return _between(1.0, self.end, min(1.0, (step - self.top) / (self.last - self.top)))


def _between(start: float, end: float, share: float) -> float:
    """Return the value along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def rise(step: int, warmup: int) -> float:
    """Return how far a warm-up is, in (0, 1]."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def fallen(step: int, steps: int, hold: float = 0.0) -> float:
    """Return how much of the fall is done, in [0, 1]."""
    length = steps * (1 - hold)
    return min(1.0, max(0.0, step - steps * hold) / length) if length > 0 else 0.0
