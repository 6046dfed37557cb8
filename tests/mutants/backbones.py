"""Broken and sound backbones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mutants.catalogue import mutant, sound


@sound("backbone")
class Plain(nn.Module):
    """Two frozen convolutions with an input scaling of their own."""

    channels = (6, 12)

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, 2, 1)
        self.second = nn.Conv2d(6, 12, 3, 2, 1)
        self.register_buffer("shift", torch.tensor([0.1, 0.0, -0.1]).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, images):
        first = self.first(self.scaled(images)).relu()
        return first, self.second(first).relu()

    def scaled(self, images):
        return (images - self.shift) / 0.5


@sound("backbone")
class OneMap(nn.Module):
    """A single map, by average pooling."""

    channels = (3,)

    def forward(self, images):
        return (F.avg_pool2d(images.expand(-1, 3, -1, -1), 4),)


@sound("backbone")
class Normed(Plain):
    """Batch norm that stays in eval mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(6).requires_grad_(False)
        self.eval()

    def train(self, mode=True):
        return super().train(False)

    def forward(self, images):
        first = self.norm(self.first(self.scaled(images))).relu()
        return first, self.second(first).relu()


@mutant("backbone", killed_by="feature_maps")
class CoarsestFirst(Plain):
    """The maps come coarsest first."""

    channels = (12, 6)

    def forward(self, images):
        return super().forward(images)[::-1]


@mutant("backbone", killed_by="feature_maps")
class WrongChannels(Plain):
    """``channels`` are those of another layer."""

    channels = (6, 6)


@mutant("backbone", killed_by="feature_maps")
class OneMapTooMany(Plain):
    """The image itself is handed out as a map."""

    def forward(self, images):
        return images, *super().forward(images)


@mutant("backbone", killed_by="feature_maps")
class LastMapOnly(Plain):
    """It returns a tensor, not a tuple of maps."""

    def forward(self, images):
        return super().forward(images)[-1]


@mutant("backbone", killed_by="frozen")
class NotFrozen(Plain):
    """Its parameters still require grad."""

    def __init__(self):
        super().__init__()
        self.requires_grad_(True)


@mutant("backbone", killed_by="frozen")
class FlippedByTrain(Plain):
    """Batch norm follows the trainer's ``train()``: its statistics drift."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(6, affine=False)
        self.eval()

    def forward(self, images):
        first = self.norm(self.first(self.scaled(images))).relu()
        return first, self.second(first).relu()


@mutant("backbone", killed_by="frozen")
class DropsInTraining(Plain):
    """Dropout is active when its owner trains."""

    def scaled(self, images):
        return F.dropout(super().scaled(images), 0.3, self.training)


@mutant("backbone", killed_by="passes_gradients")
class UnderNoGrad(Plain):
    """It runs under no_grad: no loss can be made of it."""

    def forward(self, images):
        with torch.no_grad():
            return super().forward(images)


@mutant("backbone", killed_by="passes_gradients")
class DetachedBetween(Plain):
    """The second map is computed from a detached first."""

    def forward(self, images):
        first = self.first(self.scaled(images)).relu()
        return first, self.second(first.detach()).relu()


@mutant("backbone", killed_by="grey_is_rgb")
class GreyPadded(Plain):
    """Grey images are padded with two empty channels."""

    def scaled(self, images):
        return super().scaled(F.pad(images, (0, 0, 0, 0, 0, 3 - images.shape[1])))


@mutant("backbone", killed_by="feature_maps")
class ColourOnly(Plain):
    """It knows no grey images."""

    def scaled(self, images):
        if images.shape[1] != 3:
            raise ValueError("three channels, please")
        return super().scaled(images)


@mutant("backbone", killed_by="batch_independent")
class ScaledByTheBatch(Plain):
    """Images are divided by the largest value of the batch."""

    def scaled(self, images):
        return super().scaled(images) / images.abs().max().clamp(min=1e-3)


@mutant("backbone", killed_by="bfloat16")
class CastsToFloat(Plain):
    """It casts its input to float32, which its cast weights do not match."""

    def scaled(self, images):
        return super().scaled(images.float()).float()


@mutant("backbone", killed_by="moves_whole")
class ShiftLeftBehind(Plain):
    """The input scaling is a plain tensor that ``.to()`` does not find."""

    def __init__(self):
        super().__init__()
        shift = self.shift
        del self.shift
        self.offsets = [shift]

    def scaled(self, images):
        return (images - self.offsets[0].to(images)) / 0.5
