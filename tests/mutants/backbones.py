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


@sound("backbone")
class Deep(Plain):
    """It needs images of 48 pixels, and says so only by refusing smaller ones."""

    def forward(self, images):
        if min(images.shape[-2:]) < 48:
            raise ValueError("48 pixels or more, please")
        return super().forward(images)


@sound("backbone")
class Hooked(Plain):
    """Maps are caught by hooks, which are gone afterwards."""

    def forward(self, images):
        caught = []
        hooks = [
            layer.register_forward_hook(lambda _layer, _inputs, output: caught.append(output))
            for layer in (self.first, self.second)
        ]
        super().forward(images)
        for hook in hooks:
            hook.remove()
        return tuple(caught)


@sound("backbone")
class Resizing(Plain):
    """Every image becomes 16x16 first; one map has the pooled features."""

    channels = (6, 12, 12)

    def forward(self, images):
        small = F.interpolate(images.float(), (16, 16), mode="bilinear", antialias=True)
        first, second = super().forward(small.to(images.dtype))
        return first, second, second.mean((2, 3), keepdim=True)


@sound("backbone")
class Patches(nn.Module):
    """A transformer's patches: sides that are no multiple of eight are padded."""

    channels = (8, 8)

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, 8)
        self.norm = nn.GroupNorm(2, 8)
        self.requires_grad_(False)

    def forward(self, images):
        height, width = images.shape[-2:]
        images = F.pad(images.expand(-1, 3, -1, -1), (0, -width % 8, 0, -height % 8), mode="replicate")
        first = self.embed(images)
        return first, self.norm(first)


@mutant("backbone", killed_by="feature_maps")
class AddsScales(Plain):
    """The second map is enlarged to twice its size and added to the first: odd ones do not fit."""

    channels = (12, 12)

    def forward(self, images):
        first, second = super().forward(images)
        return torch.cat([first, first], 1) + F.interpolate(second, scale_factor=2.0), second


@mutant("backbone", killed_by="small_images_refused")
class SmallestUnchecked(Plain):
    """It declares how small images may be, and takes smaller ones."""

    smallest_size = 16


@mutant("backbone", killed_by="small_images_refused")
class SumOfSidesChecked(Plain):
    """It looks at the larger side: long narrow images pass."""

    smallest_size = 16

    def forward(self, images):
        if max(images.shape[-2:]) < self.smallest_size:
            raise ValueError("too small")
        return super().forward(images)


@mutant("backbone", killed_by="whole_range")
class ClipsTheDark(Plain):
    """Images are clipped to [0, 1], in which its network was trained."""

    def scaled(self, images):
        return super().scaled(images.clamp(0, 1))


@mutant("backbone", killed_by="any_grad_mode")
class ScaledByACache(Plain):
    """The input scaling is made at the first call and kept: under inference_mode, of no use to autograd."""

    def __init__(self):
        super().__init__()
        self.register_buffer("cached", None, persistent=False)

    def scaled(self, images):
        if self.cached is None or self.cached.device != images.device or self.cached.dtype != images.dtype:
            self.cached = torch.full((1, 3, 1, 1), 2.0).to(images)
        return super().scaled(images) * self.cached


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
