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
