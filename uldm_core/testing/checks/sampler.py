"""The contract of samplers, by the exact denoiser of a Gaussian: what they should return is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from uldm_core.errors import UldmError
from uldm_core.protocols import Sampler
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.doubles import Path, circular, discrete, exploding, gaussian_denoiser, straight
from uldm_core.testing.expectations import Skip, expect, expect_close, expect_finite
from uldm_core.testing.strategies import normal

contract = Contract(build=lambda case: _sampler(case, 4), exercise=lambda case, built: _exercise(case, built))
MEAN, STD = 0.7, 0.5
STEPS = 64
DETERMINISTIC_ERROR, RANDOM_ERROR = 0.03, 0.08
ROUNDING = 2e-4
SEED = 1_000_003
"""Of what a sampler draws: no seed that noise is drawn by, or it would draw that noise again."""
CONTINUOUS = (straight, circular)
EVERY = (straight, circular, discrete, exploding)
PREDICTED = (lambda: discrete("epsilon"), lambda: discrete("sample"), lambda: exploding("sample"))
"""What a sampler that turns predictions into data by itself may get wrong."""
FARTHEST = {1: math.inf, 2: math.inf, 5: 1.0, 20: 0.4}
"""How far mean and deviation may be off with so many steps, in deviations of x_t at t = 1."""
LEFT = 0.018
"""How much noise may be left of 40 steps: less than the last one takes off, a 40th."""
FEW = 10
REFUSED = (ValueError, UldmError)


def _with_steps(case: Case, steps: int) -> Sampler:
    """Build the sampler for so many steps."""
    sampler: Sampler
    if case.subject.inferred("steps"):
        sampler = case.build(steps=steps)
        return sampler
    built = case.build()
    if not attrs.has(type(built)) or not hasattr(built, "steps"):
        raise Skip("its number of steps cannot be set")
    sampler = attrs.evolve(built, steps=steps)
    return sampler


def _sampler(case: Case, steps: int) -> Sampler:
    """Build the sampler for so many steps, or for its own number where that cannot be set."""
    try:
        sampler = _with_steps(case, steps)
    except Skip:
        sampler = case.build()
    return sampler


def _exercise(case: Case, sampler: Sampler) -> list[Tensor]:
    """Draw on every process that it takes."""
    drawn = []
    for path in (make() for make in EVERY):
        try:
            drawn.append(_draw(sampler, path, case.normal(2, 1, 2, 2)))
        except REFUSED:
            continue
    return drawn


def _noise() -> Tensor:
    """Return noise of mean 0 and variance 1 exactly, so that no luck of the draw is measured."""
    noise = _given(32, 2, 8, 8)
    return (noise - noise.mean()) / noise.std(correction=0)


def _given(*shape: int, salt: int = 0) -> Tensor:
    """Return noise that is the same in each example: what is not drawn is looked at once."""
    return normal(shape, 77 + salt)


def _draw(
    sampler: Sampler, path: Path, noise: Tensor, mean: float = MEAN, std: float = STD, seed: int = SEED
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    latents: Tensor = sampler(gaussian_denoiser(path, mean, std), path, noise, generator)
    return latents


def _paths(case: Case, paths: tuple[Callable[[], Path], ...] = EVERY) -> list[Path]:
    """Return the processes that the sampler takes; one that refuses a process says so by ``ValueError``."""
    taken = []
    for path in (make() for make in paths):
        try:
            _draw(_sampler(case, 4), path, _given(1, 1, 2, 2))
        except REFUSED:
            continue
        taken.append(path)
    expect(taken or paths != EVERY, "it takes no process: no flow, variance-preserving or -exploding one")
    return taken


def _random(case: Case, path: Path) -> bool:
    """Whether what it returns depends on the generator."""
    noise = _given(2, 1, 2, 2)
    first, second = (_draw(_sampler(case, 4), path, noise, seed=SEED + i) for i in (1, 2))
    return not torch.equal(first, second)


def _error(sampler: Sampler, path: Path, noise: Tensor) -> float:
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
    for path in _paths(case):
        for noise in (case.normal(case.batch(), 3, 2, 4), case.normal(1, 1, 5, 1), case.normal(2, 4, 3, 3)):
            kept = noise.clone()
            latents = _draw(_sampler(case, 3), path, noise)
            expect(latents.shape == noise.shape and latents.dtype == noise.dtype, "shape or dtype is another")
            expect_finite(latents, "what it returns")
            expect(torch.equal(noise, kept), "it writes into the noise")


@contract.check
def gaussian_recovered(case: Case) -> None:
    """With the exact denoiser of a Gaussian it returns that Gaussian, within a few percent.

    Also where variance grows, so that what it starts from is the noise times the deviation at t = 1; and
    whatever is predicted.
    """
    noise = _noise()
    for path in [*_paths(case), *_paths(case, PREDICTED)]:
        sampler = _sampler(case, STEPS)
        allowed = RANDOM_ERROR if _random(case, path) else DETERMINISTIC_ERROR
        if not case.subject.inferred("steps"):  # its own steps may be fewer
            allowed *= max(1.0, STEPS / len(_asked(sampler, path, noise[:1])))
        error = _error(sampler, path, noise)
        expect(
            error <= allowed,
            f"{path.shape} path, {path.prediction} predicted, {STEPS} steps: "
            f"mean and deviation are off by {error:.3g}",
        )


@contract.check
def few_steps(case: Case) -> None:
    """Few steps are coarse, not wild: it is stable where alpha is tiny, and where variance grows."""
    noise = _noise()
    for path in _paths(case):
        for steps, farthest in FARTHEST.items():
            try:
                latents = _draw(_with_steps(case, steps), path, noise)
            except REFUSED:
                expect(steps < 5, f"{steps} steps are refused")
                continue
            expect_finite(latents, f"{path.shape} path, {steps} steps: what it returns")
            error = _distance(latents)
            expect(
                error <= farthest * _spread(path),
                f"{path.shape} path, {steps} steps: mean and deviation are off by {error:.3g}",
            )


@contract.check
def few_timesteps(case: Case) -> None:
    """On a process of ten steps ten are good enough, and more are refused, or no worse."""
    noise = _noise()
    for path in _paths(case, (lambda: discrete(timesteps=FEW),)):
        for steps in (FEW, FEW + 1, 3 * FEW):
            try:
                latents = _draw(_with_steps(case, steps), path, noise)
            except REFUSED:
                expect(steps != FEW, f"of {FEW} timesteps {steps} are refused")
                continue
            expect_finite(latents, f"{FEW} timesteps, {steps} steps: what it returns")
            error = _distance(latents)
            expect(
                error <= FARTHEST[5],
                f"{FEW} timesteps, {steps} steps: mean and deviation are off by {error:.3g}",
            )


@contract.check
def converges(case: Case) -> None:
    """More steps bring it closer, at its ``order`` (1 unless it declares another)."""
    noise = _noise()
    for path in _paths(case, CONTINUOUS):
        few, many = (_error(_with_steps(case, steps), path, noise) for steps in (8, 32))
        if _random(case, path):
            expect(many <= max(few, RANDOM_ERROR), f"8 steps are off by {few:.3g}, 32 by {many:.3g}")
            continue
        order = getattr(_with_steps(case, 8), "order", 1)
        wanted = few / 4 ** (order - 0.35)
        expect(
            many <= max(wanted, ROUNDING) or _gains(case, path, noise) >= order - 0.35,
            f"{path.shape} path: 8 steps are off by {few:.3g}, 32 by {many:.3g}: "
            f"order {math.log(few / max(many, 1e-12), 4):.2f}, not {order}",
        )


def _gains(case: Case, path: Path, noise: Tensor) -> float:
    """Return the order as other numbers of steps have it: where errors cancel, two numbers deceive."""
    few, many = (_error(_with_steps(case, steps), path, noise) for steps in (12, 48))
    return math.log(few / max(many, ROUNDING), 4)


@contract.check
def steps_heeded(case: Case) -> None:
    """With more ``steps`` it asks the denoiser more often: that is what the option is for."""
    for path in _paths(case):
        few, many = (len(_asked(_with_steps(case, steps), path, _given(1, 1, 2, 2))) for steps in (4, 32))
        expect(many > few, f"for 4 steps it asks the denoiser {few} times, for 32 {many} times")


@contract.check
def ends_clean(case: Case) -> None:
    """Data that are all one point come out as that point: no noise is added, or left, at the last step.

    What a process itself leaves at t = 0 may be there, and what a sampler loses that asks for a slope there.
    """
    noise = _given(4, 2, 8, 8)
    for path in _paths(case):
        latents = _draw(_sampler(case, 40), path, noise, mean=MEAN, std=0.0)
        expect_finite(latents, f"{path.shape} path: what it returns")
        left = 1.5 * path.coefficients(torch.zeros(1))[1].item()
        error = (latents - MEAN).square().mean().sqrt().item()
        expect(
            error < LEFT + left, f"{path.shape} path: the point does not come out, it is off by {error:.3g}"
        )


@contract.check
def generator_decides(case: Case) -> None:
    """The generator alone decides what is random: torch's global state neither matters nor changes."""
    noise = _given(2, 1, 4, 4)
    for path in _paths(case):
        sampler = _sampler(case, 5)
        torch.manual_seed(1)
        first = _draw(sampler, path, noise)
        state = torch.get_rng_state()
        torch.manual_seed(1)
        expect(torch.equal(state, torch.get_rng_state()), "it draws from torch's global generator")
        torch.manual_seed(2)
        expect(torch.equal(_draw(sampler, path, noise), first), "the same generator gives other latents")
        same = _draw(sampler, path, torch.full((3, 1, 4, 4), 0.1))
        fresh = (same - same.mean()).abs().max().item() > 1e-4
        expect(not fresh or _random(case, path), "it adds noise that does not come from the generator")


@contract.check
def noise_decides(case: Case) -> None:
    """What it returns follows from the noise that it is given; no other noise takes its place.

    Fresh noise may make it forget where it came from, but not where the variance grows.
    """
    for path in _paths(case):
        if _random(case, path) and path.shape != "exploding":
            continue
        first, second = (_draw(_sampler(case, 2), path, _given(2, 1, 4, 4, salt=salt)) for salt in (0, 1))
        expect(not torch.equal(first, second), f"{path.shape} path: other noise gives the same latents")


@contract.check
def rows_apart(case: Case) -> None:
    """Each latent is drawn by itself: alone it comes out the same, and each value has noise of its own."""
    noise = _given(4, 2, 4, 4)
    noise[1:] *= 0.05
    for path in _paths(case):
        sampler = _sampler(case, 8)
        if _random(case, path):
            latents = _draw(sampler, path, torch.full((3, 2, 4, 4), 0.1))
            share = latents.unique().numel() / latents.numel()
            expect(share > 0.9, f"of the values that it adds noise to only {share:.0%} get one of their own")
        else:
            alone = _draw(sampler, path, noise[:1])
            otherwise = f"{path.shape} path: a latent changes with its batch mates"
            expect_close(_draw(sampler, path, noise)[:1], alone, otherwise, atol=0.02)


@contract.check
def grad_mode_free(case: Case) -> None:
    """It returns the same with gradients on, off and in inference mode, and no graph of its own making."""
    noise = _given(2, 1, 3, 4)
    for path in _paths(case):
        sampler = _sampler(case, 5)
        wanted = _draw(sampler, path, noise)
        expect(not wanted.requires_grad, "nothing asks for gradients, and what it returns has a graph")
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                actual = _draw(sampler, path, noise.clone())
            expect_close(actual, wanted, f"under torch.{mode.__name__} it returns other latents")


@contract.check
def times_fall(case: Case) -> None:
    """It asks the denoiser from noise to data: the first time is 1, none lies outside [0, 1]."""
    for path in _paths(case):
        asked = _asked(_sampler(case, 8), path, _given(2, 1, 2, 2))
        expect(min(asked) >= 0 and max(asked) <= 1, f"times reach from {min(asked):.3g} to {max(asked):.3g}")
        expect(asked[0] >= 0.999, f"the first time is {asked[0]:.3g}, though what it is given is noise")
        expect(max(asked) == asked[0], "it goes back to noise after it has begun")
        expect(asked[-1] < 0.5, f"it stops at {asked[-1]:.3g}, far from the data")


def _asked(sampler: Sampler, path: Path, noise: Tensor) -> list[float]:
    """Return the times at which the denoiser is asked."""
    asked = [t[0].item() for _, t in _questions(sampler, path, noise)]
    expect(asked, "it never asks the denoiser")
    return asked


def _questions(sampler: Sampler, path: Path, noise: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return what the denoiser is asked."""
    asked = []
    exact = gaussian_denoiser(path, MEAN, STD)

    def denoise(latents: Tensor, t: Tensor) -> Tensor:
        asked.append((latents, t))
        expect(
            t.shape == (len(latents),),
            f"the denoiser is given times {list(t.shape)} for {len(latents)} latents",
        )
        return exact(latents, t)

    sampler(denoise, path, noise, torch.Generator().manual_seed(SEED))
    return asked


@contract.check
def asks_in_kind(case: Case) -> None:
    """The denoiser is given latents of the noise's dtype and sides, and a float time for each."""
    noise = _given(2, 3, 2, 4)
    for path in _paths(case):
        for latents, t in _questions(_sampler(case, 4), path, noise):
            kinds = [str(each.dtype).removeprefix("torch.") for each in (latents, t)]
            expect(latents.shape[1:] == noise.shape[1:], f"{list(noise.shape)} becomes {list(latents.shape)}")
            expect(latents.dtype == noise.dtype, f"of float32 noise it makes {kinds[0]} for the denoiser")
            expect(t.is_floating_point(), f"the denoiser is given times of {kinds[1]}")


@contract.check
def no_steps_refused(case: Case) -> None:
    """0 steps, or fewer, are refused with a clear error, not answered with noise."""
    for path in _paths(case):
        for steps in (0, -1):
            try:
                latents = _draw(_with_steps(case, steps), path, _given(1, 1, 2, 2))
            except REFUSED:
                continue
            expect(False, f"{steps} steps are taken, and give {list(latents.shape)}")
