"""The contract of learning-rate schedules."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from uldm_core.testing.case import Case
from uldm_core.testing.contract import Contract, expect

contract = Contract(
    build=lambda case: case.build(100),
    exercise=lambda case, schedule: [schedule(step) for step in range(0, 100, 9)],
)


def _steps(case: Case) -> int:
    return case.draw(st.sampled_from((100, 1, 2, 7, 1000)), "steps")


@contract.check
def factors_legal(case: Case) -> None:
    """Every step's factor is a finite float, not below zero, for trainings of one step and of many."""
    steps = _steps(case)
    schedule = case.build(steps)
    for step in range(steps):
        factor = schedule(step)
        expect(isinstance(factor, (int, float)), f"at step {step} of {steps} the factor is {factor!r}")
        expect(math.isfinite(factor) and factor >= 0, f"at step {step} of {steps} the factor is {factor}")


@contract.check
def step_alone_decides(case: Case) -> None:
    """The factor follows from the step alone: a resumed run asks from the middle."""
    steps = _steps(case)
    schedule = case.build(steps)
    forwards = [schedule(step) for step in range(steps)]
    expect(
        [schedule(step) for step in reversed(range(steps))][::-1] == forwards, "asked backwards, it differs"
    )
    fresh = case.build(steps)
    expect(fresh(steps - 1) == forwards[-1], "a new instance, asked in the middle, differs")


@contract.check
def reaches_full_rate(case: Case) -> None:
    """Somewhere the factor is near 1, nowhere far above: ``lr`` is the rate that a recipe means."""
    schedule = case.build(1000)
    top = max(schedule(step) for step in range(1000))
    expect(0.9 <= top <= 1.0 + 1e-9, f"the largest factor of 1,000 steps is {top:.3g}")


@contract.check
def always_learns(case: Case) -> None:
    """The mean factor is not next to nothing, in long trainings and short ones (of one step it may be)."""
    steps = case.draw(st.sampled_from((100, 7, 1000)), "steps")
    schedule = case.build(steps)
    mean = sum(schedule(step) for step in range(steps)) / steps
    expect(mean > 0.01, f"the mean factor of {steps} steps is {mean:.3g}")
