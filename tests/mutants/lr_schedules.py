"""Broken and sound learning-rate schedules."""

from __future__ import annotations

import math

from mutants.catalogue import mutant, sound


@sound("lr_schedule")
class Constant:
    """The whole rate, always."""

    def __init__(self, steps: int, /):
        self.steps = steps

    def __call__(self, step: int) -> float:
        return 1.0


@sound("lr_schedule")
class Thirds(Constant):
    """A tenth of the rate after each third."""

    def __call__(self, step):
        return 0.1 ** (3 * step // self.steps)


@sound("lr_schedule")
class OneCycle(Constant):
    """Up for a third, then down along a cosine."""

    def __call__(self, step):
        place, turn = (step + 1) / self.steps, 1 / 3
        if place <= turn:
            return place / turn
        return max(0.01, 0.5 + 0.5 * math.cos(math.pi * (place - turn) / (1 - turn)))


@sound("lr_schedule")
def half_cosine(steps, /, floor: float = 0.05):
    """A function that returns a function."""
    return lambda step: floor + (1 - floor) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


@mutant("lr_schedule", killed_by="factors_legal")
class BelowZero(Constant):
    """The line to zero goes on below it."""

    def __call__(self, step):
        return 1 - 2 * step / self.steps


@mutant("lr_schedule", killed_by="factors_legal")
class DividesByZero(Constant):
    """A training of one step divides by steps - 1."""

    def __call__(self, step):
        return 1 - 0.9 * step / (self.steps - 1)


@mutant("lr_schedule", killed_by="step_alone_decides")
class CountsItsCalls(Constant):
    """The factor follows from how often it was asked."""

    calls = 0

    def __call__(self, step):
        self.calls += 1
        return 0.999**self.calls


@mutant("lr_schedule", killed_by="reaches_full_rate")
class RateNotFactor(Constant):
    """It returns the rate itself."""

    def __call__(self, step):
        return 1e-3


@mutant("lr_schedule", killed_by="reaches_full_rate")
class WarmupTooLong(Constant):
    """The warm-up is counted in batches of another training: it never ends."""

    def __call__(self, step):
        return (step + 1) / (3 * self.steps)


@mutant("lr_schedule", killed_by="reaches_full_rate")
class PercentForShare(Constant):
    """Percents are returned for shares."""

    def __call__(self, step):
        return 100.0


@mutant("lr_schedule", killed_by="always_learns")
class WarmsUpOnly(Constant):
    """The warm-up of a thousand steps leaves nothing to a training of seven."""

    def __call__(self, step):
        return min(1.0, (step + 1) / 1000)
