"""Broken and sound metrics."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mutants.catalogue import mutant, sound


@sound("metric")
class KernelDistance:
    """The squared maximum mean discrepancy of small images, by a Gaussian kernel."""

    compares = True
    description = {"features": "7x7 thumbnails"}

    def __init__(self):
        self.kept = {True: [], False: []}

    def reset(self, *, keep_real: bool = False):
        self.kept = {True: self.kept[True] if keep_real else [], False: []}

    def update(self, images, *, real):
        self.kept[real].append(self.features(images))

    def features(self, images):
        return F.adaptive_avg_pool2d(images.double() / 255, 7).flatten(1)

    def gathered(self):
        return torch.cat(self.kept[True]), torch.cat(self.kept[False])

    def compute(self):
        real, fake = self.gathered()
        return {"mmd": float(kernel(real, real) + kernel(fake, fake) - 2 * kernel(real, fake))}


def kernel(one, other):
    return (-torch.cdist(one, other).square()).exp().mean()


@sound("metric")
class Coverage(KernelDistance):
    """The share of real images that have a fake one nearby: higher is better."""

    higher_is_better = True

    def compute(self):
        real, fake = self.gathered()
        apart = torch.cdist(real, fake).min(1).values
        return {"coverage": float((apart < 0.05).double().mean())}


@sound("metric")
class Brightness(KernelDistance):
    """The mean brightness of the fake images: it needs no real ones."""

    compares = False

    def compute(self):
        return {"brightness": float(torch.cat(self.kept[False]).mean())}


@sound("metric")
class Moments:
    """Sums only, no images kept: the distance of means and of mean squares."""

    compares = True
    description = {"features": "pixels"}

    def __init__(self):
        self.sums = {}

    def reset(self, *, keep_real: bool = False):
        self.sums = {True: self.sums[True]} if keep_real and True in self.sums else {}

    def update(self, images, *, real):
        pixels = images.double() / 255
        new = torch.stack([pixels.sum(0), pixels.square().sum(0)]), len(images)
        old = self.sums.get(real, (0.0, 0))
        self.sums[real] = (old[0] + new[0], old[1] + new[1])

    def compute(self):
        real, fake = (self.sums[which][0] / self.sums[which][1] for which in (True, False))
        return {"moments": float((real - fake).square().sum().sqrt())}


@mutant("metric", killed_by="cut_independent")
class MeanOfBatches(KernelDistance):
    """Batches' own means are averaged, whatever their size."""

    def features(self, images):
        return super().features(images).mean(0, keepdim=True)


@mutant("metric", killed_by="cut_independent")
class DropsTheLastBatch(KernelDistance):
    """A batch smaller than the one before is dropped."""

    def update(self, images, *, real):
        before = self.kept[real]
        if not before or len(images) >= len(before[-1]):
            super().update(images, real=real)


@mutant("metric", killed_by="cut_independent")
class BatchNormalized(KernelDistance):
    """Features are normalized by their batch."""

    def features(self, images):
        features = super().features(images)
        return features - features.mean(0)


@mutant("metric", killed_by="order_independent")
class PairsInOrder(KernelDistance):
    """Images are compared one with one, in the order that they came."""

    def reset(self, *, keep_real: bool = False):
        super().reset(keep_real=keep_real)
        self.first = None

    def update(self, images, *, real):
        self.first = real if getattr(self, "first", None) is None else self.first
        super().update(images, real=real)

    def compute(self):
        real, fake = self.gathered()
        return {"distance": float((real - fake).abs().mean()) + 0.1 * (not self.first)}


@mutant("metric", killed_by="every_image_counts")
class LastBatchOnly(KernelDistance):
    """Each batch overwrites the one before."""

    def update(self, images, *, real):
        self.kept[real] = [self.features(images)]


@mutant("metric", killed_by="perfect_match_best")
class HigherIsBetterUnsaid(KernelDistance):
    """A similarity that does not say that higher is better."""

    def compute(self):
        return {"similarity": -super().compute()["mmd"]}


@mutant("metric", killed_by="perfect_match_best")
class ComparesRealWithReal(KernelDistance):
    """Both sides are the real images."""

    def compute(self):
        real, _ = self.gathered()
        return {"mmd": float(kernel(real, real) - kernel(real, real))}


@mutant("metric", killed_by="perfect_match_best")
class SignOfTheCross(KernelDistance):
    """The mixed term is added, not taken off."""

    def compute(self):
        real, fake = self.gathered()
        return {"mmd": float(2 * kernel(real, fake) - kernel(real, real) - kernel(fake, fake))}


@mutant("metric", killed_by="reset_forgets")
class ResetKeepsReal(KernelDistance):
    """``reset`` keeps the real images unasked."""

    def reset(self, *, keep_real: bool = False):
        self.kept[False] = []


@mutant("metric", killed_by="reset_forgets")
class KeepRealIgnored(KernelDistance):
    """``reset(keep_real=True)`` keeps the fake images as well."""

    def reset(self, *, keep_real: bool = False):
        self.kept = {True: self.kept[True], False: self.kept[False] if keep_real else []}
        if not keep_real:
            self.kept[True] = []


@mutant("metric", killed_by="named_floats")
class TensorsOut(KernelDistance):
    """``compute`` returns tensors, which no log can write."""

    def compute(self):
        return {name: torch.tensor(value) for name, value in super().compute().items()}


@mutant("metric", killed_by="named_floats")
class ComputeAddsUp(KernelDistance):
    """Computing twice counts the images twice."""

    total = 0.0

    def compute(self):
        self.total += super().compute()["mmd"] + 0.1
        return {"mmd": self.total}


@mutant("metric", killed_by="images_untouched")
class NormalizesInPlace(KernelDistance):
    """Images are inverted in place."""

    def features(self, images):
        return super().features(images.bitwise_not_())
