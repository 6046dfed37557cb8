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
        fresh = torch.randn(x.shape, generator=ask.generator).to(x)
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
        with torch.inference_mode(False), torch.enable_grad():
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


@sound("sampler")
class KarrasChurn(Ddim):
    """Karras's stochastic sampler: only where variance grows; noise is stirred in before each step."""

    def step(self, x, ask):
        if self.level(ask, 1.0, x)[1] < 2:
            raise ValueError("it samples processes that let the variance grow")
        if 0.1 < ask.now < 0.9:
            _, sigma = self.level(ask, ask.now, x)
            stirred = ask.now + 0.02
            more = self.level(ask, stirred, x)[1] ** 2 - sigma**2
            x = x + math.sqrt(more) * torch.randn(x.shape, generator=ask.generator).to(x)
            ask.now = stirred
        return super().step(x, ask)


@sound("sampler")
class DiscreteOnly(Ancestral):
    """DDPM as it was written down: at the timesteps of a discrete process, and at no other."""

    def __call__(self, denoise, noise_scheduler, noise, generator):
        if noise_scheduler.timesteps is None:
            raise ValueError("it samples discrete processes")
        if self.steps > noise_scheduler.timesteps:
            raise ValueError("there are fewer timesteps")
        return super().__call__(denoise, noise_scheduler, noise, generator)


@sound("sampler")
class ThirtySteps(Ddim):
    """Its number of steps is its own affair."""

    def __init__(self):
        super().__init__(30)


@sound("sampler")
class HalfTheBatch(Ddim):
    """The denoiser is asked about half of the batch at a time."""

    def split(self, x, ask, at=None):
        halves = [super(HalfTheBatch, self).split(half, ask, at) for half in x.chunk(2)]
        return tuple(torch.cat(parts) for parts in zip(*halves, strict=True))


@sound("sampler")
class Restarts(Ancestral):
    """In the middle it goes back towards noise, once, and comes down again (Xu et al. 2023)."""

    def step(self, x, ask):
        x = super().step(x, ask)
        if ask.then <= 0.25 < ask.now:
            alpha, sigma = self.level(ask, ask.then, x)
            alpha_up, sigma_up = self.level(ask, ask.now, x)
            more = math.sqrt(max(0.0, sigma_up**2 - (alpha_up / alpha * sigma) ** 2))
            x = alpha_up / alpha * x + more * torch.randn(x.shape, generator=ask.generator).to(x)
            x = super().step(x, ask)
        return x


@sound("sampler")
class LastLevelKept(Ddim):
    """It ends at t = 0 as the process has it, which may be a little noisy: Stable Diffusion's DDIM."""

    def level(self, ask, at, x):
        alpha, sigma = ask.process.coefficients(torch.full((1,), at, dtype=x.dtype))
        return alpha.item(), sigma.item()


@sound("sampler")
class RungeKutta(EulerOnFlow):
    """Four slopes a step along the flow, the last of them at the step's end, be it t = 0."""

    order = 4

    def step(self, x, ask):
        half = (ask.then - ask.now) / 2

        def slope(x, t):
            moved = SimpleNamespace(**{**vars(ask), "now": t, "then": t + 1})
            return super(RungeKutta, self).step(x, moved) - x

        first = slope(x, ask.now)
        second = slope(x + half * first, ask.now + half)
        third = slope(x + half * second, ask.now + half)
        last = slope(x + 2 * half * third, ask.then)
        return x + half / 3 * (first + 2 * second + 2 * third + last)


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


@mutant("sampler", killed_by="few_steps")
class BothEndsByHand(Ddim):
    """Times are numbered from 0 to steps - 1, and divided by that."""

    def times(self):
        return [*(1 - 0.98 * k / (self.steps - 1) for k in range(self.steps)), 0.0]


@mutant("sampler", killed_by="generator_decides")
class GeneratorOfItsOwn(Ancestral):
    """Fresh noise comes from a generator of its own: every batch gets the same."""

    def __call__(self, denoise, noise_scheduler, noise, generator):
        own = torch.Generator().manual_seed(0)
        return super().__call__(denoise, noise_scheduler, noise, own)


@mutant("sampler", killed_by="generator_decides")
class SameStirEachTime(Ddim):
    """A little noise is stirred in, the same in each latent of each batch: its generator begins anew."""

    def __call__(self, denoise, noise_scheduler, noise, generator):
        own = torch.Generator().manual_seed(0)
        return super().__call__(denoise, noise_scheduler, noise, own)

    def step(self, x, ask):
        x0, noise = self.split(x, ask)
        alpha, sigma = self.level(ask, ask.then, x)
        fresh = torch.randn(x[:1].shape, generator=ask.generator).to(x)
        return alpha * x0 + sigma * (noise + 0.02 * fresh)


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


@mutant("sampler", killed_by="no_steps_refused")
class TakesLessThanNone(Ddim):
    """Of the steps only 0 is refused; a negative number gives back the noise."""

    def __init__(self, steps: int = 20):
        if steps == 0:
            raise ValueError("0 steps: at least 1 is needed")
        self.steps = steps

    def times(self):
        return super().times() if self.steps > 0 else []


@mutant("sampler", killed_by="gaussian_recovered")
class DataTakenForNoise(Ddim):
    """It knows epsilon, v and flow by name, and takes data that are predicted for noise."""

    def split(self, x, ask, at=None):
        x0, noise = super().split(x, ask, at)
        return (noise, x0) if ask.process.prediction == "sample" else (x0, noise)


@mutant("sampler", killed_by="gaussian_recovered")
class SameNoiseEachStep(Ancestral):
    """The generator is seeded anew before each step: the noise of all steps is one."""

    def step(self, x, ask):
        ask.generator.manual_seed(0)
        return super().step(x, ask)


@mutant("sampler", killed_by="few_timesteps")
class StrideOfWholeSteps(Ddim):
    """Timesteps are taken in whole strides: with more steps than half of them, none reaches the noise."""

    def __call__(self, denoise, noise_scheduler, noise, generator):
        self.timesteps = noise_scheduler.timesteps
        return super().__call__(denoise, noise_scheduler, noise, generator)

    def times(self):
        if self.timesteps != 10:
            return super().times()
        stride = self.timesteps // self.steps
        return [*(stride * k / self.timesteps for k in range(self.steps, 0, -1)), 0.0]


@mutant("sampler", killed_by="steps_heeded")
class AsManyAsItLikes(Ancestral):
    """The number of steps is checked, and then forgotten."""

    def __init__(self, steps: int = 20):
        super().__init__(steps)
        self.steps = 64


@mutant("sampler", killed_by="noise_decides")
class DrawsItsOwnNoise(Ddim):
    """It starts from noise of its own; what it is given is looked at for its shape."""

    def __call__(self, denoise, noise_scheduler, noise, generator):
        own = torch.randn(noise.shape, generator=generator, dtype=noise.dtype)
        return super().__call__(denoise, noise_scheduler, own, generator)


@mutant("sampler", killed_by="rows_apart")
class ClipsByTheBatch(Ddim):
    """Predicted data are clipped to three deviations, of the batch."""

    def split(self, x, ask, at=None):
        x0, noise = super().split(x, ask, at)
        reach = 3 * x0.std(correction=0).item()
        return x0.clamp(x0.mean().item() - reach, x0.mean().item() + reach), noise


@mutant("sampler", killed_by="rows_apart")
class OneNoiseForTheBatch(Ancestral):
    """Fresh noise is drawn once for all latents of a batch."""

    def step(self, x, ask):
        x0, noise = self.split(x, ask)
        alpha, sigma = self.level(ask, ask.then, x)
        fresh = torch.randn(x[:1].shape, generator=ask.generator).to(x)
        return alpha * x0 + sigma * (0.8 * noise + 0.6 * fresh)


@mutant("sampler", killed_by="rows_apart")
class OneNoiseForThePixels(Ancestral):
    """Fresh noise has one value for each latent."""

    def step(self, x, ask):
        x0, noise = self.split(x, ask)
        alpha, sigma = self.level(ask, ask.then, x)
        fresh = torch.randn((len(x), 1, 1, 1), generator=ask.generator).to(x)
        return alpha * x0 + sigma * (0.8 * noise + 0.6 * fresh)


@mutant("sampler", killed_by="grad_mode_free")
class SlopeByAutograd(Midpoint):
    """The slopes come from autograd, which is off where images are drawn: they are taken for 0 there."""

    def slope(self, ask, at, place):
        t = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        value = ask.process.coefficients(t)[place]
        return torch.autograd.grad(value, t)[0].item() if value.requires_grad else 0.0


@mutant("sampler", killed_by="grad_mode_free")
class LeavesItsGraph(Ddim):
    """It watches the latents for guidance, and returns them with the graph of every step."""

    def step(self, x, ask):
        return super().step(x if torch.is_inference_mode_enabled() else x.requires_grad_(), ask)


@mutant("sampler", killed_by="asks_in_kind")
class DoubleInside(Ddim):
    """It computes in double precision, and asks the denoiser in it."""

    def __call__(self, denoise, noise_scheduler, noise, generator):
        return super().__call__(denoise, noise_scheduler, noise.double(), generator).to(noise.dtype)


@mutant("sampler", killed_by="works_elsewhere")
class GeneratorElsewhere(Ancestral):
    """Noise is drawn where the latents are, from a generator that is on the CPU."""

    def step(self, x, ask):
        torch.randn(x.shape, generator=ask.generator, device=x.device)
        return super().step(x, ask)
