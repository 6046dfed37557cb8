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
