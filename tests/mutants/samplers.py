"""Broken and sound samplers."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import torch

from mutants.catalogue import mutant, sound


class Walk:
    """Steps from noise to data; a subclass says how one step is made."""

    def __init__(self, steps: int = 20):
        if steps < 1:
            raise ValueError(f"{steps} steps: at least 1 is needed")
        self.steps = steps

    def times(self):
        return torch.linspace(1, 0, self.steps + 1).tolist()

    def __call__(self, denoise, noise_scheduler, noise, generator):
        times = self.times()
        x = noise * self.spread(noise_scheduler)
        for now, then in itertools.pairwise(times):
            ask = SimpleNamespace(
                denoise=denoise, process=noise_scheduler, now=now, then=then, generator=generator
            )
            x = self.step(x, ask)
        return x

    def spread(self, process):
        """Return the deviation of what it starts from."""
        return math.hypot(*(c.item() for c in process.coefficients(torch.ones(1))))

    def step(self, x, ask):
        raise NotImplementedError

    def split(self, x, ask, at=None):
        t = x.new_full((len(x),), ask.now if at is None else at)
        return ask.process.split(ask.denoise(x, t), x, t)

    def level(self, ask, at, x):
        alpha, sigma = ask.process.coefficients(torch.tensor(at, dtype=x.dtype))
        return alpha.item(), sigma.item()


@sound("sampler")
class Ddim(Walk):
    """Split, and noise again to the next level."""

    def step(self, x, ask):
        x0, noise = self.split(x, ask)
        alpha, sigma = self.level(ask, ask.then, x)
        return alpha * x0 + sigma * noise


@sound("sampler")
class DdimOnCurvedTimes(Ddim):
    """More steps near the data."""

    def times(self):
        return (torch.linspace(1, 0, self.steps + 1) ** 1.5).tolist()


@sound("sampler")
class Ancestral(Walk):
    """DDPM's posterior, with its noise but at the last step."""

    def step(self, x, ask):
        x0, noise = self.split(x, ask)
        alpha, sigma = self.level(ask, ask.then, x)
        alpha_now, sigma_now = self.level(ask, ask.now, x)
        share = sigma * math.sqrt(max(0.0, 1 - (alpha_now * sigma / alpha / sigma_now) ** 2))
        fresh = torch.randn(x.shape, generator=ask.generator)
        return alpha * x0 + math.sqrt(max(0.0, sigma**2 - share**2)) * noise + share * fresh


@sound("sampler")
class Midpoint(Walk):
    """Two evaluations a step, the second in its middle; discrete processes, without slopes, are refused."""

    order = 2

    def __init__(self, steps: int = 20):
        super().__init__(steps)

    def step(self, x, ask):
        if ask.process.timesteps is not None:
            raise ValueError("it samples processes in continuous time")
        middle = (ask.now + ask.then) / 2
        half = self.moved(x, self.split(x, ask), ask, ask.now, middle)
        return self.moved(x, self.split(half, ask, middle), ask, ask.now, ask.then, (half, middle))

    def moved(self, x, pair, ask, start, end, seen=None):
        """Move x along the velocity that data and noise imply at where they were seen."""
        x0, noise = pair
        at = seen[1] if seen else start
        slope = [self.slope(ask, at, place) for place in (0, 1)]
        return x + (end - start) * (slope[0] * x0 + slope[1] * noise)

    def slope(self, ask, at, place):
        t = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        value = ask.process.coefficients(t)[place]
        return torch.autograd.grad(value, t)[0].item() if value.requires_grad else 0.0


@sound("sampler")
class EulerOnFlow(Walk):
    """Straight steps along the flow; other processes are refused."""

    def step(self, x, ask):
        if ask.process.prediction != "flow":
            raise ValueError(f"it samples flow models; this one predicts {ask.process.prediction}")
        return x + (ask.then - ask.now) * ask.denoise(x, x.new_full((len(x),), ask.now))


@mutant("sampler", killed_by="ends_clean")
class NoiseAfterTheLastStep(Ancestral):
    """Noise is added at the last step too."""

    def step(self, x, ask):
        fresh = 0.05 * torch.randn(x.shape, generator=ask.generator)
        return super().step(x, ask) + (fresh if ask.then == 0 else 0)


@mutant("sampler", killed_by="ends_clean")
class StopsAStepShort(Ddim):
    """It returns what it has before the last step is done."""

    def times(self):
        return torch.linspace(1, 0, self.steps + 2).tolist()[:-1]


@mutant("sampler", killed_by="gaussian_recovered")
class WrongSign(EulerOnFlow):
    """It walks against the flow."""

    def step(self, x, ask):
        return 2 * x - super().step(x, ask)


@mutant("sampler", killed_by="gaussian_recovered")
class OldCoefficients(Ddim):
    """The data are scaled by the present level, not the next."""

    def step(self, x, ask):
        x0, noise = self.split(x, ask)
        alpha, _ = self.level(ask, ask.now, x)
        _, sigma = self.level(ask, ask.then, x)
        return alpha * x0 + sigma * noise


@mutant("sampler", killed_by="gaussian_recovered")
class ClipsEveryStep(Ddim):
    """The predicted data are clipped to [-1, 1], which latents exceed."""

    def split(self, x, ask, at=None):
        x0, noise = super().split(x, ask, at)
        return x0.clamp(-1, 1), noise


@mutant("sampler", killed_by="gaussian_recovered")
class NoiseTwice(Ancestral):
    """Fresh noise is added, and the old is kept whole: too much of it at every level."""

    def step(self, x, ask):
        _, sigma = self.level(ask, ask.then, x)
        fresh = torch.randn(x.shape, generator=ask.generator)
        return super().step(x, ask) + 0.5 * sigma * fresh


@mutant("sampler", killed_by="gaussian_recovered")
class PredictionTakenForNoise(Ddim):
    """Whatever the denoiser predicts is taken for the noise."""

    def split(self, x, ask, at=None):
        t = x.new_full((len(x),), ask.now)
        noise = ask.denoise(x, t)
        alpha, sigma = self.level(ask, ask.now, x)
        return (x - sigma * noise) / max(alpha, 1e-2), noise


@mutant("sampler", killed_by="gaussian_recovered")
class UnitNoiseWhateverTheProcess(Ddim):
    """It starts from unit noise where the process has made its deviation 80."""

    def spread(self, process):
        return 1.0


@mutant("sampler", killed_by="few_steps")
class HeunInSigmaOverAlpha(Ddim):
    """Both slopes are averaged in sigma / alpha: where alpha is all but 0 the mean is anything."""

    def step(self, x, ask):
        ahead = super().step(x, ask)
        alpha, sigma = self.level(ask, ask.then, x)
        alpha_now, sigma_now = self.level(ask, ask.now, x)
        if ask.then == 0 or alpha_now == 0:
            return ahead
        noise = (self.split(x, ask)[1] + self.split(ahead, ask, ask.then)[1]) / 2
        return alpha / alpha_now * x + (sigma - sigma_now * alpha / alpha_now) * noise


@mutant("sampler", killed_by="converges")
class FirstOrderInDisguise(Ddim):
    """It declares the second order and has the first."""

    order = 2


@mutant("sampler", killed_by="converges")
class HeunWithOldSlope(Midpoint):
    """The second evaluation is made where the first was: two evaluations for nothing."""

    def step(self, x, ask):
        self.split(x, ask)
        return self.moved(x, self.split(x, ask), ask, ask.now, ask.then)


@mutant("sampler", killed_by="converges")
class TimeNextToRight(Ddim):
    """The denoiser is told a time a little below the true one, however short the steps."""

    def split(self, x, ask, at=None):
        t = x.new_full((len(x),), ask.now)
        return ask.process.split(ask.denoise(x, 0.95 * t), x, t)


@mutant("sampler", killed_by="times_fall")
class StartsBelowOne(Ddim):
    """The first level is a step below noise, though it starts from noise."""

    def times(self):
        return torch.linspace(1, 0, self.steps + 2).tolist()[1:]


@mutant("sampler", killed_by="times_fall")
class TimesInTimesteps(Ddim):
    """The denoiser is told timesteps out of a thousand."""

    def split(self, x, ask, at=None):
        ask.denoise(x, x.new_full((len(x),), 1000 * ask.now))
        return super().split(x, ask, at)


@mutant("sampler", killed_by="times_fall")
class FromDataToNoise(Ddim):
    """It goes through the times in rising order."""

    def times(self):
        return super().times()[::-1]


@mutant("sampler", killed_by="times_fall")
class OneTimeForTheBatch(Ddim):
    """The denoiser is given one time, not one a sample."""

    def split(self, x, ask, at=None):
        t = x.new_full((1,), ask.now)
        return ask.process.split(ask.denoise(x, t), x, t)


@mutant("sampler", killed_by="generator_decides")
class GlobalNoise(Ancestral):
    """Fresh noise comes from torch's global generator."""

    def step(self, x, ask):
        ask.generator = None
        return super().step(x, ask)


@mutant("sampler", killed_by="generator_decides")
class SeedsItself(Ancestral):
    """It makes the run reproducible by seeding torch for everyone."""

    def __call__(self, denoise, noise_scheduler, noise, generator):
        torch.manual_seed(generator.initial_seed())
        return super().__call__(denoise, noise_scheduler, noise, generator)


@mutant("sampler", killed_by="latents_of_noise")
class WritesIntoTheNoise(Ddim):
    """It works in the memory of the noise that it was given."""

    def __call__(self, denoise, noise_scheduler, noise, generator):
        return noise.copy_(super().__call__(denoise, noise_scheduler, noise, generator))


@mutant("sampler", killed_by="latents_of_noise")
class DividesByAlphaAtNoise(Ddim):
    """Data are found by dividing by alpha, which is zero at pure noise."""

    def split(self, x, ask, at=None):
        x0, noise = super().split(x, ask, at)
        alpha, sigma = (c.item() for c in ask.process.coefficients(torch.tensor(ask.now)))
        return (x - sigma * noise) / torch.tensor(alpha) if ask.now == 1 else x0, noise


@mutant("sampler", killed_by="latents_of_noise")
class DoublePrecisionOut(Ddim):
    """It computes in double precision and returns that."""

    def __call__(self, denoise, noise_scheduler, noise, generator):
        return super().__call__(denoise, noise_scheduler, noise, generator).double()


@mutant("sampler", killed_by="no_steps_refused")
class TakesNoSteps(Ddim):
    """0 steps give back the noise."""

    def __init__(self, steps: int = 20):
        super().__init__(max(steps, 1))
        self.steps = steps

    def times(self):
        return [] if not self.steps else super().times()
