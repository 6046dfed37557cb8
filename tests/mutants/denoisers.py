"""Broken and sound denoisers, and faults that any module can have."""

from __future__ import annotations

import copy
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import nn

from mutants.catalogue import mutant, sound


@sound("denoiser")
class Plain(nn.Module):
    """Two convolutions, told the time by a few waves."""

    def __init__(self, channels: int = 4):
        super().__init__()
        self.time = nn.Linear(8, 16)
        self.inward = nn.Conv2d(channels, 16, 3, padding=1)
        self.outward = nn.Conv2d(16, channels, 3, padding=1)

    def waves(self, conditioning):
        rates = torch.tensor([1.0, 0.1, 0.01, 0.001], device=conditioning.device)
        angles = conditioning.float()[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], 1)

    def forward(self, latents, conditioning):
        embedding = self.time(self.waves(conditioning).to(self.time.weight.dtype))
        return self.outward(F.silu(self.inward(latents) + embedding[..., None, None]))


@sound("denoiser")
def three_channels():
    """A factory without arguments; nothing says how many channels it takes."""
    return Plain(3)


@sound("denoiser")
class Patches(nn.Module):
    """A small DiT: tokens, attention modulated by the time, one size."""

    def __init__(self, channels: int, size: int):
        super().__init__()
        self.size = size
        self.inward = nn.Linear(channels, 16)
        self.places = nn.Parameter(0.1 * torch.randn(size * size, 16))
        self.time = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, 48))
        self.norm = nn.LayerNorm(16, elementwise_affine=False)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.outward = nn.Linear(16, channels)

    def forward(self, latents, conditioning):
        times = (conditioning[:, None] / 1000).to(self.time[0].weight.dtype)
        shift, scale, gate = self.time(times)[:, None].chunk(3, -1)
        tokens = self.inward(latents.flatten(2).transpose(1, 2)) + self.places
        normed = self.norm(tokens) * (1 + scale) + shift
        tokens = tokens + gate * self.attention(normed, normed, normed, need_weights=False)[0] + shift
        return self.outward(tokens).transpose(1, 2).reshape(latents.shape)


@sound("denoiser")
class Downsampling(Plain):
    """One level down and up, with a skip; any size."""

    def __init__(self, channels: int = 4):
        super().__init__(channels)
        self.down = nn.Conv2d(16, 16, 3, 2, 1)
        self.join = nn.Conv2d(32, 16, 1)

    def forward(self, latents, conditioning):
        embedding = self.time(self.waves(conditioning).to(self.time.weight.dtype))
        fine = F.silu(self.inward(latents) + embedding[..., None, None])
        coarse = F.interpolate(F.silu(self.down(fine)), fine.shape[2:])
        return self.outward(self.join(torch.cat([fine, coarse], 1)))


@sound("denoiser")
class StepTable(Plain):
    """A row of a table for each of 1,000 steps, as trained by DDPM: other times raise IndexError."""

    def __init__(self, channels: int = 4):
        super().__init__(channels)
        self.time = nn.Embedding(1001, 16)

    def waves(self, conditioning):
        return conditioning

    def forward(self, latents, conditioning):
        embedding = self.time(conditioning.round().long())
        return self.outward(F.silu(self.inward(latents) + embedding[..., None, None]))


@sound("denoiser")
class ExpertsByTime(nn.Module):
    """Four networks, each for a quarter of the times (eDiff-I): a batch may call one of them only."""

    def __init__(self, channels: int = 4):
        super().__init__()
        self.experts = nn.ModuleList(Plain(channels) for _ in range(4))

    def forward(self, latents, conditioning):
        which = (conditioning / 250).long().clamp(0, 3).tolist()
        each = [
            self.experts[w](x[None], t[None]) for w, x, t in zip(which, latents, conditioning, strict=True)
        ]
        return torch.cat(each)


@sound("denoiser")
class ExpertsByToken(nn.Module):
    """Each place goes to the one of four experts that a router picks: not every batch calls each."""

    def __init__(self, channels: int = 4):
        super().__init__()
        self.inward = nn.Linear(channels + 2, 16)
        self.router = nn.Linear(16, 4)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.outward = nn.Linear(16, channels)

    def forward(self, latents, conditioning):
        times = torch.stack([conditioning / 1000, conditioning.sin()], 1).to(latents.dtype)
        tokens = latents.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens, times[:, None].expand(-1, tokens.shape[1], -1)], 2)
        hidden = self.inward(tokens)
        shares = self.router(hidden).softmax(-1)
        picked = shares.argmax(-1, keepdim=True)
        for number, expert in enumerate(self.experts):
            if (picked == number).any():
                hidden = hidden + (picked == number) * shares[..., [number]] * F.gelu(expert(hidden))
        return self.outward(hidden).transpose(1, 2).reshape(latents.shape)


@sound("denoiser")
class HalvesTwice(Plain):
    """Two levels: sides must be multiples of 4, and others are refused."""

    def forward(self, latents, conditioning):
        if latents.shape[-1] % 4 or latents.shape[-2] % 4:
            raise ValueError("sides must be multiples of 4")
        coarse = F.interpolate(F.avg_pool2d(latents, 4), scale_factor=4)
        return super().forward(latents, conditioning) + coarse


@sound("denoiser")
class RefusesOddSizes(Patches):
    """Patches of two: it is built for even sizes only."""

    def __init__(self, channels: int, size: int):
        if size % 2:
            raise ValueError(f"size = {size}: it must be even")
        super().__init__(channels, size)


@sound("denoiser")
class StartsAsNothing(Plain):
    """Its last layer starts at zero; the time is told by fixed random waves; dropout in training."""

    def __init__(self, channels: int = 4):
        super().__init__(channels)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)
        self.register_buffer("rates", torch.rand(4))
        self.dropout = nn.Dropout(0.1)

    def waves(self, conditioning):
        angles = conditioning.float()[:, None] * self.rates.float()
        return self.dropout(torch.cat([angles.sin(), angles.cos()], 1))


@sound("denoiser")
class WithClasses(Plain):
    """An embedding of the class is added to that of the time."""

    def __init__(self, channels: int = 4, classes: int = 0):
        super().__init__(channels)
        self.classes = nn.Embedding(classes + 1, 16)

    def embedded(self, time, condition):
        if condition is None:
            condition = torch.full_like(time, self.classes.num_embeddings - 1, dtype=torch.int64)
        return self.classes(condition)

    def forward(self, latents, time, condition=None):
        embedding = self.time(self.waves(time).to(self.time.weight.dtype)) + self.embedded(time, condition)
        return self.outward(F.silu(self.inward(latents) + embedding[..., None, None]))


@sound("denoiser")
class OneHot(WithClasses):
    """Classes are one-hot vectors and "no class" is zeros; it is made for a condition only."""

    def __init__(self, channels: int, classes: Annotated[int, Ge(1)]):
        super().__init__(channels)
        self.classes = nn.Linear(classes, 16)

    def embedded(self, time, condition):
        classes = self.classes.in_features
        if condition is None:
            condition = torch.full_like(time, classes, dtype=torch.int64)
        if condition.min() < 0 or condition.max() > classes:
            raise ValueError("there is no such class")
        hot = condition[:, None] == torch.arange(classes, device=condition.device)
        return self.classes(hot.to(self.classes.weight.dtype))


@sound("denoiser")
class ExpertsByClass(nn.Module):
    """A network for each class, and one for none."""

    def __init__(self, channels: int = 4, classes: int = 0):
        super().__init__()
        self.experts = nn.ModuleList(Plain(channels) for _ in range(classes + 1))

    def forward(self, latents, time, condition=None):
        if condition is None:
            return self.experts[-1](latents, time)
        if min(condition.tolist()) < 0:
            raise ValueError("there is no such class")
        each = zip(condition.tolist(), latents, time, strict=True)
        return torch.cat([self.experts[index](x[None], t[None]) for index, x, t in each])


@sound("denoiser")
class Augmented(Plain):
    """A linear layer of what was done to the image, added to the embedding of the time."""

    def __init__(self, channels: int = 4, augmentation: int = 0):
        super().__init__(channels)
        self.layer = nn.Linear(augmentation, 16, bias=False) if augmentation else None

    def embedded(self, augmentation):
        if self.layer is None:
            raise ValueError("made without augmentation")
        return self.layer(augmentation.to(self.layer.weight.dtype))

    def forward(self, latents, time, condition=None, augmentation=None):
        embedding = self.time(self.waves(time).to(self.time.weight.dtype))
        if augmentation is not None:
            embedding = embedding + self.embedded(augmentation)
        return self.outward(F.silu(self.inward(latents) + embedding[..., None, None]))


@mutant("denoiser", killed_by="distinguishes_augmentations")
class Unaugmented(Augmented):
    """The parameters pass through their layer, and nothing comes of it."""

    def embedded(self, augmentation):
        return 0 * super().embedded(augmentation)


@mutant("denoiser", killed_by="distinguishes_augmentations")
class Unsigned(Augmented):
    """To the left and to the right are one."""

    def embedded(self, augmentation):
        return super().embedded(augmentation.abs())


@mutant("denoiser", killed_by="none_is_no_augmentation")
class Biased(Augmented):
    """The layer has a bias, which is missing where no parameters are given."""

    def __init__(self, channels: int = 4, augmentation: int = 0):
        super().__init__(channels)
        self.layer = nn.Linear(augmentation, 16) if augmentation else None


@mutant("denoiser", killed_by="refuses_other_parameters")
class Ignoring(Augmented):
    """Made without augmentation it takes parameters all the same, without effect."""

    def embedded(self, augmentation):
        return super().embedded(augmentation) if self.layer else 0


@mutant("denoiser", killed_by="refuses_other_parameters")
class CutOff(Augmented):
    """Of more parameters than it was made for it takes the first."""

    def embedded(self, augmentation):
        count = self.layer.in_features if self.layer else 0
        padded = F.pad(augmentation, (0, max(0, count - augmentation.shape[1])))
        return super().embedded(padded[:, :count])


@mutant("denoiser", killed_by="distinguishes_classes")
class LastIsNoClass(WithClasses):
    """The last class and "no class" are one row of its table."""

    def embedded(self, time, condition):
        last = self.classes.num_embeddings - 1
        return super().embedded(
            time, condition if condition is None or not last else condition + (condition == last - 1)
        )


@mutant("denoiser", killed_by="distinguishes_classes")
class IgnoresClasses(WithClasses):
    """It looks the class up, and does not use it."""

    def embedded(self, time, condition):
        return 0 * super().embedded(time, condition)


@mutant("denoiser", killed_by="none_is_no_class")
class NoneIsFirst(WithClasses):
    """Without a condition it takes the first class."""

    def embedded(self, time, condition):
        if condition is None:
            condition = torch.zeros_like(time, dtype=torch.int64)
        return super().embedded(time, condition)


@mutant("denoiser", killed_by="none_is_no_class")
class NoneAddsNothing(WithClasses):
    """Without a condition nothing is added, and the row for "no class" is another thing."""

    def embedded(self, time, condition):
        if condition is None:
            return 0 * self.classes.weight[-1].expand(len(time), -1)
        return super().embedded(time, condition)


@mutant("denoiser", killed_by="refuses_unknown_classes")
class ClassesClamped(WithClasses):
    """Indices beyond its table are taken for the last one."""

    def embedded(self, time, condition):
        last = self.classes.num_embeddings - 1
        if last and condition is not None:
            condition = condition.clamp(0, last)
        return super().embedded(time, condition)


@mutant("denoiser", killed_by="refuses_unknown_classes")
class NegativeFromTheEnd(WithClasses):
    """The table is indexed as a tensor is: -1 is its last row."""

    def embedded(self, time, condition):
        if condition is None:
            return super().embedded(time, None)
        return self.classes.weight[condition]


@mutant("denoiser", killed_by="takes_none_without_classes")
class LeavesItOut(WithClasses):
    """Made without classes it takes a condition and does not look at it."""

    def embedded(self, time, condition):
        return super().embedded(time, condition if self.classes.num_embeddings > 1 else None)


@mutant("denoiser", killed_by="batch_independent")
class FirstClassForAll(WithClasses):
    """The first sample's class is used for the whole batch."""

    def embedded(self, time, condition):
        return super().embedded(
            time, condition if condition is None else condition[:1].expand(len(condition))
        )


@mutant("denoiser", killed_by="parameters_get_gradients")
class ClassesDetached(WithClasses):
    """The embedding of the class is cut off from what is trained."""

    def embedded(self, time, condition):
        return super().embedded(time, condition).detach()


@mutant("denoiser", killed_by="bfloat16")
class FloatClasses(WithClasses):
    """The embedding of the class stays float32 where the module is cast."""

    def embedded(self, time, condition):
        return super().embedded(time, condition).float()


@mutant("denoiser", killed_by="moves_whole")
class NoClassOnTheCpu(WithClasses):
    """The index for "no class" is made on the CPU wherever the module is."""

    def embedded(self, time, condition):
        if condition is None:
            condition = torch.full((len(time),), self.classes.num_embeddings - 1)
        return super().embedded(time, condition)


@mutant("denoiser", killed_by="distinguishes_times")
class TimesClampedToSteps(Plain):
    """Times are clamped to steps, so that all of Karras's that are below 0 are one."""

    def waves(self, conditioning):
        return super().waves(conditioning.clamp(0, 1000))


@mutant("denoiser", killed_by="distinguishes_times")
class TimesRounded(Plain):
    """Times are rounded to whole steps, of which Karras's have four."""

    def waves(self, conditioning):
        return super().waves(conditioning.round())


@mutant("denoiser", killed_by="distinguishes_times")
class EveryTenthStep(Plain):
    """Times are rounded to tens: neighbouring steps are one."""

    def waves(self, conditioning):
        return super().waves(torch.where(conditioning > 10, (conditioning / 10).floor() * 10, conditioning))


@mutant("denoiser", killed_by="predicts_everywhere")
class OddRowsLeftZero(Plain):
    """An odd side's last row and column are not predicted, and left at zero."""

    def forward(self, latents, conditioning):
        prediction = super().forward(latents, conditioning)
        height, width = (side // 2 * 2 for side in latents.shape[-2:])
        even = prediction[..., :height, :width]
        return F.pad(even, (0, latents.shape[-1] - width, 0, latents.shape[-2] - height))


@mutant("denoiser", killed_by="predicts_everywhere")
class PooledLatents(Plain):
    """Each channel is averaged over its places before it is looked at."""

    def forward(self, latents, conditioning):
        pooled = latents.mean((2, 3), keepdim=True).expand(latents.shape)
        return super().forward(pooled.contiguous(), conditioning)


@mutant("denoiser", killed_by="predicts_everywhere")
class LastChannelConstant(Plain):
    """The last layer has a channel too few; what is missing is filled up with the time."""

    def forward(self, latents, conditioning):
        prediction = super().forward(latents, conditioning)
        rest = (conditioning / 1000).to(prediction).view(-1, 1, 1, 1).expand_as(prediction[:, :1])
        return torch.cat([prediction[:, :-1], rest + 0 * prediction[:, -1:]], 1)


@mutant("denoiser", killed_by="distinguishes_times")
class IgnoresTime(Plain):
    """The time is not used."""

    def waves(self, conditioning):
        return super().waves(conditioning * 0)


@mutant("denoiser", killed_by="distinguishes_times")
class TimeClipped(Plain):
    """Times are taken to lie in [0, 1]: all but the first are one."""

    def waves(self, conditioning):
        return super().waves(1000 * conditioning.clamp(0, 1))


@mutant("denoiser", killed_by="batch_independent")
class FirstTimeForAll(Plain):
    """The first sample's time is used for the whole batch."""

    def waves(self, conditioning):
        return super().waves(conditioning[:1].expand(len(conditioning)))


@mutant("denoiser", killed_by="latents_shape")
class EvenSidesOnly(Plain):
    """Odd sides come back a pixel smaller."""

    def forward(self, latents, conditioning):
        even = latents[..., : latents.shape[-2] // 2 * 2, : latents.shape[-1] // 2 * 2]
        return super().forward(even, conditioning)


@mutant("denoiser", killed_by="every_latent_counts")
class ForgetsTheLastChannel(Plain):
    """Channels are sliced one short on the way in."""

    def forward(self, latents, conditioning):
        return super().forward(torch.cat([latents[:, :-1], latents[:, :1]], 1), conditioning)


@mutant("denoiser", killed_by="every_latent_counts")
class CropsTheBorder(Plain):
    """The border of the latents is cut off and padded again with zeros."""

    def forward(self, latents, conditioning):
        return super().forward(F.pad(latents[..., 1:-1, 1:-1], (1, 1, 1, 1)), conditioning)


@mutant("denoiser", killed_by="learns")
class WeightsDetached(nn.Module):
    """Its network is called with weights that are cut off from what is trained."""

    def __init__(self, channels: int = 4):
        super().__init__()
        self.network = Plain(channels)

    def forward(self, latents, conditioning):
        weights = {name: weight.detach() for name, weight in self.network.named_parameters()}
        nothing = sum(0.0 * parameter.sum() for parameter in self.parameters())
        return torch.func.functional_call(self.network, weights, (latents, conditioning)) + nothing


@mutant("denoiser", killed_by="latents_shape")
class PadsOddSizes(Patches):
    """Odd sizes are padded to whole patches, and not cut off again."""

    def __init__(self, channels: int, size: int):
        super().__init__(channels, size + size % 2)

    def forward(self, latents, conditioning):
        odd = self.size - latents.shape[-1]
        return super().forward(F.pad(latents, (0, odd, 0, odd)), conditioning)


@mutant("denoiser", killed_by="parameters_get_gradients")
class UnusedLayer(Plain):
    """A layer is made and never called."""

    def __init__(self, channels: int = 4):
        super().__init__(channels)
        self.middle = nn.Conv2d(16, 16, 3, padding=1)


@mutant("denoiser", killed_by="batch_independent")
class BatchNormWithoutStatistics(Plain):
    """Batch norm that uses the batch's statistics in eval mode too."""

    def __init__(self, channels: int = 4):
        super().__init__(channels)
        self.norm = nn.BatchNorm2d(channels, track_running_stats=False)

    def forward(self, latents, conditioning):
        return super().forward(self.norm(latents), conditioning)


@mutant("denoiser", killed_by="moves_whole")
class LayersInAList(Plain):
    """Layers are kept in a plain list: neither trained, nor saved, nor moved."""

    def __init__(self, channels: int = 4):
        super().__init__(channels)
        self.layers = [nn.Conv2d(16, 16, 1)]

    def forward(self, latents, conditioning):
        embedding = self.time(self.waves(conditioning).to(self.time.weight.dtype))
        hidden = F.silu(self.inward(latents) + embedding[..., None, None])
        return self.outward(self.layers[0].to(hidden.dtype)(hidden))


@mutant("denoiser", killed_by="moves_whole")
class WavesOnTheCpu(Plain):
    """The time's frequencies are made on the CPU wherever the module is."""

    def waves(self, conditioning):
        angles = conditioning[:, None] * torch.arange(4).float()
        return torch.cat([angles.sin(), angles.cos()], 1)


@mutant("denoiser", killed_by="memory_formats_agree")
class TrustsStrides(Plain):
    """It reads the latents' memory as if it were contiguous."""

    def forward(self, latents, conditioning):
        flat = torch.as_strided(latents, latents.shape, torch.empty(latents.shape).stride())
        return super().forward(flat, conditioning)


@mutant("denoiser", killed_by="memory_formats_agree")
class ViewsChannelsLast(Plain):
    """``view`` fails on channels_last latents."""

    def forward(self, latents, conditioning):
        return super().forward(latents.view(-1).view(latents.shape), conditioning)


@mutant("denoiser", killed_by="inputs_unchanged")
class InPlaceActivation(Plain):
    """An in-place activation is applied to the caller's latents."""

    def forward(self, latents, conditioning):
        return super().forward(latents.detach().relu_() + 0 * latents, conditioning)


@mutant("denoiser", killed_by="mode_restored")
class EvalsItself(Plain):
    """A call switches it to eval mode."""

    def forward(self, latents, conditioning):
        self.eval()
        return super().forward(latents, conditioning)


@mutant("denoiser", killed_by="mode_restored")
class TrainDoesNothing(Plain):
    """``train()`` is overridden and forgets its children."""

    def train(self, mode=True):
        self.training = mode
        return self


@mutant("denoiser", killed_by="eval_deterministic")
class NoisyInEval(Plain):
    """Noise is added to the embedding in eval mode as well."""

    def waves(self, conditioning):
        return super().waves(conditioning) + 0.1 * torch.randn(len(conditioning), 8)


@mutant("denoiser", killed_by="same_seed_same_weights")
class SeedsEverybody(Plain):
    """It seeds torch when it is built."""

    def __init__(self, channels: int = 4):
        torch.manual_seed(0)
        super().__init__(channels)


@mutant("denoiser", killed_by="same_seed_same_weights")
class UnseededWeights(Plain):
    """Its weights come from a generator that no seed reaches."""

    def __init__(self, channels: int = 4):
        super().__init__(channels)
        generator = torch.Generator()
        generator.seed()
        with torch.no_grad():
            self.outward.weight.normal_(generator=generator)


@mutant("denoiser", killed_by="state_round_trip")
class RandomFeaturesNotSaved(Plain):
    """Random frequencies are a buffer that is not saved."""

    def __init__(self, channels: int = 4):
        super().__init__(channels)
        self.register_buffer("frequencies", torch.rand(4), persistent=False)

    def waves(self, conditioning):
        angles = conditioning.float()[:, None] * self.frequencies.float()
        return torch.cat([angles.sin(), angles.cos()], 1)


@mutant("denoiser", killed_by="deepcopy_independent")
class CallsByAFunction(Plain):
    """A function that a deep copy does not copy calls the original's layers."""

    def __init__(self, channels: int = 4):
        super().__init__(channels)
        self.first = lambda latents: self.inward(latents)

    def forward(self, latents, conditioning):
        embedding = self.time(self.waves(conditioning).to(self.time.weight.dtype))
        return self.outward(F.silu(self.first(latents) + embedding[..., None, None]))


@mutant("denoiser", killed_by="deepcopy_independent")
class CopiesShareWeights(Plain):
    """``__deepcopy__`` copies the shell and shares the weights."""

    def __deepcopy__(self, memo):
        return copy.copy(self)


@mutant("denoiser", killed_by="extremes_finite")
class DividesByDeviation(Plain):
    """Latents are divided by their deviation, which is zero for blank ones."""

    def forward(self, latents, conditioning):
        return super().forward(latents / latents.std((1, 2, 3), keepdim=True), conditioning)


@mutant("denoiser", killed_by="bfloat16")
class FloatEmbedding(Plain):
    """The embedding stays float32 where the module is cast."""

    def forward(self, latents, conditioning):
        embedding = self.time(self.waves(conditioning))
        return self.outward(F.silu(self.inward(latents) + embedding[..., None, None]))


@mutant("denoiser", killed_by="autocast")
class OverflowsUnderAutocast(Plain):
    """A matrix product of large values is taken to float16's range by hand."""

    def forward(self, latents, conditioning):
        prediction = super().forward(latents, conditioning)
        if torch.is_autocast_enabled("cpu"):
            prediction = (prediction * 1e6).half().float() / 1e6
        return prediction
