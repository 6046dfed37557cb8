"""The contract of noise schedulers."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from uldm_core.testing import strategies
from uldm_core.testing.case import Case
from uldm_core.testing.contract import Contract, Skip, expect, expect_close, expect_finite
from uldm_core.testing.doubles import target_of

PREDICTIONS = ("epsilon", "sample", "v", "flow")
CLEAN, NOISY = 100.0, 0.01
CONVERTIBLE = 1e-3


def _noised(case: Case, scheduler: Any) -> tuple[Tensor, Tensor, Tensor]:
    shape = case.draw(strategies.latent_shapes(3, 2, 4), "shape")
    t = case.draw(strategies.timesteps(shape[0]), "t")
    return case.normal(*shape), case.normal(*shape, salt=1), t


contract = Contract(
    inputs=_noised,
    call=lambda scheduler, x0, noise, t: scheduler.add_noise(x0, noise, t),
    same_dtype=False,
)


def _grid(scheduler: Any, count: int = 400) -> Tensor:
    """Return times from 0 to 1: each timestep of a discrete process, else evenly spaced ones."""
    steps = scheduler.timesteps or count
    return torch.arange(steps) / (steps - 1)


def _predictors(case: Case) -> list[Any]:
    """Build it for every prediction that it takes; at least for its own."""
    if not case.subject.takes("prediction"):
        return [case.build()]
    built = []
    for prediction in PREDICTIONS:
        try:
            built.append(case.build(prediction=prediction))
        except Exception:  # it takes some only
            continue
    expect(built, f"it takes none of {', '.join(PREDICTIONS)}")
    return built


@contract.check
def coefficients_legal(case: Case) -> None:
    """alpha and sigma have t's shape, are finite and not below zero, nor both zero."""
    scheduler = case.build()
    t = _grid(scheduler)
    alpha, sigma = scheduler.coefficients(t)
    expect(alpha.shape == t.shape == sigma.shape, f"t {list(t.shape)}, alpha {list(alpha.shape)}")
    for name, values in (("alpha", alpha), ("sigma", sigma)):
        expect_finite(values, name)
        expect(bool((values >= 0).all()), f"{name} falls below zero")
    expect(bool((alpha + sigma > 0).all()), "alpha and sigma are zero at once")


@contract.check
def snr_falls(case: Case) -> None:
    """The signal-to-noise ratio falls strictly from each time to the next: no two timesteps are one."""
    scheduler = case.build()
    alpha, sigma = (c.double() for c in scheduler.coefficients(_grid(scheduler)))
    falls = alpha[:-1] * sigma[1:] > alpha[1:] * sigma[:-1]
    where = int((~falls).nonzero()[0]) if not falls.all() else 0
    expect(bool(falls.all()), f"it does not fall from time {where} to {where + 1} of {len(alpha)}")


@contract.check
def starts_clean_ends_noisy(case: Case) -> None:
    """t = 0 is nearly data and t = 1 nearly noise: a sampler starts from pure noise and returns data."""
    scheduler = case.build()
    alpha, sigma = scheduler.coefficients(torch.tensor([0.0, 1.0]))
    first, last = alpha.square() / sigma.square().clamp(min=1e-30)
    expect(first >= CLEAN, f"at t = 0 the signal-to-noise ratio is {first:.3g}, below {CLEAN:g}")
    expect(last <= NOISY, f"at t = 1 the signal-to-noise ratio is {last:.3g}, above {NOISY:g}")


@contract.check
def snr_matches(case: Case) -> None:
    """``snr(t)`` is alpha^2 / sigma^2: loss weights are made of it."""
    scheduler = case.build()
    t = _grid(scheduler)[1:-1]
    alpha, sigma = (c.double() for c in scheduler.coefficients(t))
    expect_close(scheduler.snr(t), (alpha / sigma).square(), "snr(t) is not alpha^2 / sigma^2", rtol=1e-3)


@contract.check
def noise_added_as_declared(case: Case) -> None:
    """``add_noise`` is alpha x0 + sigma noise, with the coefficients of each sample's own time."""
    scheduler = case.build()
    x0, noise, t = _noised(case, scheduler)
    alpha, sigma = (c.view(-1, 1, 1, 1) for c in scheduler.coefficients(t))
    expect_close(scheduler.add_noise(x0, noise, t), alpha * x0 + sigma * noise, "add_noise is something else")


@contract.check
def noise_linear(case: Case) -> None:
    """``add_noise`` is linear in data and noise: what is added twice counts twice."""
    scheduler = case.build()
    x0, noise, t = _noised(case, scheduler)
    both = scheduler.add_noise(x0, torch.zeros_like(x0), t) + scheduler.add_noise(
        torch.zeros_like(x0), noise, t
    )
    expect_close(both, scheduler.add_noise(x0, noise, t), "data and noise are not simply added")
    twice = scheduler.add_noise(2 * x0, 2 * noise, t)
    expect_close(twice, 2 * scheduler.add_noise(x0, noise, t), "twice the input is not twice the output")


@contract.check
def target_means_its_name(case: Case) -> None:
    """epsilon is the noise, sample the data, v alpha noise - sigma x0, flow noise - x0: signs included."""
    for scheduler in _predictors(case):
        x0, noise, t = _noised(case, scheduler)
        name = scheduler.prediction
        if name not in PREDICTIONS:
            raise Skip(f"its prediction {name!r} is its own")
        alpha, sigma = (c.view(-1, 1, 1, 1) for c in scheduler.coefficients(t))
        wanted = target_of(name, x0, noise, alpha, sigma)
        expect_close(scheduler.target(x0, noise, t), wanted, f"the target of prediction {name!r} is another")


@contract.check
def target_splits_back(case: Case) -> None:
    """Every prediction converts to data and noise, and so to every other, away from the two ends."""
    for scheduler in _predictors(case):
        x0, noise, t = _noised(case, scheduler)
        t = t.clamp(0.02, 0.98)
        alpha, sigma = scheduler.coefficients(t)
        if min(alpha.min().item(), sigma.min().item()) < CONVERTIBLE:
            continue
        x_t = scheduler.add_noise(x0, noise, t)
        found = scheduler.split(scheduler.target(x0, noise, t), x_t, t)
        loose = 1e-5 / min(alpha.min().item(), sigma.min().item())
        what = f"prediction {scheduler.prediction!r} does not give back"
        expect_close(found[0], x0, f"{what} the data", rtol=1e-3, atol=10 * loose)
        expect_close(found[1], noise, f"{what} the noise", rtol=1e-3, atol=10 * loose)


@contract.check
def split_finite(case: Case) -> None:
    """At t = 0 and t = 1 too data and noise are finite: what divides by zero there is refused when built."""
    for scheduler in (case.build(), *_predictors(case)):
        t = torch.tensor([0.0, 1.0])
        x0, noise, other = (case.normal(2, 2, 4, 4, salt=salt) for salt in range(3))
        for prediction in (scheduler.target(x0, noise, t), other):
            found = scheduler.split(prediction, scheduler.add_noise(x0, noise, t), t)
            for name, values in zip(("data", "noise"), found, strict=True):
                for place, value in zip(t.tolist(), values, strict=True):
                    expect_finite(value, f"prediction {scheduler.prediction!r}: the {name} at t = {place:g}")


@contract.check
def times_per_sample(case: Case) -> None:
    """Times per sample, the same time as a scalar tensor, and samples one by one agree."""
    # as many samples as a side has pixels: there times may be laid along a side without an error
    cube = case.normal(3, 1, 3, 3), case.normal(3, 1, 3, 3, salt=1), torch.tensor([0.2, 0.5, 0.8])
    for scheduler in _predictors(case):
        for x0, noise, t in (_noised(case, scheduler), cube):
            for name in ("add_noise", "target"):
                _expect_per_sample(name, getattr(scheduler, name), x0, noise, t)


def _expect_per_sample(name: str, function: Any, x0: Tensor, noise: Tensor, t: Tensor) -> None:
    together = function(x0, noise, t)
    alone = torch.cat([function(x0[i : i + 1], noise[i : i + 1], t[i : i + 1]) for i in range(len(t))])
    expect_close(together, alone, f"{name} of a batch is not that of its samples")
    scalar = function(x0, noise, t[0])
    expect_close(scalar, function(x0, noise, t[0].expand(len(x0))), f"{name} at a scalar time differs")


@contract.check
def conditioning_rises(case: Case) -> None:
    """What the denoiser is told of the time is finite and rises with it: each time has its own."""
    scheduler = case.build()
    t = _grid(scheduler)
    told = scheduler.conditioning(t)
    expect(told.shape == t.shape, f"times {list(t.shape)} become {list(told.shape)}")
    expect_finite(told, "the conditioning value")
    rising = (told.double().diff() > 0).all()
    expect(bool(rising), "two times are told as one, or in falling order")


@contract.check
def timesteps_known(case: Case) -> None:
    """A process of T steps takes every t = k / (T - 1), and any t between as the nearest step."""
    scheduler = case.build()
    if scheduler.timesteps is None:
        raise Skip("it is continuous")
    last = scheduler.timesteps - 1
    step = case.draw(st.integers(0, last), "step")
    exact = torch.tensor([step / last])
    for aside in (-0.4, 0.4):
        near = (exact + aside / last).clamp(0, 1)
        for one, other in zip(scheduler.coefficients(near), scheduler.coefficients(exact), strict=True):
            expect_close(one, other, f"t near step {step} is not taken as that step", rtol=0, atol=1e-7)
