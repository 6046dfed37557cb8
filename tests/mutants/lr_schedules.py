"""Broken and sound learning-rate schedules."""

from __future__ import annotations

import math

import torch

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


@sound("lr_schedule")
class Table(Constant):
    """A list of factors, made beforehand; there is no step beyond the last."""

    def __init__(self, steps: int, /):
        self.factors = [1 - step / steps for step in range(steps)]

    def __call__(self, step):
        return self.factors[step]


@sound("lr_schedule")
class InverseRoot(Constant):
    """A warm-up, then one over the root of the step (Vaswani and others 2017), however many there are."""

    def __call__(self, step):
        warmup = min(1000, max(1, self.steps // 10))
        return min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))


@sound("lr_schedule")
class Exponential(Constant):
    """A thousandth less in each step: in a long training next to nothing is left."""

    def __call__(self, step):
        return 0.999**step


@sound("lr_schedule")
class Restarts(Constant):
    """Four falls along a cosine, each from the whole rate."""

    def __call__(self, step):
        return 0.5 + 0.5 * math.cos(math.pi * (4 * step / self.steps % 1))


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


@mutant("lr_schedule", killed_by="factors_legal")
class OverflowsInTheEnd(Constant):
    """A soft step of a fixed width, whose exponent is too large in a long training."""

    def __call__(self, step):
        return 1 / (1 + math.exp((step - self.steps / 2) / 50))


@mutant("lr_schedule", killed_by="factors_legal")
class Tensors(Constant):
    """The factor is a tensor, which a checkpoint would keep for a number."""

    def __call__(self, step):
        return torch.tensor(1 - step / self.steps)


@mutant("lr_schedule", killed_by="length_is_its_own")
class OneLengthForAll(Constant):
    """The number of steps is kept for all schedules, and the last one built decides."""

    def __init__(self, steps: int, /):
        type(self).steps = steps

    def __call__(self, step):
        return max(0.1, 1 - step / self.steps)


@mutant("lr_schedule", killed_by="step_alone_decides")
class LessEachTime(Constant):
    """Each call takes a little off the last factor, from step 0 on, which a resumed run never asks for."""

    factor = 1.0

    def __call__(self, step):
        self.factor = self.factor * 0.999 if step else 1.0
        return self.factor


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
