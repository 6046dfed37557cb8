"""Broken and sound losses, adversarial ones too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mutants.catalogue import mutant, sound


@sound("loss")
def huber():
    """torch's own, as a module."""
    return nn.HuberLoss()


@sound("loss")
class Charbonnier:
    """sqrt(d^2 + eps^2) - eps."""

    symmetric = True

    def __init__(self, eps: float = 0.01):
        self.eps = eps

    def __call__(self, prediction, target):
        return ((prediction - target).square() + self.eps**2).sqrt().sub(self.eps).mean()


@sound("loss")
class Ssim:
    """1 - SSIM in windows of seven pixels."""

    def __call__(self, prediction, target):
        pool = lambda x: F.avg_pool2d(x, 7, 1)  # noqa: E731
        a, b = pool(prediction), pool(target)
        va, vb = pool(prediction**2) - a**2, pool(target**2) - b**2
        both = pool(prediction * target) - a * b
        similar = (2 * a * b + 0.01) * (2 * both + 0.03) / ((a**2 + b**2 + 0.01) * (va + vb + 0.03))
        return (1 - similar).mean()


@sound("loss")
class Frequencies:
    """Distance of amplitudes and phases."""

    def __call__(self, prediction, target):
        difference = torch.fft.rfft2(prediction - target, norm="ortho")
        return torch.view_as_real(difference).square().mean()


@sound("loss")
class Smooth:
    """No distance: it asks for smooth predictions."""

    distance = False

    def __call__(self, prediction, target):
        return (prediction[..., 1:] - prediction[..., :-1]).square().mean()


@sound("loss")
class Pyramid:
    """SSIM of four scales, which needs large images, and says so."""

    smallest_size = 44
    symmetric = True

    def __call__(self, prediction, target):
        if min(prediction.shape[-2:]) < self.smallest_size:
            raise ValueError(f"images of {self.smallest_size} pixels or more, please")
        value = 0
        for _ in range(3):
            value = value + Ssim()(prediction, target) / 3
            prediction, target = F.avg_pool2d(prediction, 2), F.avg_pool2d(target, 2)
        return value


@sound("loss")
class Wavelets:
    """Haar's wavelets, of images whose sides are even; others are refused."""

    def __call__(self, prediction, target):
        difference = prediction - target
        if difference.shape[-1] % 2 or difference.shape[-2] % 2:
            raise ValueError("sides must be even")
        for _ in range(2):
            parts = difference[..., ::2], difference[..., 1::2]
            difference = torch.cat([parts[0] + parts[1], parts[0] - parts[1]], 1).transpose(-1, -2) / 2
        return difference.abs().mean()


@sound("loss")
class Luminance:
    """Brightness counts more than colour, of which grey images have none; colours only of RGB."""

    def __call__(self, prediction, target):
        difference = prediction - target
        grey = difference.mean(1)
        return grey.square().mean() + 0.1 * (difference - grey[:, None]).square().mean()


@sound("loss")
class RootMeanSquare:
    """The root over the whole batch, with an epsilon below it."""

    def __call__(self, prediction, target):
        return ((prediction - target).square().mean() + 1e-8).sqrt() - 1e-4


@sound("loss")
class Edges(nn.Module):
    """Sobel's edges and the pixels, by a fixed kernel."""

    symmetric = True

    def __init__(self):
        super().__init__()
        kernel = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]]) / 8
        self.register_buffer("kernels", torch.stack([kernel, kernel.T])[:, None])

    def forward(self, prediction, target):
        difference = (prediction - target).flatten(0, 1)[:, None]
        return F.conv2d(difference, self.kernels, padding=1).abs().mean() + difference.abs().mean()


@sound("loss")
class Spectrum(nn.Module):
    """A Fourier transform, which torch has not for bfloat16, as a module."""

    def forward(self, prediction, target):
        return Frequencies()(prediction, target)


@sound("loss")
class ReverseHuber:
    """Squares beyond a fifth of the batch's largest difference."""

    def __call__(self, prediction, target):
        apart = (prediction - target).abs()
        bend = (0.2 * apart.max()).detach().clamp(min=1e-3)
        return torch.where(apart <= bend, apart, (apart**2 + bend**2) / (2 * bend)).mean()


@sound("loss")
class Angle:
    """One minus the cosine of the angle between two images, of any length."""

    def __call__(self, prediction, target):
        return (1 - F.cosine_similarity(prediction.flatten(1), target.flatten(1), eps=1e-6)).mean()


@sound("loss")
class ColoursOnly:
    """Distances in YCbCr: it says that grey images have no colours."""

    def __call__(self, prediction, target):
        if prediction.shape[1] != 3:
            raise ValueError("three channels, please")
        matrix = torch.tensor([[0.3, 0.6, 0.1], [-0.2, -0.3, 0.5], [0.5, -0.4, -0.1]])
        difference = torch.einsum("ij,bjhw->bihw", matrix.to(prediction), prediction - target)
        return difference.square().mean()


class L2:
    def __call__(self, prediction, target):
        return self.error(prediction, target).mean()

    def error(self, prediction, target):
        return (prediction - target).square()


@mutant("loss", killed_by="averaged_over_batch")
class SummedOverBatch(L2):
    """Averaged over pixels, summed over the batch."""

    def __call__(self, prediction, target):
        return self.error(prediction, target).mean((1, 2, 3)).sum()


@mutant("loss", killed_by="averaged_over_places")
class SummedOverPixels(L2):
    """Averaged over the batch, summed over pixels."""

    def __call__(self, prediction, target):
        return self.error(prediction, target).sum((1, 2, 3)).mean()


@mutant("loss", killed_by="averaged_over_batch")
class SummedSmoothness(Smooth):
    """No distance, and summed over the batch."""

    def __call__(self, prediction, target):
        return super().__call__(prediction, target) * len(prediction)


@mutant("loss", killed_by="batch_between_its_images")
class MeanBeforeTheNorm(L2):
    """Differences of a batch are averaged before they lose their signs: images make up for each other."""

    def error(self, prediction, target):
        return (prediction - target).mean(0).abs()


@mutant("loss", killed_by="batch_between_its_images")
class GramOfTheBatch(L2):
    """The Gram matrix runs over all images of the batch at once."""

    def error(self, prediction, target):
        grams = [torch.einsum("bchw,bdhw->cd", x, x) / x[:, 0].numel() for x in (prediction, target)]
        grey = [x.mean((2, 3)).mean(0) for x in (prediction, target)]
        return (grams[0] - grams[1]).abs().mean() + (grey[0] - grey[1]).abs()


@mutant("loss", killed_by="whole_image_counts")
class LeftSquareOnly(L2):
    """Of an image that is not square, only the square in its corner counts."""

    def error(self, prediction, target):
        side = min(prediction.shape[-2:])
        return super().error(prediction[..., :side, :side], target[..., :side, :side])


@mutant("loss", killed_by="whole_image_counts")
class FirstChannelOnly(L2):
    """It was written for grey images: of three channels it takes the first."""

    def error(self, prediction, target):
        return super().error(prediction[:, 0], target[:, 0])


@mutant("loss", killed_by="any_layout")
class FlattensByView(L2):
    """Images are flattened by a view, which trusts their strides."""

    def error(self, prediction, target):
        return super().error(prediction.view(len(prediction), -1), target.reshape(len(target), -1))


@mutant("loss", killed_by="any_layout")
class FlattensTheTarget(L2):
    """Only the target is flattened by a view."""

    def error(self, prediction, target):
        return super().error(prediction.flatten(1), target.view(len(target), -1))


@mutant("loss", killed_by="whole_range")
class ClipsTheDark(L2):
    """Both images are clipped to [0, 1]."""

    def error(self, prediction, target):
        return super().error(prediction.clamp(0, 1), target.clamp(0, 1))


@mutant("loss", killed_by="answers_as_in_eval_mode")
class NormsTrain(nn.Module):
    """The batch norm of its features is in training mode, as a module is when it is built."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1, affine=False)

    def forward(self, prediction, target):
        features = [self.norm(x.mean((1, 3))[:, None]) for x in (prediction, target)]
        return (prediction - target).abs().mean() + 0.01 * (features[0] - features[1]).abs().mean()


@mutant("loss", killed_by="scalar")
class ValueInDouble(L2):
    """The sum is taken in double precision, and stays there: not every device has it."""

    def __call__(self, prediction, target):
        return self.error(prediction, target).mean(dtype=torch.float64)


@mutant("loss", killed_by="scalar")
class SquaresOnly(L2):
    """Rows are folded by the width: images that are not square cannot be."""

    def error(self, prediction, target):
        side = prediction.shape[-1]
        return super().error(*(x.reshape(*x.shape[:2], side, side) for x in (prediction, target)))


@mutant("loss", killed_by="small_images_refused")
class SizeUnchecked(Ssim):
    """It declares how small images may be, and fails on smaller ones somewhere within torch."""

    smallest_size = 7


@mutant("loss", killed_by="small_images_refused")
class OnlyTheHeightChecked(L2):
    """It looks at the height, and takes images that are not wide enough."""

    smallest_size = 16

    def error(self, prediction, target):
        if prediction.shape[-2] < self.smallest_size:
            raise ValueError("too small")
        return super().error(prediction, target)


@mutant("loss", killed_by="small_images_refused")
class RefusesTheSmallest(L2):
    """Images of just the size that it declares are refused: less than, or equal."""

    smallest_size = 16

    def error(self, prediction, target):
        if min(prediction.shape[-2:]) <= self.smallest_size:
            raise ValueError("too small")
        return super().error(prediction, target)


@mutant("loss", killed_by="finite_gradient_at_extremes")
class QuarterCircle:
    """It rises as a circle does: where black meets white, straight up."""

    def __call__(self, prediction, target):
        share = ((prediction - target).square() / 4).mean((1, 2, 3))
        return (1 - (1 - share).sqrt()).mean()


@mutant("loss", killed_by="finite_gradient_at_equality")
class RootOfTheMean(L2):
    """The root of the mean square: at equality its gradient is NaN."""

    def __call__(self, prediction, target):
        return super().__call__(prediction, target).sqrt()


@mutant("loss", killed_by="zero_at_equality")
class EpsilonStays(L2):
    """Charbonnier's, with its epsilon left in."""

    def error(self, prediction, target):
        return (super().error(prediction, target) + 1e-4).sqrt()


@mutant("loss", killed_by="target_untouched")
class ClampsTheTarget(L2):
    """The target is clamped in place, against rounding."""

    def error(self, prediction, target):
        return super().error(prediction.clamp(-0.9, 0.9), target.clamp_(-0.9, 0.9))


@mutant("loss", killed_by="averaged_over_places")
class SummedOverRows(L2):
    """The mean is taken over all but the columns, which are summed."""

    def __call__(self, prediction, target):
        return self.error(prediction, target).sum(-1).mean()


@mutant("loss", killed_by="averaged_over_places")
class AveragedTwice(L2):
    """The mean is divided by the number of pixels once more."""

    def __call__(self, prediction, target):
        return super().__call__(prediction, target) / prediction[0].numel() * 1000


@mutant("loss", killed_by="scalar")
class OnePerImage(L2):
    """It returns one value an image."""

    def __call__(self, prediction, target):
        return self.error(prediction, target).mean((1, 2, 3))


@mutant("loss", killed_by="gradient_reaches_prediction")
class UnderNoGrad(L2):
    """It runs under no_grad, as for measuring."""

    def __call__(self, prediction, target):
        with torch.no_grad():
            return super().__call__(prediction, target)


@mutant("loss", killed_by="gradient_reaches_prediction")
class DetachesThePrediction(L2):
    """It detaches the prediction, for the target."""

    def error(self, prediction, target):
        return (prediction.detach() - target).square() + 0 * prediction


@mutant("loss", killed_by="gradient_reaches_prediction")
class FirstImageOnly(L2):
    """Only the first image of the batch counts."""

    def error(self, prediction, target):
        return super().error(prediction, target)[:1]


@mutant("loss", killed_by="finite_gradient_at_equality")
class RootWithoutEps(L2):
    """The root of the squared distance: its gradient at equality is NaN."""

    def __call__(self, prediction, target):
        return self.error(prediction, target).sum(1).sqrt().mean()


@mutant("loss", killed_by="finite_gradient_at_equality")
class UnitLengthWithoutEps:
    """Images are divided by their length, which is zero for blank ones."""

    def __call__(self, prediction, target):
        a = prediction / prediction.norm(dim=(1, 2, 3), keepdim=True)
        return (a - target / target.norm(dim=(1, 2, 3), keepdim=True)).abs().mean()


@mutant("loss", killed_by="zero_at_equality")
class NoisyFeatures(L2):
    """Dropout is active: two equal images differ."""

    def error(self, prediction, target):
        return (F.dropout(prediction, 0.2) - F.dropout(target, 0.2)).square()


@mutant("loss", killed_by="positive_elsewhere")
class SignedDifference(L2):
    """The difference is averaged without its absolute value."""

    def error(self, prediction, target):
        return prediction - target


@mutant("loss", killed_by="positive_elsewhere")
class NegativeDistance(L2):
    """The sign is that of a score."""

    def error(self, prediction, target):
        return -super().error(prediction, target)


@mutant("loss", killed_by="gradient_descends")
class AscendingGradient(L2):
    """The gradient is reversed on the way: it climbs."""

    def error(self, prediction, target):
        return super().error(2 * prediction.detach() - prediction, target)


@mutant("loss", killed_by="symmetric")
class RelativeButSymmetric(L2):
    """It divides by the target, and yet declares that it is symmetric."""

    symmetric = True

    def error(self, prediction, target):
        return super().error(prediction, target) / (1 + target.square())


@mutant("loss", killed_by="target_untouched")
class ScalesInPlace(L2):
    """Both images are brought to [0, 1] in place."""

    def error(self, prediction, target):
        target.add_(1).div_(2)
        return super().error(prediction / 2 + 0.5, target)


@mutant("loss", killed_by="moves_whole")
class WeightsLeftBehind(nn.Module):
    """A module whose weights are a plain tensor."""

    def __init__(self):
        super().__init__()
        self.weights = torch.ones(1, 1, 1, 1)

    def forward(self, prediction, target):
        return (self.weights * (prediction - target).square()).mean()


@mutant("loss", killed_by="parameters_get_gradients")
class LearnsAWeightNobodyUses(nn.Module):
    """It has a learned weight that is not in the sum."""

    def __init__(self):
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))

    def forward(self, prediction, target):
        return (prediction - target).square().mean()


@sound("adversarial_loss")
class LeastSquares:
    """Mao et al. 2017."""

    def discriminator(self, real_logits, fake_logits):
        return 0.5 * ((real_logits - 1).square().mean() + fake_logits.square().mean())

    def generator(self, fake_logits):
        return (fake_logits - 1).square().mean()


@sound("adversarial_loss")
class Logistic:
    """Non-saturating."""

    def discriminator(self, real_logits, fake_logits):
        return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()

    def generator(self, fake_logits):
        return F.softplus(-fake_logits).mean()


@sound("adversarial_loss")
class Wasserstein:
    """Linear on both sides."""

    def discriminator(self, real_logits, fake_logits):
        return fake_logits.mean() - real_logits.mean()

    def generator(self, fake_logits):
        return -fake_logits.mean()


@sound("adversarial_loss")
class Smoothed:
    """Cross entropy in float32, real labels smoothed to 0.9."""

    def discriminator(self, real_logits, fake_logits):
        real, fake = real_logits.float(), fake_logits.float()
        smooth, zeros = torch.full_like(real, 0.9), torch.zeros_like(fake)
        bce = F.binary_cross_entropy_with_logits
        return bce(real, smooth) + bce(fake, zeros)

    def generator(self, fake_logits):
        fake = fake_logits.float()
        return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))


@sound("adversarial_loss")
class RelativisticAverage:
    """The discriminator compares each side with the other's mean; the generator has no real logits."""

    def discriminator(self, real_logits, fake_logits):
        real, fake = real_logits - fake_logits.mean(), fake_logits - real_logits.mean()
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def generator(self, fake_logits):
        return -fake_logits.mean()


@sound("adversarial_loss")
class LeCam(nn.Module):
    """Tseng et al. 2021: hinge, and each side held to the other's running mean, followed in training."""

    def __init__(self):
        super().__init__()
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def discriminator(self, real_logits, fake_logits):
        if self.training:
            self.real.lerp_(real_logits.detach().mean().to(self.real), 0.1)
            self.fake.lerp_(fake_logits.detach().mean().to(self.fake), 0.1)
        held = (real_logits - self.fake).square().mean() + (fake_logits - self.real).square().mean()
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean() + 0.01 * held

    def generator(self, fake_logits):
        return F.relu(1 - fake_logits).mean()


@mutant("adversarial_loss", killed_by="discriminator_direction")
class SidesSwapped(Logistic):
    """Real and fake are swapped."""

    def discriminator(self, real_logits, fake_logits):
        return super().discriminator(fake_logits, real_logits)


@mutant("adversarial_loss", killed_by="discriminator_direction")
class ForgetsTheFakes(Logistic):
    """Only real images count."""

    def discriminator(self, real_logits, fake_logits):
        return F.softplus(-real_logits).mean() + 0 * fake_logits.mean()


@mutant("adversarial_loss", killed_by="generator_direction")
class GeneratorSign(Wasserstein):
    """The generator's sign is the discriminator's."""

    def generator(self, fake_logits):
        return fake_logits.mean()


@mutant("adversarial_loss", killed_by="generator_direction")
class Saturating(Logistic):
    """The generator minimises log(1 - D), whose gradient fades where it loses."""

    def generator(self, fake_logits):
        return -F.softplus(fake_logits).mean()


@mutant("adversarial_loss", killed_by="generator_direction")
class LogWithEps(Logistic):
    """log(sigmoid + eps): its gradient is gone where the discriminator is quite sure."""

    def generator(self, fake_logits):
        return -(fake_logits.sigmoid() + 1e-8).log().mean()


@mutant("adversarial_loss", killed_by="discriminator_direction")
class ClampedLogits(Logistic):
    """Logits are clamped to [-10, 10] for stability: a discriminator beyond does not come back."""

    def discriminator(self, real_logits, fake_logits):
        return super().discriminator(real_logits.clamp(-10, 10), fake_logits.clamp(-10, 10))


@mutant("adversarial_loss", killed_by="real_and_fake_balanced")
class Pairs(Logistic):
    """Each real logit is compared with one fake logit: there must be as many."""

    def discriminator(self, real_logits, fake_logits):
        return F.softplus(fake_logits - real_logits).mean()


@mutant("adversarial_loss", killed_by="logits_unchanged")
class ClipsInPlace(Logistic):
    """Absurd logits are clipped in place, and are the caller's."""

    def discriminator(self, real_logits, fake_logits):
        value = super().discriminator(real_logits, fake_logits)
        real_logits.detach().clamp_(-1, 1)
        return value


@mutant("adversarial_loss", killed_by="low_precision_logits")
class LabelsInFloat(Logistic):
    """Labels are float32 whatever the logits are, which the cross entropy of a probability refuses."""

    def generator(self, fake_logits):
        if fake_logits.dtype != torch.float32:
            raise TypeError(f"logits must be float32, they are {fake_logits.dtype}")
        return super().generator(fake_logits)


@mutant("adversarial_loss", killed_by="moves_whole")
class LabelIsNoBuffer(nn.Module):
    """A module whose label is a plain tensor."""

    def __init__(self):
        super().__init__()
        self.label = torch.ones(1)

    def discriminator(self, real_logits, fake_logits):
        return (real_logits - self.label).square().mean() + (fake_logits + self.label).square().mean()

    def generator(self, fake_logits):
        return (fake_logits - self.label).square().mean()


@mutant("adversarial_loss", killed_by="averaged")
class SummedOverPatches(Logistic):
    """Summed over patches."""

    def generator(self, fake_logits):
        return F.softplus(-fake_logits).sum((1, 2, 3)).mean()


@mutant("adversarial_loss", killed_by="real_and_fake_balanced")
class OneMeanForBoth(Logistic):
    """Real and fake logits are thrown together before the mean."""

    def discriminator(self, real_logits, fake_logits):
        return F.softplus(torch.cat([-real_logits, fake_logits])).mean()


@mutant("adversarial_loss", killed_by="scalars")
class LogOfSigmoid(Logistic):
    """log(sigmoid) by hand: infinite for certain logits."""

    def generator(self, fake_logits):
        return -fake_logits.sigmoid().log().mean()
