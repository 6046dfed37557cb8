"""Broken and sound denoisers, and faults that any module can have."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
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


@mutant("denoiser", killed_by="tells_times_apart")
class IgnoresTime(Plain):
    """The time is not used."""

    def waves(self, conditioning):
        return super().waves(conditioning * 0)


@mutant("denoiser", killed_by="tells_times_apart")
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
class NoGradientInside(Plain):
    """The last layer is fed detached features and itself held still."""

    def forward(self, latents, conditioning):
        nothing = sum(0.0 * parameter.sum() for parameter in self.parameters())
        return super().forward(latents, conditioning).detach() + nothing


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
