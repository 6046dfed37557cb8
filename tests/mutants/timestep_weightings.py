"""Broken and sound timestep weightings."""

from __future__ import annotations

import torch

from mutants.catalogue import mutant, sound


@sound("timestep_weighting")
class Uniform:
    """Every time as likely, every one counts as much."""

    def sample(self, n, generator):
        return torch.rand(n, generator=generator)

    def weight(self, t, noise_scheduler):
        return torch.ones_like(t)


@sound("timestep_weighting")
class LogitNormal(Uniform):
    """Times in the middle are likelier (Stable Diffusion 3)."""

    def sample(self, n, generator):
        return torch.randn(n, generator=generator).sigmoid()


@sound("timestep_weighting")
class MinSnr(Uniform):
    """The signal-to-noise ratio counts to 5 at most; only for two predictions."""

    def weight(self, t, noise_scheduler):
        if noise_scheduler.prediction not in ("epsilon", "v"):
            raise ValueError(f"no weight for {noise_scheduler.prediction}")
        snr = noise_scheduler.snr(t)
        capped = snr.clamp(max=5)
        return capped / (snr if noise_scheduler.prediction == "epsilon" else snr + 1)


@sound("timestep_weighting")
class Stratified(Uniform):
    """One time in each of n equal parts, shuffled."""

    def sample(self, n, generator):
        parts = torch.randperm(n, generator=generator)
        return (parts + torch.rand(n, generator=generator)) / n


@sound("timestep_weighting")
class OffsetOfTheBatch(Uniform):
    """One offset for the batch, and equal strides from it around the circle (Kingma et al. 2021)."""

    def sample(self, n, generator):
        return (torch.rand(1, generator=generator) + torch.arange(n) / n) % 1


@sound("timestep_weighting")
class StepsOfATable(Uniform):
    """One of a thousand steps, drawn by its probability."""

    def __init__(self):
        self.probabilities = torch.linspace(0.5, 1.5, 1000)

    def sample(self, n, generator):
        return torch.multinomial(self.probabilities, n, replacement=True, generator=generator) / 999


@sound("timestep_weighting")
class KarrasWeight(Uniform):
    """Karras's lognormal levels and his weight, where variance grows; other processes are refused."""

    def sample(self, n, generator):
        sigma = (torch.randn(n, generator=generator) * 1.2 - 1.2).exp().clamp(0.002, 80)
        low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
        return ((sigma ** (1 / 7) - low) / (high - low)).clamp(0, 1)

    def weight(self, t, noise_scheduler):
        alpha, sigma = noise_scheduler.coefficients(t)
        if not (alpha == 1).all():
            raise ValueError("no weight where data do not keep their size")
        return (sigma**2 + 0.25) / (0.5 * sigma) ** 2


@sound("timestep_weighting")
class RatioAwayFromTheEnds(Uniform):
    """Times stop short of both ends, and so the ratio itself may be the weight."""

    def sample(self, n, generator):
        return 0.001 + 0.998 * torch.rand(n, generator=generator)

    def weight(self, t, noise_scheduler):
        return noise_scheduler.snr(t)


@sound("timestep_weighting")
class TruncatedRatio(Uniform):
    """The ratio, to 1 at most; a module with nothing to train."""

    def weight(self, t, noise_scheduler):
        return noise_scheduler.snr(t).clamp(max=1.0)


@sound("timestep_weighting")
class Debiased(Uniform):
    """1 / sqrt(SNR) (Yu et al. 2023): infinite at pure noise alone, which uniform times never are."""

    def weight(self, t, noise_scheduler):
        return noise_scheduler.snr(t).rsqrt()


@sound("timestep_weighting")
class NeverClean(Uniform):
    """Times above 0, the last included, and so the root of the ratio may be the weight."""

    def sample(self, n, generator):
        return 1 - torch.rand(n, generator=generator)

    def weight(self, t, noise_scheduler):
        return noise_scheduler.snr(t).sqrt()


@mutant("timestep_weighting", killed_by="times_in_range")
class StandardisedTimes(Uniform):
    """Times are standardised by the batch's deviation, which one time has not."""

    def sample(self, n, generator):
        t = super().sample(n, generator)
        return (0.5 + 0.25 * (t - t.mean()) / t.std()).clamp(0, 1)


@mutant("timestep_weighting", killed_by="generator_decides")
class FromTheSeedAlone(Uniform):
    """Times follow from the seed that the generator was given: every batch has the same."""

    def sample(self, n, generator):
        return torch.rand(n, generator=torch.Generator().manual_seed(generator.initial_seed()))


@mutant("timestep_weighting", killed_by="times_spread")
class StratifiedInOrder(Uniform):
    """One time in each of n equal parts, in their order: the first sample is always nearly clean."""

    def sample(self, n, generator):
        return (torch.arange(n) + torch.rand(n, generator=generator)) / n


@mutant("timestep_weighting", killed_by="weights_legal")
class OverTheRatio(StepsOfATable):
    """The weight divides by the ratio, which is zero at pure noise, the table's last step."""

    def weight(self, t, noise_scheduler):
        return 1 / noise_scheduler.snr(t).clamp(max=5)


@mutant("timestep_weighting", killed_by="weights_legal")
class RatioItself(Uniform):
    """The weight is the ratio, infinite where the data are clean: a time of 0 is drawn, if rarely."""

    def weight(self, t, noise_scheduler):
        return noise_scheduler.snr(t)


@mutant("timestep_weighting", killed_by="weights_per_time")
class MeanOfOne(Uniform):
    """The weights of a batch are scaled to a mean of 1."""

    def weight(self, t, noise_scheduler):
        capped = noise_scheduler.snr(t).clamp(max=5)
        return capped / capped.mean()


@mutant("timestep_weighting", killed_by="weights_per_time")
class ClampsTheTimes(Uniform):
    """Times are clamped away from the ends in the caller's memory."""

    def weight(self, t, noise_scheduler):
        return noise_scheduler.snr(t.clamp_(0.2, 0.8)).clamp(max=5)


@mutant("timestep_weighting", killed_by="times_in_range")
class StepsNotTimes(Uniform):
    """Integer timesteps are returned where times are meant."""

    def sample(self, n, generator):
        return torch.randint(1000, (n,), generator=generator)


@mutant("timestep_weighting", killed_by="times_in_range")
class NormalTimes(Uniform):
    """The logistic function is left out: times below 0 and above 1."""

    def sample(self, n, generator):
        return torch.randn(n, generator=generator)


@mutant("timestep_weighting", killed_by="times_in_range")
class OneTimeForTheBatch(Uniform):
    """One time is drawn for the whole batch."""

    def sample(self, n, generator):
        return torch.rand(1, generator=generator)


@mutant("timestep_weighting", killed_by="generator_decides")
class GlobalTimes(Uniform):
    """Times come from torch's global generator."""

    def sample(self, n, generator):
        return torch.rand(n)


@mutant("timestep_weighting", killed_by="generator_decides")
class SameTimesAlways(Uniform):
    """Times are the same whatever the generator."""

    def sample(self, n, generator):
        return torch.rand(n, generator=torch.Generator().manual_seed(0))


@mutant("timestep_weighting", killed_by="times_spread")
class SortedTimes(Uniform):
    """Times come in order."""

    def sample(self, n, generator):
        return super().sample(n, generator).sort().values


@mutant("timestep_weighting", killed_by="times_spread")
class NearlyOneTime(Uniform):
    """Times are scaled down by a thousand once too often."""

    def sample(self, n, generator):
        return super().sample(n, generator) / 1000


@mutant("timestep_weighting", killed_by="weights_legal")
class UncappedAtData(Uniform):
    """A difference of ratios falls below zero near noise."""

    def weight(self, t, noise_scheduler):
        return noise_scheduler.snr(t).clamp(max=5) - 1


@mutant("timestep_weighting", killed_by="weights_legal")
class MeanWeight(Uniform):
    """The batch's mean weight is returned, not one a time."""

    def weight(self, t, noise_scheduler):
        return noise_scheduler.snr(t).clamp(max=5).mean()


@mutant("timestep_weighting", killed_by="weights_legal")
class NoWeights(Uniform):
    """An integer division leaves weights of zero."""

    def weight(self, t, noise_scheduler):
        return torch.ones_like(t) * (1 // 5)


@mutant("timestep_weighting", killed_by="weights_legal")
class SoftWhereThereIsNoNoise(Uniform):
    """A weight that bends towards 5 is infinity by infinity where the data are clean."""

    def weight(self, t, noise_scheduler):
        snr = noise_scheduler.snr(t)
        return snr * 5 / (snr + 5)
