"""Broken and sound discriminators."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from mutants.catalogue import mutant, sound
from uldm_plugins.discriminators.patchgan import PatchGAN


@sound("discriminator")
class Plain(nn.Module):
    """Three convolutions without a norm."""

    receptive_field = 18

    def __init__(self, in_channels: int = 3):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 8, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8, 16, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(16, 1, 3, 1, 1),
        )

    def forward(self, images):
        return self.layers(images)


@sound("discriminator")
def spectral():
    """Spectral norm, no argument."""
    network = Plain(1)
    for index in (0, 2, 4):
        spectral_norm(network.layers[index])
    return network


@sound("discriminator")
class Taming(nn.Module):
    """taming-transformers' NLayerDiscriminator with three layers: each logit sees 70 pixels."""

    receptive_field = 70

    def __init__(self, in_channels: int = 3):
        super().__init__()
        layers = [nn.Conv2d(in_channels, 8, 4, 2, 1), nn.LeakyReLU(0.2, True)]
        for inputs, outputs, stride in ((8, 16, 2), (16, 32, 2), (32, 32, 1)):
            layers += [nn.Conv2d(inputs, outputs, 4, stride, 1, bias=False), nn.BatchNorm2d(outputs)]
            layers += [nn.LeakyReLU(0.2, True)]
        self.main = nn.Sequential(*layers, nn.Conv2d(32, 1, 4, 1, 1))

    def forward(self, x):
        return self.main(x)


@sound("discriminator")
class PixelWise(nn.Module):
    """1x1 convolutions: it sees one pixel."""

    receptive_field = 1

    def __init__(self, in_channels: int = 3):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(in_channels, 8, 1), nn.SiLU(), nn.Conv2d(8, 1, 1))

    def forward(self, images):
        return self.layers(images)


@sound("discriminator")
class Dilated(nn.Module):
    """A dilated convolution: a logit sees nine of 81 pixels, nine from end to end."""

    receptive_field = 9

    def __init__(self, in_channels: int = 3):
        super().__init__()
        first = nn.Conv2d(in_channels, 8, 3, dilation=4, padding=4)
        self.layers = nn.Sequential(first, nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 1))

    def forward(self, images):
        return self.layers(images)


@sound("discriminator")
class MaxPooled(nn.Module):
    """Batch norm, ReLU and maxima, which pass the gradient of some pixels only."""

    receptive_field = 10

    def __init__(self, in_channels: int = 3):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.last = nn.Sequential(nn.Conv2d(16, 16, 4), nn.ReLU(), nn.Conv2d(16, 1, 1))

    def forward(self, images):
        return self.last(self.layers(images))


@sound("discriminator")
class Regularised(nn.Module):
    """Spectral norm, batch norm and dropout together."""

    receptive_field = 22

    def __init__(self, in_channels: int = 3):
        super().__init__()
        self.layers = nn.Sequential(
            spectral_norm(nn.Conv2d(in_channels, 8, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.1),
            spectral_norm(nn.Conv2d(8, 16, 4, 2, 1)),
            nn.BatchNorm2d(16),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(16, 1, 4, 1, 1)),
        )

    def forward(self, images):
        return self.layers(images)


@sound("discriminator")
class Experts(Plain):
    """One of three last layers is drawn in training; in eval mode all three vote."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        self.experts = nn.ModuleList(nn.Conv2d(16, 1, 3, 1, 1) for _ in range(3))

    def forward(self, images):
        features = self.layers[:4](images)
        if self.training:
            return self.experts[int(torch.randint(3, ()))](features) + 0 * self.layers[4](features)
        return torch.stack([expert(features) for expert in self.experts]).mean(0)


@sound("discriminator")
class DarkAndBright(Plain):
    """Dark images are judged by another layer than bright ones."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        self.dark = nn.Conv2d(16, 1, 3, 1, 1)

    def forward(self, images):
        features = self.layers[:4](images)
        bright = images.mean((1, 2, 3)) > 0
        logits = features.new_empty(len(images), 1, *features.shape[2:])
        for chosen, layer in ((bright, self.layers[4]), (~bright, self.dark)):
            if chosen.any():
                logits[chosen] = layer(features[chosen]).to(logits)
        return logits


@mutant("discriminator", killed_by="receptive_field_true")
class ClaimsSeventy(PatchGAN):
    """The layout of 46 pixels is claimed to see 70."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels, channels=(8, 8, 8))
        self.receptive_field = 70


@mutant("discriminator", killed_by="receptive_field_true")
class OneLayerOff(Plain):
    """The last layer is left out of the count."""

    receptive_field = 10


@mutant("discriminator", killed_by="receptive_field_true")
class SeesEverything(Plain):
    """An instance norm lets every logit see the whole image."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        self.layers[1] = nn.Sequential(nn.InstanceNorm2d(8), nn.LeakyReLU(0.2))


@mutant("discriminator", killed_by="receptive_field_true")
class NoWholeNumber(Plain):
    """``receptive_field`` was computed with a division."""

    receptive_field = 36 / 2


@mutant("discriminator", killed_by="sees_every_pixel")
class SkipsEverySecond(Plain):
    """The image is halved by taking every second pixel: artifacts in between are free."""

    receptive_field = 35

    def forward(self, images):
        return super().forward(images[..., ::2, ::2])


@mutant("discriminator", killed_by="sees_every_pixel")
class RedOnly(Plain):
    """It judges the first channel and forgets the others."""

    def forward(self, images):
        return super().forward(images[:, :1].expand_as(images))


@mutant("discriminator", killed_by="sees_every_pixel")
class LooksAtTheMiddle(Plain):
    """A large image is cropped to its middle."""

    def forward(self, images):
        height, width = (side // 5 for side in images.shape[2:])
        return super().forward(
            images[..., height : images.shape[2] - height, width : images.shape[3] - width]
        )


@mutant("discriminator", killed_by="logits_in_place")
class Mirrored(Plain):
    """The image is mirrored first: the logits lie on the other side."""

    def forward(self, images):
        return super().forward(images.flip(-1))


@mutant("discriminator", killed_by="logit_shape")
class HeightForWidth(Plain):
    """Height and width of the logits are swapped."""

    def forward(self, images):
        return super().forward(images).transpose(-1, -2)


@mutant("discriminator", killed_by="separates_real_and_fake")
class Probabilities(Plain):
    """It ends in a sigmoid: what it gives are no logits."""

    def forward(self, images):
        return super().forward(images).sigmoid()


@mutant("discriminator", killed_by="passes_gradients_to_images")
class ZeroToOne(Plain):
    """Images are clamped to [0, 1]: what is darker than grey cannot be told."""

    def forward(self, images):
        return super().forward(images.clamp(0, 1))


@mutant("discriminator", killed_by="still_in_eval")
class IteratesInEval(Plain):
    """A spectral norm by hand follows the largest singular vector in eval mode as well."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        self.register_buffer("u", nn.functional.normalize(torch.ones(8), dim=0))

    def forward(self, images):
        first = self.layers[0]
        matrix = first.weight.flatten(1)
        with torch.no_grad():
            v = nn.functional.normalize(matrix.T @ self.u, dim=0)
            self.u.copy_(nn.functional.normalize(matrix @ v, dim=0))
        weight = first.weight / (self.u.clone() @ matrix @ v)
        return self.layers[1:](nn.functional.conv2d(images, weight, first.bias, 2, 1))


@mutant("discriminator", killed_by="parameters_get_gradients")
class ExpertNeverAsked(Plain):
    """There are two last layers, and the second is never called."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        self.second = nn.Conv2d(16, 1, 3, 1, 1)


@mutant("discriminator", killed_by="logit_shape")
class OneLogit(Plain):
    """The patches are pooled to one number an image, [B]."""

    def forward(self, images):
        return super().forward(images).mean((1, 2, 3))


@mutant("discriminator", killed_by="logit_shape")
class TwoClasses(Plain):
    """It gives two logits a patch, real and fake."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        self.layers[4] = nn.Conv2d(16, 2, 3, 1, 1)


@mutant("discriminator", killed_by="passes_gradients_to_images")
class DetachesImages(Plain):
    """It detaches its input, as for its own step: the generator gets no gradient."""

    def forward(self, images):
        return super().forward(images.detach())


@mutant("discriminator", killed_by="passes_gradients_to_images")
class ThawsItself(Plain):
    """It switches its own gradients on at every call, so the generator's step leaves some in it."""

    def forward(self, images):
        self.requires_grad_(True)
        return super().forward(images)


@mutant("discriminator", killed_by="separates_real_and_fake")
class LooksAway(Plain):
    """The images are multiplied by zero somewhere on the way."""

    def forward(self, images):
        return super().forward(images * 0.0)


@mutant("discriminator", killed_by="separates_real_and_fake")
class NormalisesPatches(Plain):
    """Logits are normalised over the batch: no gap between real and fake can grow."""

    def forward(self, images):
        logits = super().forward(images)
        return logits - logits.mean()


@mutant("discriminator", killed_by="batch_independent")
class BatchDeviation(Plain):
    """The deviation over the batch is added to every logit, in eval mode too."""

    def forward(self, images):
        return super().forward(images) + images.std(0, correction=0).mean()


@mutant("discriminator", killed_by="eval_deterministic")
class AlwaysDrops(Plain):
    """Dropout does not ask for the mode."""

    def forward(self, images):
        return super().forward(nn.functional.dropout(images, 0.2, training=True))


@mutant("discriminator", killed_by="inputs_unchanged")
class WritesIntoImages(Plain):
    """It scales the caller's images in place."""

    def forward(self, images):
        with torch.no_grad():
            images.mul_(0.5)
        return super().forward(images)
