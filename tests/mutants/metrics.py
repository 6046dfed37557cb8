"""Broken and sound metrics."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mutants.catalogue import mutant, sound
from uldm_core.protocols import Autoencoder


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


@sound("metric")
class NeedsMany(KernelDistance):
    """It refuses fewer than 100 images."""

    def compute(self):
        if min(len(side) for side in self.gathered()) < 100:
            raise ValueError("100 images or more, please")
        return super().compute()


@sound("metric")
class NeedsDeclared(KernelDistance):
    """It declares that it needs 50 images, of ten pixels."""

    smallest_count = 50
    smallest_size = 10

    def update(self, images, *, real):
        if min(images.shape[-2:]) < self.smallest_size:
            raise ValueError("10 pixels or more, please")
        super().update(images, real=real)

    def compute(self):
        if min(len(side) for side in self.gathered()) < self.smallest_count:
            raise ValueError("50 images or more, please")
        return super().compute()


@sound("metric")
class Contrast(KernelDistance):
    """The distance of mean contrasts, to which a negative is the same as the image."""

    def features(self, images):
        return images.double().std((1, 2, 3))[:, None] / 255

    def compute(self):
        real, fake = self.gathered()
        return {"contrast": float((real.mean() - fake.mean()).abs())}


@sound("metric")
class Several(KernelDistance):
    """A distance with what it was measured of: how many images, and how bright they are."""

    def compute(self):
        fake = self.gathered()[1]
        return {**super().compute(), "images": float(len(fake)), "brightness": float(fake.mean())}


@sound("metric")
class BothWays(KernelDistance):
    """A distance and a likeness: it says of each which way is better."""

    higher_is_better = {"mmd": False, "likeness": True}

    def compute(self):
        mmd = super().compute()["mmd"]
        return {"mmd": mmd, "likeness": 1 - mmd, "images": float(len(self.gathered()[1]))}


@sound("metric")
class Copies(KernelDistance):
    """The share of fake images that are real ones, bit by bit."""

    higher_is_better = True

    def features(self, images):
        return images.flatten(1)

    def compute(self):
        known = {row.numpy().tobytes() for row in torch.cat(self.kept[True])}
        hits = [row.numpy().tobytes() in known for row in torch.cat(self.kept[False])]
        return {"copies": sum(hits) / len(hits)}


@sound("metric")
class Errors(KernelDistance):
    """The mean absolute difference of pairs."""

    paired = True

    def features(self, images):
        return images.short().flatten(1)

    def compute(self):
        real, fake = self.gathered()
        return {"error": float((real - fake).abs().double().mean())}


@sound("metric")
class Sliced(KernelDistance):
    """Quantiles along random directions, drawn with a seed and kept on the CPU."""

    def compute(self):
        real, fake = self.gathered()
        directions = torch.randn(real.shape[1], 32, generator=torch.Generator().manual_seed(0)).double()
        at = torch.linspace(0, 1, 20).double()
        quantiles = [torch.quantile(features @ directions, at, 0) for features in (real, fake)]
        return {"sliced": float((quantiles[0] - quantiles[1]).abs().mean())}


@sound("metric")
class Subsets(KernelDistance):
    """The mean of ten parts of both sets, drawn with a seed, as KID is often measured."""

    def compute(self):
        real, fake = self.gathered()
        generator, values = torch.Generator().manual_seed(0), []
        for _ in range(10):
            a, b = (s[torch.randperm(len(s), generator=generator)[:20]] for s in (real, fake))
            values.append(float(kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)))
        values = torch.tensor(values)
        return {"mmd": float(values.mean()), "mmd_std": float(values.std())}


@sound("metric")
class ColoursOnly(KernelDistance):
    """It refuses grey images."""

    def features(self, images):
        if images.shape[1] != 3:
            raise ValueError("three channels, please")
        return super().features(images)


@sound("metric")
class CodesInUse:
    """How many codes the recipe's autoencoder needs for the fake images."""

    compares = False
    description = {"codes of": "the autoencoder"}

    def __init__(self, autoencoder: Autoencoder):
        self.autoencoder = autoencoder
        self.codes = set()

    def reset(self, *, keep_real: bool = False):
        self.codes = set()

    def update(self, images, *, real):
        if not real:
            training = self.autoencoder.training
            codes = self.autoencoder.eval().encode_with_indices(images / 127.5 - 1)[2]
            self.autoencoder.train(training)
            self.codes |= set(codes.flatten().tolist())

    def compute(self):
        return {"codes": float(len(self.codes))}


@mutant("metric", killed_by="autoencoder_left_alone")
class LeavesItInEvalMode(CodesInUse):
    """The autoencoder is set to eval mode, and left there."""

    def update(self, images, *, real):
        super().update(images, real=real)
        self.autoencoder.eval()


@mutant("metric", killed_by="autoencoder_left_alone")
class MeasuresInTrainMode(CodesInUse):
    """The autoencoder is used in whatever mode it is."""

    def update(self, images, *, real):
        if not real:
            codes = self.autoencoder.encode_with_indices(images / 127.5 - 1)[2]
            self.codes |= set(codes.flatten().tolist())


@mutant("metric", killed_by="real_images_not_needed")
class NeedsThemAfterAll(KernelDistance):
    """It says that it does not compare, and does."""

    compares = False


@mutant("metric", killed_by="real_images_not_needed")
class CountsBoth(Brightness):
    """Real images are counted with the fake ones."""

    def compute(self):
        return {"brightness": float(torch.cat([*self.kept[False], *self.kept[True]]).mean())}


@mutant("metric", killed_by="named_floats")
class SaysNothing(KernelDistance):
    """Its description is empty: nobody knows what the number was measured with."""

    description = {}


@mutant("metric", killed_by="finite_of_any_images")
class InfiniteOfAMatch(KernelDistance):
    """The logarithm of a distance: of two equal sets it is minus infinity."""

    def compute(self):
        return {"log_mmd": float(torch.tensor(super().compute()["mmd"]).clamp(min=0).log())}


@mutant("metric", killed_by="finite_of_any_images")
class UnitLength(KernelDistance):
    """Features are brought to unit length: those of black images are 0 / 0."""

    def features(self, images):
        features = super().features(images)
        return features / features.norm(dim=1, keepdim=True)


@mutant("metric", killed_by="sizes_and_channels")
class PairsOfColumns(KernelDistance):
    """Each column is compared with the next: an odd number of them does not go up."""

    def features(self, images):
        images = images.double()
        edges = images[..., ::2] - images[..., 1::2]
        return torch.cat([super().features(images), edges.abs().mean((1, 2, 3))[:, None] / 255], 1)


@mutant("metric", killed_by="small_images_refused")
class SmallOnesMeasured(KernelDistance):
    """It declares how small images may be, and measures smaller ones."""

    smallest_size = 12


@mutant("metric", killed_by="every_image_counts")
class DropsTheOddOnes(KernelDistance):
    """Images are measured in eights; what is left over is dropped."""

    def gathered(self):
        return tuple(features[: len(features) // 8 * 8] for features in super().gathered())


@mutant("metric", killed_by="counts_may_differ")
class AsManyAsTheFewer(KernelDistance):
    """Of the larger set, what is beyond the smaller one's number is left out."""

    def gathered(self):
        real, fake = super().gathered()
        count = min(len(real), len(fake))
        return real[:count], fake[:count]


@mutant("metric", killed_by="counts_may_differ")
class OneCountForBoth(KernelDistance):
    """The mean difference of features, by way of a matrix for which both sets must be equally large."""

    def compute(self):
        real, fake = self.gathered()
        sorted_ones = (real.sort(0).values - fake.sort(0).values).abs().mean()
        return {"distance": float(sorted_ones)}


@mutant("metric", killed_by="whole_image_counts")
class CornerOnly(KernelDistance):
    """Of images that are not square, only the corner is seen."""

    def features(self, images):
        side = min(images.shape[-2:])
        return super().features(images[..., :side, :side])


@mutant("metric", killed_by="whole_image_counts")
class RedOnly(KernelDistance):
    """Of three channels, only the first is seen."""

    def features(self, images):
        return super().features(images[:, :1])


@mutant("metric", killed_by="nearer_is_better")
class WrapsRound(Errors):
    """Bytes are subtracted from bytes: one less than nothing is 255."""

    def features(self, images):
        return images.flatten(1)


@mutant("metric", killed_by="nearer_is_better")
class SquaresOfBytes(Errors):
    """Differences are squared as bytes: 16 squared is 0."""

    def compute(self):
        real, fake = self.gathered()
        return {"error": float((real - fake).to(torch.uint8).square().double().mean())}


@mutant("metric", killed_by="order_independent")
class SilentlyPaired(KernelDistance):
    """Each image is compared with the one at its place on the other side, and this is not said."""

    def compute(self):
        real, fake = self.gathered()
        places = torch.arange(max(len(real), len(fake)))
        distances = (real[places % len(real)] - fake[places % len(fake)]).square().mean(1)
        return {"distance": float(distances.mean())}


@mutant("metric", killed_by="continues_after_compute")
class KeepsItsAnswer(KernelDistance):
    """The number is kept, and given again whatever came since."""

    answer = None

    def reset(self, *, keep_real: bool = False):
        super().reset(keep_real=keep_real)
        self.answer = None

    def compute(self):
        self.answer = self.answer or super().compute()
        return self.answer


@mutant("metric", killed_by="continues_after_compute")
class EmptiesItsFakes(KernelDistance):
    """What was measured is let go, to save memory; the number stays."""

    answer = None

    def reset(self, *, keep_real: bool = False):
        super().reset(keep_real=keep_real)
        self.answer = None

    def compute(self):
        if self.kept[False]:
            self.answer = super().compute()
            self.kept[False] = []
        return self.answer


@mutant("metric", killed_by="perfect_match_best")
class OneOfTwoUpsideDown(BothWays):
    """Of the two numbers that it says to be likenesses, one is a distance."""

    higher_is_better = {"mmd": True, "likeness": True}


@mutant("metric", killed_by="images_untouched")
class DarkBecomesBlack(KernelDistance):
    """What is nearly black is made black, in place."""

    def features(self, images):
        images[images < 20] = 0
        return super().features(images)


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


@mutant("metric", killed_by="cut_independent")
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
