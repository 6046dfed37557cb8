"""The contract of learning-rate schedules."""

from __future__ import annotations

import math

from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import expect

contract = Contract(
    build=lambda case: case.build(100),
    exercise=lambda case, schedule: [schedule(step) for step in range(0, 100, 9)],
)
LENGTHS = (100, 1, 2, 7, 1000)
LONG = 100_000
SOME = (LONG - 1, LONG // 2, 2000, 999, 1, 0)
"""Steps of a long training that are asked for, the last one first."""


@contract.check
def factors_legal(case: Case) -> None:
    """Every step's factor is a finite float, not below zero, for trainings of one step and of many."""
    for steps in (*LENGTHS, LONG):
        schedule = case.build(steps)
        for step in range(steps) if steps < LONG else SOME:
            factor = schedule(step)
            legal = isinstance(factor, (int, float)) and math.isfinite(factor) and factor >= 0
            expect(legal, f"at step {step} of {steps} the factor is {factor!r}, not a float above or at zero")


@contract.check
def step_alone_decides(case: Case) -> None:
    """The factor follows from the step alone: a resumed run asks from the middle."""
    for steps in LENGTHS:
        schedule = case.build(steps)
        forwards = [schedule(step) for step in range(steps)]
        backwards = [schedule(step) for step in reversed(range(steps))]
        expect(backwards[::-1] == forwards, f"asked backwards, it differs in a training of {steps} steps")
        fresh = case.build(steps)
        expect(fresh(steps - 1) == forwards[-1], "a new instance, asked in the middle, differs")


@contract.check
def length_is_its_own(case: Case) -> None:
    """Schedules of trainings of other lengths, before it and beside it, are nothing to it."""
    alone = case.build(100)
    wanted = [alone(step) for step in (0, 50, 99)]
    short = case.build(7)
    factors = [short(step) for step in range(7)]
    schedule = case.build(100)
    case.build(1000)(50)
    expect([schedule(step) for step in (0, 50, 99)] == wanted, "beside one of another length it differs")
    expect([short(step) for step in range(7)] == factors, "beside one of another length it differs")


@contract.check
def reaches_full_rate(case: Case) -> None:
    """Somewhere the factor is near 1, nowhere far above: ``lr`` is the rate that a recipe means."""
    schedule = case.build(1000)
    top = max(schedule(step) for step in range(1000))
    expect(0.9 <= top <= 1.0 + 1e-9, f"the largest factor of 1,000 steps is {top:.3g}")


@contract.check
def always_learns(case: Case) -> None:
    """The mean factor is not next to nothing, in long trainings and short ones (of one step it may be)."""
    for steps in (100, 7, 1000):
        schedule = case.build(steps)
        mean = sum(schedule(step) for step in range(steps)) / steps
        expect(mean > 0.01, f"the mean factor of {steps} steps is {mean:.3g}")
