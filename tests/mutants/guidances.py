"""Broken and sound guidance."""

from __future__ import annotations

import math

import torch

from mutants.catalogue import mutant, sound


class Weighted:
    """A weight, an interval, and where it acts; subclasses choose the two predictions."""

    def __init__(self):
        self.weight = 2.0
        self.interval = None

    def __call__(self, models, noise_scheduler):
        if self.weight == 1:
            return lambda latents, t: models.predict(latents, t, models.condition)
        self.require(models)

        def denoise(latents, t):
            if not self.acts(noise_scheduler, t):
                return models.predict(latents, t, models.condition)
            return self.combined(*self.pair(models, latents, t), noise_scheduler, latents, t)

        return denoise

    def acts(self, noise_scheduler, t):
        if self.interval is None:
            return True
        alpha, sigma = (c[0].item() for c in noise_scheduler.coefficients(t))
        low, high = self.interval
        return low <= (sigma / alpha if alpha else math.inf) <= high

    def combined(self, worse, better, noise_scheduler, latents, t):
        return better + (self.weight - 1) * (better - worse)

    def require(self, models):
        if models.weaker is None:
            raise ValueError("no weaker model")

    def pair(self, models, latents, t):
        return models.weaker(latents, t, models.condition), models.predict(latents, t, models.condition)


class ByCondition(Weighted):
    """Away from the prediction without condition."""

    def require(self, models):
        if models.condition is None:
            raise ValueError("no condition")

    def pair(self, models, latents, t):
        conditions = torch.cat([torch.full_like(models.condition, models.untold), models.condition])
        return models.predict(latents.repeat(2, 1, 1, 1), t.repeat(2), conditions).chunk(2)


@sound("guidance")
class WeakerModel(Weighted):
    """Away from a weaker model."""


@sound("guidance")
class WithoutCondition(ByCondition):
    """Away from the prediction without condition; classes are not asked for."""


@sound("guidance")
class TheDenoiser:
    """No guidance."""

    def __call__(self, models, noise_scheduler):
        return lambda latents, t: models.predict(latents, t, models.condition)


@sound("guidance")
class FixedStrength:
    """A strength that is nobody's to set, everywhere."""

    def __call__(self, models, noise_scheduler):
        if models.weaker is None:
            raise ValueError("no weaker model")

        def denoise(latents, t):
            better = models.predict(latents, t, models.condition)
            return 2 * better - models.weaker(latents, t, models.condition)

        return denoise


@sound("guidance")
class FromBoth(ByCondition):
    """Away from the mean of the weaker model and of the prediction without condition."""

    def require(self, models):
        super().require(models)
        if models.weaker is None:
            raise ValueError("no weaker model")

    def pair(self, models, latents, t):
        untold, better = super().pair(models, latents, t)
        return (untold + models.weaker(latents, t, models.condition)) / 2, better


@sound("guidance")
class StrongerAtTheStart(Weighted):
    """The strength falls with the noise."""

    def combined(self, worse, better, noise_scheduler, latents, t):
        alpha, sigma = (c.view(-1, 1, 1, 1) for c in noise_scheduler.coefficients(t))
        return better + (self.weight - 1) * sigma / (alpha + sigma) * (better - worse)


@mutant("guidance", killed_by="prediction_of_latents")
class BackThroughTheNoise(Weighted):
    """Data are guided, and the noise that goes with them is divided out: nan where there is none."""

    def combined(self, worse, better, noise_scheduler, latents, t):
        first, second = (noise_scheduler.split(each, latents, t)[0] for each in (worse, better))
        data = super().combined(first, second, noise_scheduler, latents, t)
        alpha, sigma = (c.view(-1, 1, 1, 1) for c in noise_scheduler.coefficients(t))
        return noise_scheduler.target(data, (latents - alpha * data) / sigma, t)


@mutant("guidance", killed_by="prediction_of_latents")
class InDouble(Weighted):
    """It computes in double precision and leaves it so."""

    def combined(self, worse, better, noise_scheduler, latents, t):
        return super().combined(worse.double(), better.double(), noise_scheduler, latents, t)


@mutant("guidance", killed_by="weight_of_one")
class AlwaysBoth(Weighted):
    """With weight 1 both are called all the same."""

    def __call__(self, models, noise_scheduler):
        self.require(models)
        return lambda latents, t: self.at(models, noise_scheduler, latents, t)

    def at(self, models, noise_scheduler, latents, t):
        if not self.acts(noise_scheduler, t):
            return models.predict(latents, t, models.condition)
        return self.combined(*self.pair(models, latents, t), noise_scheduler, latents, t)


@mutant("guidance", killed_by="interval_of_noise_levels")
class IntervalOfTimes(Weighted):
    """The interval is taken for one of times."""

    def acts(self, noise_scheduler, t):
        return self.interval is None or self.interval[0] <= t[0].item() <= self.interval[1]


@mutant("guidance", killed_by="interval_of_noise_levels")
class EndsLeftOut(Weighted):
    """The interval's ends do not belong to it."""

    def acts(self, noise_scheduler, t):
        alpha, sigma = (c[0].item() for c in noise_scheduler.coefficients(t))
        return self.interval is None or self.interval[0] < sigma / alpha < self.interval[1]


@mutant("guidance", killed_by="interval_of_noise_levels")
class WeightsByTheInterval(Weighted):
    """Outside of the interval the weaker model is called and counts nothing."""

    def acts(self, noise_scheduler, t):
        return True

    def combined(self, worse, better, noise_scheduler, latents, t):
        inside = super().acts(noise_scheduler, t)
        return super().combined(worse, better, noise_scheduler, latents, t) if inside else better


@mutant("guidance", killed_by="equal_models")
class LessContrast(Weighted):
    """Against too bright samples all data are taken down by three percent, guided far or not at all."""

    def combined(self, worse, better, noise_scheduler, latents, t):
        guided = super().combined(worse, better, noise_scheduler, latents, t)
        data = noise_scheduler.split(guided, latents, t)[0]
        alpha, sigma = (c.view(-1, 1, 1, 1) for c in noise_scheduler.coefficients(t))
        ratio = torch.where(sigma > 0, alpha / sigma, 0.0)
        return guided + noise_scheduler.target(-0.03 * data, 0.03 * ratio * data, t)


@mutant("guidance", killed_by="leads_away")
class TowardsTheWorse(Weighted):
    """The difference has the wrong sign."""

    def combined(self, worse, better, noise_scheduler, latents, t):
        return better - (self.weight - 1) * (better - worse)


@mutant("guidance", killed_by="leads_away")
class WeightLessThanOneIsNone(Weighted):
    """A weight below 1 is taken for none."""

    def combined(self, worse, better, noise_scheduler, latents, t):
        return better + max(0.0, self.weight - 1) * (better - worse)


@mutant("guidance", killed_by="leads_away")
class WeightAsBuilt(Weighted):
    """The weight is that of the constructor, whatever is set afterwards."""

    def combined(self, worse, better, noise_scheduler, latents, t):
        return better + (better - worse)


@mutant("guidance", killed_by="same_data_whatever_is_predicted")
class ProjectsThePrediction(ByCondition):
    """What is taken off lies along the prediction, which is noise or a velocity, not along the data."""

    def combined(self, worse, better, noise_scheduler, latents, t):
        along = torch.nn.functional.normalize(better, dim=(1, 2, 3))
        difference = better - worse
        parallel = (difference * along).sum((1, 2, 3), keepdim=True) * along
        return better + (self.weight - 1) * (difference - 0.9 * parallel)


@mutant("guidance", killed_by="samples_independent")
class LessTheMeanOfTheBatch(Weighted):
    """Some of what the batch's differences have in common is taken off each."""

    def combined(self, worse, better, noise_scheduler, latents, t):
        difference = better - worse
        return better + (self.weight - 1) * (difference - 0.2 * difference.mean(0))


@mutant("guidance", killed_by="batches_independent")
class OneMomentumForAll(Weighted):
    """Its momentum starts anew with each batch, and all that are drawn at one time share it."""

    def __call__(self, models, noise_scheduler):
        self.average = 0
        return super().__call__(models, noise_scheduler)

    def combined(self, worse, better, noise_scheduler, latents, t):
        self.average = better - worse - 0.5 * self.average
        return better + (self.weight - 1) * self.average


@mutant("guidance", killed_by="condition_passed_on")
class WeakerWithoutClass(Weighted):
    """The weaker model is not told the class."""

    def pair(self, models, latents, t):
        return models.weaker(latents, t, None), models.predict(latents, t, models.condition)


@mutant("guidance", killed_by="condition_passed_on")
class UntoldByAnotherIndex(ByCondition):
    """ "Not told" is the index beyond the one that means it."""

    def pair(self, models, latents, t):
        conditions = torch.cat([torch.full_like(models.condition, models.untold + 1), models.condition])
        return models.predict(latents.repeat(2, 1, 1, 1), t.repeat(2), conditions).chunk(2)


@mutant("guidance", killed_by="one_batch")
class TwoCalls(ByCondition):
    """The two predictions of the denoiser are two calls."""

    def pair(self, models, latents, t):
        untold = torch.full_like(models.condition, models.untold)
        return models.predict(latents, t, untold), models.predict(latents, t, models.condition)


@mutant("guidance", killed_by="lacking_models_refused")
class RefusesLate(Weighted):
    """That there is no weaker model shows at the first prediction."""

    def require(self, models):
        pass


@mutant("guidance", killed_by="lacking_models_refused")
class GuidesByNothing(Weighted):
    """Without a weaker model it is the denoiser, and does not say so."""

    def require(self, models):
        pass

    def pair(self, models, latents, t):
        better = models.predict(latents, t, models.condition)
        return models.weaker(latents, t, models.condition) if models.weaker else better, better
