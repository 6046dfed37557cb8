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


@mutant("discriminator", killed_by="judges_images")
class DetachesImages(Plain):
    """It detaches its input, as for its own step: the generator gets no gradient."""

    def forward(self, images):
        return super().forward(images.detach())


@mutant("discriminator", killed_by="judges_images")
class ThawsItself(Plain):
    """It switches its own gradients on at every call, so the generator's step leaves some in it."""

    def forward(self, images):
        self.requires_grad_(True)
        return super().forward(images)


@mutant("discriminator", killed_by="tells_apart")
class LooksAway(Plain):
    """The images are multiplied by zero somewhere on the way."""

    def forward(self, images):
        return super().forward(images * 0.0)


@mutant("discriminator", killed_by="tells_apart")
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
