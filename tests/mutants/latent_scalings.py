"""Broken and sound latent scalings."""

from __future__ import annotations

import torch
from torch import nn

from mutants.catalogue import mutant, sound


@sound("latent_scaling")
class Global(nn.Module):
    """One mean and one deviation of all latents."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def fit(self, batches):
        values = torch.cat(list(batches))
        self.mean, self.std = self.measured(values)

    def measured(self, values):
        return values.mean(), values.std()

    def normalize(self, latents):
        return (latents - self.mean) / self.std

    def denormalize(self, latents):
        return latents * self.std + self.mean


@sound("latent_scaling")
class PerChannel(Global):
    """A mean and a deviation of each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.mean, self.std = torch.zeros(channels, 1, 1), torch.ones(channels, 1, 1)

    def measured(self, values):
        return values.mean((0, 2, 3))[:, None, None], values.std((0, 2, 3))[:, None, None]


@sound("latent_scaling")
class OneFactor(Global):
    """Scaled by one factor, not centred: as latent-diffusion does."""

    def measured(self, values):
        return torch.zeros(()), values.std()


@sound("latent_scaling", unit_variance="it leaves latents as they are")
class Identity(nn.Module):
    """No scaling at all, said to be so."""

    def fit(self, batches):
        list(batches)

    def normalize(self, latents):
        return latents

    denormalize = normalize

    def extra_repr(self):
        return "nothing"


@mutant("latent_scaling", killed_by="unit_variance")
class VarianceForDeviation(Global):
    """It divides by the variance."""

    def measured(self, values):
        return values.mean(), values.var()


@mutant("latent_scaling", killed_by="unit_variance")
class MeanAfterScaling(Global):
    """The mean is taken off after scaling, and put back so."""

    def normalize(self, latents):
        return latents / self.std - self.mean

    def denormalize(self, latents):
        return (latents + self.mean) * self.std


@mutant("latent_scaling", killed_by="unit_variance")
class FirstBatchOnly(Global):
    """Only the first sample is measured."""

    def fit(self, batches):
        super().fit([next(iter(batches))[:1]])


@mutant("latent_scaling", killed_by="inverse")
class InverseInTheWrongOrder(Global):
    """The mean is added before scaling back."""

    def denormalize(self, latents):
        return (latents + self.mean) * self.std


@mutant("latent_scaling", killed_by="inverse")
class DivideByScaleTwice(Global):
    """Scaling back divides, as scaling does."""

    def denormalize(self, latents):
        return latents / self.std + self.mean


@mutant("latent_scaling", killed_by="cut_independent")
class MeanOfDeviations(Global):
    """The deviations of batches are averaged."""

    def fit(self, batches):
        pairs = [(batch.mean(), batch.std()) for batch in batches]
        self.mean, self.std = (torch.stack(values).mean() for values in zip(*pairs, strict=True))


@mutant("latent_scaling", killed_by="refits")
class RunningAverage(Global):
    """A second fit is averaged with the first."""

    fitted = False

    def fit(self, batches):
        before = self.mean, self.std
        super().fit(batches)
        if self.fitted:
            self.mean, self.std = (self.mean + before[0]) / 2, (self.std + before[1]) / 2
        self.fitted = True


@mutant("latent_scaling", killed_by="fit_saved")
class NotSaved(Global):
    """The fit is no part of the state."""

    def __init__(self):
        super().__init__()
        del self.mean, self.std
        self.register_buffer("mean", torch.zeros(()), persistent=False)
        self.register_buffer("std", torch.ones(()), persistent=False)
