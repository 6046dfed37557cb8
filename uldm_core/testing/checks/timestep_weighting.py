"""The contract of timestep weightings."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from uldm_core.errors import UldmError
from uldm_core.testing.case import Case
from uldm_core.testing.contract import Contract, expect, expect_finite
from uldm_core.testing.doubles import circular, discrete, straight

contract = Contract()


def _sample(weighting: Any, count: int, seed: int) -> Tensor:
    times: Tensor = weighting.sample(count, torch.Generator().manual_seed(seed))
    return times


@contract.check
def times_in_range(case: Case) -> None:
    """``sample(n)`` gives n floats in [0, 1]: any other time has no coefficients."""
    weighting = case.build()
    count = case.draw(st.sampled_from((1, 2, 7, 256)), "count")
    t = _sample(weighting, count, case.seed())
    expect(t.shape == (count,) and t.is_floating_point(), f"{count} times come as {t.dtype} {list(t.shape)}")
    expect_finite(t, "a time")
    expect(
        bool(((t >= 0) & (t <= 1)).all()), f"times reach from {t.min().item():.3g} to {t.max().item():.3g}"
    )


@contract.check
def generator_decides(case: Case) -> None:
    """The generator alone decides the times: torch's global state neither matters nor changes."""
    weighting = case.build()
    seed = case.seed()
    first = _sample(weighting, 16, seed)
    state = torch.get_rng_state()
    expect(torch.equal(_sample(weighting, 16, seed), first), "the same generator gives other times")
    expect(torch.equal(state, torch.get_rng_state()), "it draws from torch's global generator")
    expect(not torch.equal(_sample(weighting, 16, seed + 1), first), "the seed does not matter")


@contract.check
def times_spread(case: Case) -> None:
    """Times are spread out, and unordered: a batch's first samples are no noisier than its last."""
    t = _sample(case.build(), 512, case.seed())
    expect(t.std().item() > 1e-3, "all times are one")
    halves = (t[:256].mean() - t[256:].mean()).abs().item()
    expect(halves < 0.5 * max(t.std().item(), 0.02), "times come in order, not at random")


@contract.check
def weights_legal(case: Case) -> None:
    """Weights are finite (at both ends too), not below 0, one a time; a prediction without any is refused."""
    weighting = case.build()
    t = torch.cat([_sample(weighting, 30, case.seed()), torch.tensor([0.0, 1.0])])
    weighed = 0
    for path in (straight(), circular(), discrete("epsilon"), discrete("sample")):
        try:
            weight = weighting.weight(t, path)
        except (ValueError, UldmError):
            continue
        weighed += 1
        expect(weight.shape == t.shape, f"{len(t)} times have weights {list(weight.shape)}")
        expect_finite(weight, "a weight")
        expect(bool((weight >= 0).all()), "a weight is below zero")
        expect(bool((weight > 0).any()), "all weights are zero")
    expect(weighed, "it weighs no prediction at all")
