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
        return values.mean((0, 2, 3))[:, None, None], values.std((0, 2, 3))[:, None, None].clamp(min=1e-6)


@sound("latent_scaling")
class OneFactor(Global):
    """Scaled by one factor, not centred: as latent-diffusion does."""

    def measured(self, values):
        return torch.zeros(()), values.std()


@sound("latent_scaling")
class Whitening(nn.Module):
    """Channels are made uncorrelated as well: a full matrix, there and back."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("inward", torch.eye(channels))
        self.register_buffer("outward", torch.eye(channels))

    @torch.no_grad()
    def fit(self, batches):
        values = torch.cat([batch.double().transpose(0, 1).flatten(1) for batch in batches], 1)
        variances, axes = torch.linalg.eigh(torch.cov(values))
        roots = variances.clamp(min=1e-6).sqrt()
        self.mean.copy_(values.mean(1))
        self.inward.copy_(axes @ (1 / roots).diag() @ axes.T)
        self.outward.copy_(axes @ roots.diag() @ axes.T)

    def normalize(self, latents):
        return torch.einsum("ij,bjhw->bihw", self.inward, latents - self.mean.view(-1, 1, 1))

    def denormalize(self, latents):
        return torch.einsum("ij,bjhw->bihw", self.outward, latents) + self.mean.view(-1, 1, 1)


@sound("latent_scaling")
class WantsToBeFitted(Global):
    """What was not fitted scales nothing, and says so."""

    def __init__(self):
        super().__init__()
        self.std.zero_()

    def normalize(self, latents):
        if self.std == 0:
            raise RuntimeError("fit it first")
        return super().normalize(latents)


@sound("latent_scaling")
class StateByHand:
    """No module: it keeps two numbers, and has a state of its own."""

    def __init__(self):
        self.mean, self.std = torch.zeros(()), torch.ones(())

    def fit(self, batches):
        values = torch.cat([batch.double().flatten() for batch in batches])
        self.mean, self.std = values.mean().float(), values.std().float()

    def normalize(self, latents):
        return (latents - self.mean.to(latents)) / self.std.to(latents)

    def denormalize(self, latents):
        return latents * self.std.to(latents) + self.mean.to(latents)

    def state_dict(self):
        return {"mean": self.mean, "std": self.std}

    def load_state_dict(self, state):
        self.mean, self.std = state["mean"], state["std"]


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


@mutant("latent_scaling", killed_by="far_from_zero")
class SumsInSinglePrecision(Global):
    """The variance is the mean square less the squared mean, in single precision."""

    def measured(self, values):
        mean = values.float().mean()
        return mean, (values.float().square().mean() - mean.square()).clamp(min=1e-12).sqrt()


@mutant("latent_scaling", killed_by="constant_channel")
class DividesByZero(PerChannel):
    """A channel without spread is divided by its deviation, 0."""

    def measured(self, values):
        return values.mean((0, 2, 3))[:, None, None], values.std((0, 2, 3))[:, None, None]


@mutant("latent_scaling", killed_by="cut_independent")
class BatchesCountAlike(Global):
    """Means and mean squares of batches are averaged, whatever their size."""

    def fit(self, batches):
        moments = [(batch.double().mean(), batch.double().square().mean()) for batch in batches]
        mean, square = (torch.stack(values).mean() for values in zip(*moments, strict=True))
        self.mean, self.std = mean.float(), (square - mean**2).sqrt().float()


@mutant("latent_scaling", killed_by="read_once")
class TwoPasses(Global):
    """Batches are gone through for the mean, and again for the deviation."""

    def fit(self, batches):
        mean = torch.cat([batch.flatten() for batch in batches]).mean()
        squares = [(batch - mean).square().flatten() for batch in batches]
        self.mean, self.std = mean, torch.cat([*squares, torch.zeros(0)]).mean().sqrt().nan_to_num(1.0)


@mutant("latent_scaling", killed_by="inverse")
class ClipsOutliers(Global):
    """What is farther off than ten deviations is clipped."""

    def normalize(self, latents):
        return super().normalize(latents).clamp(-10, 10)


@mutant("latent_scaling", killed_by="inverse")
class MomentsOfTheBatch(Global):
    """Each batch is scaled by its own moments, as batch norm does in training."""

    def normalize(self, latents):
        return (latents - latents.mean()) / (latents.std() + 1e-6)


@mutant("latent_scaling", killed_by="precision_kept")
class MomentsInDouble(PerChannel):
    """Moments stay in double precision, and make what they scale so."""

    def measured(self, values):
        return super().measured(values.double())


@mutant("latent_scaling", killed_by="latents_left_alone")
class DenormalizesInPlace(Global):
    """Samples are scaled back in their own memory."""

    def denormalize(self, latents):
        return latents.mul_(self.std).add_(self.mean)


@mutant("latent_scaling", killed_by="refits")
class FirstFitKept(Global):
    """What was fitted once is not fitted again."""

    fitted = False

    def fit(self, batches):
        if not self.fitted:
            super().fit(batches)
        self.fitted = True


@mutant("latent_scaling", killed_by="fit_saved")
class PlainNumbers:
    """No module and no state: what it was fitted to ends with the process."""

    def fit(self, batches):
        values = torch.cat(list(batches)).double()
        self.mean, self.std = values.mean().item(), values.std().item()

    def normalize(self, latents):
        return (latents - self.mean) / self.std

    def denormalize(self, latents):
        return latents * self.std + self.mean
