"""The contract of samplers, by the exact denoiser of a Gaussian: what they should return is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from uldm_core.errors import UldmError
from uldm_core.testing.case import Case
from uldm_core.testing.contract import Contract, Skip, expect, expect_close, expect_finite
from uldm_core.testing.doubles import Path, circular, discrete, exploding, gaussian_denoiser, straight

contract = Contract()
MEAN, STD = 0.7, 0.5
STEPS = 64
DETERMINISTIC_ERROR, RANDOM_ERROR = 0.03, 0.08
ROUNDING = 2e-4
CONTINUOUS = (straight, circular)
EVERY = (straight, circular, discrete, exploding)
FARTHEST = {2: math.inf, 5: 1.0, 20: 0.4}
"""How far mean and deviation may be off with so many steps, in deviations of x_t at t = 1."""


def _with_steps(case: Case, steps: int) -> Any:
    """Build the sampler for so many steps."""
    if case.subject.takes("steps"):
        return case.build(steps=steps)
    sampler = case.build()
    if not attrs.has(type(sampler)) or not hasattr(sampler, "steps"):
        raise Skip("its number of steps cannot be set")
    return attrs.evolve(sampler, steps=steps)


def _noise(case: Case) -> Tensor:
    """Return noise of mean 0 and variance 1 exactly, so that no luck of the draw is measured."""
    noise = case.normal(32, 2, 8, 8)
    return (noise - noise.mean()) / noise.std(correction=0)


def _draw(
    sampler: Any, path: Path, noise: Tensor, mean: float = MEAN, std: float = STD, seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    latents: Tensor = sampler(gaussian_denoiser(path, mean, std), path, noise, generator)
    return latents


def _paths(case: Case, paths: tuple[Callable[[], Path], ...] = CONTINUOUS) -> list[Path]:
    """Return the processes that the sampler takes; one that refuses a process says so by ``ValueError``."""
    taken = []
    for path in (make() for make in paths):
        try:
            _draw(_with_steps(case, 2), path, case.normal(1, 1, 2, 2))
        except ValueError:
            continue
        taken.append(path)
    expect(taken, "it takes neither the flow process nor a variance-preserving one")
    return taken


def _random(case: Case, path: Path) -> bool:
    """Whether what it returns depends on the generator."""
    noise = case.normal(2, 1, 2, 2)
    first, second = (_draw(_with_steps(case, 4), path, noise, seed=seed) for seed in (1, 2))
    return not torch.equal(first, second)


def _error(sampler: Any, path: Path, noise: Tensor) -> float:
    return _distance(_draw(sampler, path, noise))


def _spread(path: Path) -> float:
    """Return the deviation of what a sampler starts from: 1 unless the process lets it grow."""
    alpha, sigma = path.coefficients(torch.ones(1))
    return math.hypot(alpha.item(), sigma.item())


def _distance(latents: Tensor) -> float:
    latents = latents.double()
    return abs(latents.mean().item() - MEAN) + abs(latents.std(correction=0).item() - STD)


@contract.check
def latents_of_noise(case: Case) -> None:
    """It returns finite latents of the noise's shape and dtype, and leaves the noise as it was."""
    noise = case.normal(case.batch(), 3, 2, 4)
    for path in _paths(case):
        kept = noise.clone()
        latents = _draw(_with_steps(case, 3), path, noise)
        expect(latents.shape == noise.shape and latents.dtype == noise.dtype, "shape or dtype is another")
        expect_finite(latents, "what it returns")
        expect(torch.equal(noise, kept), "it writes into the noise")


@contract.check
def gaussian_recovered(case: Case) -> None:
    """With the exact denoiser of a Gaussian it returns that Gaussian, within a few percent.

    Also where variance grows, so that what it starts from is the noise times the deviation at t = 1.
    """
    noise = _noise(case)
    for path in _paths(case, EVERY):
        allowed = RANDOM_ERROR if _random(case, path) else DETERMINISTIC_ERROR
        error = _error(_with_steps(case, STEPS), path, noise)
        expect(
            error <= allowed, f"{path.shape} path, {STEPS} steps: mean and deviation are off by {error:.3g}"
        )


@contract.check
def few_steps(case: Case) -> None:
    """Few steps are coarse, not wild: it is stable where alpha is tiny, and where variance grows."""
    noise = _noise(case)
    for path in _paths(case, EVERY):
        for steps, farthest in FARTHEST.items():
            latents = _draw(_with_steps(case, steps), path, noise)
            expect_finite(latents, f"{path.shape} path, {steps} steps: what it returns")
            error = _distance(latents)
            expect(
                error <= farthest * _spread(path),
                f"{path.shape} path, {steps} steps: mean and deviation are off by {error:.3g}",
            )


@contract.check
def converges(case: Case) -> None:
    """More steps bring it closer, at its ``order`` (1 unless it declares another)."""
    noise = _noise(case)
    for path in _paths(case):
        few, many = (_error(_with_steps(case, steps), path, noise) for steps in (8, 32))
        if _random(case, path):
            expect(many <= max(few, RANDOM_ERROR), f"8 steps are off by {few:.3g}, 32 by {many:.3g}")
            continue
        order = getattr(_with_steps(case, 8), "order", 1)
        wanted = few / 4 ** (order - 0.35)
        expect(
            many <= max(wanted, ROUNDING),
            f"{path.shape} path: 8 steps are off by {few:.3g}, 32 by {many:.3g}: "
            f"order {math.log(few / max(many, 1e-12), 4):.2f}, not {order}",
        )


@contract.check
def ends_clean(case: Case) -> None:
    """Data that are all one point come out as that point: no noise is added, or left, at the last step."""
    noise = case.normal(4, 1, 4, 4)
    for path in _paths(case):
        latents = _draw(_with_steps(case, 40), path, noise, mean=MEAN, std=0.0)
        wanted = torch.full_like(latents, MEAN)
        expect_close(latents, wanted, f"{path.shape} path: the point does not come out", atol=2e-3)


@contract.check
def generator_decides(case: Case) -> None:
    """The generator alone decides what is random: torch's global state neither matters nor changes."""
    noise = case.normal(2, 1, 4, 4)
    for path in _paths(case):
        sampler = _with_steps(case, 5)
        torch.manual_seed(1)
        first = _draw(sampler, path, noise, seed=7)
        state = torch.get_rng_state()
        torch.manual_seed(1)
        expect(torch.equal(state, torch.get_rng_state()), "it draws from torch's global generator")
        torch.manual_seed(2)
        expect(
            torch.equal(_draw(sampler, path, noise, seed=7), first), "the same generator gives other latents"
        )


@contract.check
def times_fall(case: Case) -> None:
    """It asks the denoiser from noise to data: the first time is 1, none lies outside [0, 1]."""
    for path in _paths(case):
        asked = _asked(_with_steps(case, 8), path, case.normal(2, 1, 2, 2))
        expect(min(asked) >= 0 and max(asked) <= 1, f"times reach from {min(asked):.3g} to {max(asked):.3g}")
        expect(asked[0] >= 0.999, f"the first time is {asked[0]:.3g}, though what it is given is noise")
        expect(max(asked) == asked[0], "it goes back to noise after it has begun")
        expect(asked[-1] < 0.5, f"it stops at {asked[-1]:.3g}, far from the data")


def _asked(sampler: Any, path: Path, noise: Tensor) -> list[float]:
    """Return the times at which the denoiser is asked."""
    asked: list[float] = []
    exact = gaussian_denoiser(path, MEAN, STD)

    def denoise(latents: Tensor, t: Tensor) -> Tensor:
        expect(
            t.shape == (len(latents),),
            f"the denoiser is given times {list(t.shape)} for {len(latents)} latents",
        )
        asked.append(t[0].item())
        return exact(latents, t)

    sampler(denoise, path, noise, torch.Generator().manual_seed(0))
    expect(asked, "it never asks the denoiser")
    return asked


@contract.check
def no_steps_refused(case: Case) -> None:
    """0 steps are refused with a clear error, not answered with noise."""
    try:
        latents = _draw(_with_steps(case, 0), straight(), case.normal(1, 1, 2, 2))
    except (ValueError, UldmError):
        return
    expect(False, f"0 steps are taken, and give {list(latents.shape)}")
