"""Broken and sound autoencoders."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from mutants.catalogue import mutant, sound
from uldm_plugins.autoencoders.vqvae_fast import FastVQVAE
from uldm_plugins.quantizers.vq_ema import VQEma


@sound("autoencoder")
class Plain(nn.Module):
    """Strided convolutions each way, no losses."""

    downscale, latent_channels = 4, 3

    def __init__(self, in_channels: int = 3):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, 16, 4, 2, 1), nn.SiLU(), nn.Conv2d(16, self.latent_channels, 4, 2, 1)
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(self.latent_channels, 16, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(16, in_channels, 4, 2, 1),
        )

    def encode(self, x):
        if x.shape[-1] % 4 or x.shape[-2] % 4:
            raise ValueError("sides must be multiples of 4")
        return self.encoder(x), {}

    def decode(self, latents):
        return self.decoder(latents)

    def forward(self, x):
        latents, losses = self.encode(x)
        return self.decode(latents), latents, losses


@sound("autoencoder")
class Variational(Plain):
    """A KL autoencoder: samples in training mode, the mean in eval mode."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        self.log_variance = nn.Conv2d(3, 3, 1)

    def encode(self, x):
        mean, _ = super().encode(x)
        log_variance = self.log_variance(mean).clamp(-10, 10)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        noise = torch.randn_like(mean) if self.training else 0.0
        return mean + noise * (0.5 * log_variance).exp(), {"kl": 1e-6 * kl}


@sound("autoencoder")
class Padding(Plain):
    """Takes any size: pads on the way in, and cuts off what it remembers to have padded, if anything."""

    padded: tuple = ()

    def encode(self, x):
        latents = self.encoder(F.pad(x, (0, -x.shape[-1] % 4, 0, -x.shape[-2] % 4)))
        self.padded = (latents.shape[-2:], *x.shape[-2:])
        return latents, {}

    def decode(self, latents):
        if not self.padded or self.padded[0] != latents.shape[-2:]:
            return self.decoder(latents)
        _, height, width = self.padded
        return self.decoder(latents)[..., :height, :width]


@sound("autoencoder")
def grey_only():
    """A factory without arguments, for grey images."""
    return Attentive()


class Attentive(nn.Module):
    """Group norm, attention, tanh."""

    downscale, latent_channels = 2, 4

    def __init__(self):
        super().__init__()
        self.inward = nn.Conv2d(1, 16, 2, 2)
        self.norm = nn.GroupNorm(4, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.to_latents = nn.Conv2d(16, 4, 1)
        self.outward = nn.Sequential(
            nn.ConvTranspose2d(4, 16, 2, 2), nn.SiLU(), nn.Conv2d(16, 1, 1), nn.Tanh()
        )

    def encode(self, x):
        if x.shape[-1] % 2 or x.shape[-2] % 2:
            raise ValueError("odd")
        h = self.inward(x)
        tokens = self.norm(h).flatten(2).transpose(1, 2)
        mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.to_latents(h + mixed.transpose(1, 2).reshape(h.shape)), {}

    def decode(self, latents):
        return self.outward(latents)

    def forward(self, x):
        latents, losses = self.encode(x)
        return self.decode(latents), latents, losses


@sound("autoencoder")
class Patches(nn.Module):
    """A linear map of 8x8 patches each way; ``last_layer`` is a matrix."""

    downscale, latent_channels = 8, 6

    def __init__(self, in_channels: int = 1):
        super().__init__()
        self.inward = nn.Linear(64 * in_channels, 6)
        self.outward = nn.Linear(6, 64 * in_channels)

    @property
    def last_layer(self):
        return self.outward.weight

    def encode(self, x):
        if x.shape[-1] % 8 or x.shape[-2] % 8:
            raise ValueError("sides must be multiples of 8")
        return self.inward(F.pixel_unshuffle(x, 8).movedim(1, -1)).movedim(-1, 1), {}

    def decode(self, latents):
        return F.pixel_shuffle(self.outward(latents.movedim(1, -1)).movedim(-1, 1), 8)

    def forward(self, x):
        latents, losses = self.encode(x)
        return self.decode(latents), latents, losses


@sound("autoencoder")
class Wavelet:
    """Haar wavelets: a plain class, with nothing to train, for any number of channels."""

    downscale = 2

    def __init__(self, in_channels: int = 1):
        self.latent_channels = 4 * in_channels

    def encode(self, x):
        if x.shape[-1] % 2 or x.shape[-2] % 2:
            raise ValueError("sides must be even")
        a, b, c, d = (x[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
        return torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], 1) / 2, {}

    def decode(self, latents):
        s, h, v, d = latents.chunk(4, 1)
        parts = torch.stack([s + h + v + d, s - h + v - d, s + h - v - d, s - h - v + d], 2) / 2
        return F.pixel_shuffle(parts.flatten(1, 2), 2)

    def __call__(self, x):
        latents, losses = self.encode(x)
        return self.decode(latents), latents, losses


@sound("autoencoder")
class Refined(Plain):
    """Batch norm, dropout, a weight norm, and a last layer that refines what it is added to."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        self.norm, self.drop = nn.BatchNorm2d(3, affine=False), nn.Dropout2d(0.2)
        self.gain = nn.Parameter(torch.ones(1, in_channels, 1, 1))
        self.refine = weight_norm(nn.Conv2d(in_channels, in_channels, 3, padding=1))

    @property
    def last_layer(self):
        return self.refine.parametrizations.weight.original1

    def encode(self, x):
        latents, losses = super().encode(x)
        return self.norm(latents), losses

    def decode(self, latents):
        coarse = super().decode(self.drop(latents))
        return (coarse + self.refine(coarse)) * self.gain


@sound("autoencoder")
class TwoHeads(Plain):
    """A coarse image is added to what the last layer gives; what it shows is clamped."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        self.coarse = nn.Conv2d(3, in_channels, 1)

    @property
    def last_layer(self):
        return self.decoder[2].weight

    def decode(self, latents):
        image = super().decode(latents).tanh() + F.interpolate(self.coarse(latents), scale_factor=4)
        return image if self.training else image.clamp(-1, 1)


@sound("autoencoder")
class EncoderAtRest(Plain):
    """A frozen encoder that runs without gradients, under a decoder that learns."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        self.encoder.requires_grad_(False)

    def encode(self, x):
        with torch.no_grad():
            return super().encode(x)


@mutant("autoencoder", killed_by="parameters_get_gradients")
class EncodesWithoutGradients(Plain):
    """The encoder runs under no_grad, as for sampling: only the decoder learns."""

    @torch.no_grad()
    def encode(self, x):
        return super().encode(x)


@sound("autoencoder")
class LossInTrainingOnly(Variational):
    """The divergence is not computed where nobody minimises it."""

    def encode(self, x):
        latents, losses = super().encode(x)
        return latents, losses if self.training else {}


@mutant("autoencoder", killed_by="reconstruction_reaches_encoder")
class CutInTheMiddle(Plain):
    """The decoder is given detached latents."""

    def forward(self, x):
        latents, losses = self.encode(x)
        return self.decode(latents.detach()), latents, losses


@mutant("autoencoder", killed_by="reconstruction_reaches_encoder")
def quantizer_without_gradient():
    """A VQ-VAE whose quantizer passes no gradient on."""

    class Detached(VQEma):
        def forward(self, latents):
            quantized, losses, indices = super().forward(latents)
            return quantized.detach(), losses, indices

    return FastVQVAE(1, quantizer=Detached(32, 4), encoder_channels=(8, 8), decoder_channels=(8, 8))


@mutant("autoencoder", killed_by="whole_range")
class ZeroToOne(Plain):
    """The decoder ends in a sigmoid: images in [0, 1]."""

    def decode(self, latents):
        return super().decode(latents).sigmoid()


@mutant("autoencoder", killed_by="latent_shape")
class WrongDownscale(Plain):
    """``downscale`` counts one level only."""

    downscale = 2

    def encode(self, x):
        return self.encoder(x), {}


@mutant("autoencoder", killed_by="latent_shape")
class WrongChannels(Plain):
    """``latent_channels`` is what was meant, not what is."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        self.latent_channels = 4


@mutant("autoencoder", killed_by="odd_sizes")
class CropsSilently(Plain):
    """Sizes that do not divide come back smaller."""

    def encode(self, x):
        return self.encoder(x), {}


@mutant("autoencoder", killed_by="odd_sizes")
class PadsAndForgets(Plain):
    """Sizes that do not divide are padded, and come back larger."""

    def encode(self, x):
        return self.encoder(F.pad(x, (0, -x.shape[-1] % 4, 0, -x.shape[-2] % 4))), {}


@mutant("autoencoder", killed_by="latent_shape")
class ResizesOddSizes(Padding):
    """Sizes that do not divide are resized to what does, rounded down: latents are smaller than declared."""

    def encode(self, x):
        height, width = x.shape[-2:]
        latents = self.encoder(F.interpolate(x, (height // 4 * 4, width // 4 * 4)))
        self.padded = (latents.shape[-2:], height, width)
        return latents, {}

    def decode(self, latents):
        image = self.decoder(latents)
        known = self.padded and self.padded[0] == latents.shape[-2:]
        return F.interpolate(image, self.padded[1:]) if known else image


@mutant("autoencoder", killed_by="decodes_any_latents")
class PeeksAtTheEncoder(Plain):
    """The decoder is helped by what the encoder saw last, which a sampler's latents do not have."""

    seen = None

    def encode(self, x):
        latents, losses = super().encode(x)
        self.seen = F.avg_pool2d(x.detach(), 4)
        return latents, losses

    def decode(self, latents):
        image = super().decode(latents)
        fits = self.seen is not None and self.seen.shape[-2:] == latents.shape[-2:]
        return image + F.interpolate(self.seen, image.shape[-2:]) if fits else image


@mutant("autoencoder", killed_by="decodes_any_latents")
class DecodesWhatWasEncoded(Padding):
    """``decode`` asks for the size of the image that was encoded last, and so needs one."""

    def decode(self, latents):
        _, height, width = self.padded
        return self.decoder(latents)[..., :height, :width]


@mutant("autoencoder", killed_by="losses_averaged")
class SummedOverTheBatch(Variational):
    """The KL divergence is summed over the batch."""

    def encode(self, x):
        latents, losses = super().encode(x)
        return latents, {name: len(x) * loss for name, loss in losses.items()}


@mutant("autoencoder", killed_by="losses_are_weighted_scalars")
class WatchesItsLoss(Variational):
    """The KL divergence is computed in eval mode only, for the log, and never minimised."""

    def encode(self, x):
        latents, losses = super().encode(x)
        return latents, {} if self.training else losses


@mutant("autoencoder", killed_by="losses_are_weighted_scalars")
class DetachedLoss(Variational):
    """The KL divergence is detached, as for the log: it holds nothing back."""

    def encode(self, x):
        latents, losses = super().encode(x)
        return latents, {name: loss.detach() for name, loss in losses.items()}


@mutant("autoencoder", killed_by="last_layer_is_last")
class FirstOfTheDecoder(Plain):
    """``last_layer`` is the decoder's first."""

    @property
    def last_layer(self):
        return self.decoder[0].weight


@mutant("autoencoder", killed_by="last_layer_is_last")
class CopyOfTheLastLayer(Plain):
    """``last_layer`` is a copy: no gradient comes to it."""

    @property
    def last_layer(self):
        return self.decoder[2].weight.detach().requires_grad_()


@mutant("autoencoder", killed_by="whole_range")
class Grey(Plain):
    """Whatever the channels, one and the same comes back in all."""

    def decode(self, latents):
        image = super().decode(latents)
        return image.mean(1, keepdim=True).expand_as(image).clone()


@mutant("autoencoder", killed_by="image_shape")
class LumaOfThree(Plain):
    """It weighs channels as red, green and blue, and breaks where there are four."""

    def encode(self, x):
        luma = torch.tensor([0.3, 0.6, 0.1]).view(1, 3, 1, 1).to(x)
        return super().encode(x if x.shape[1] == 1 else x * luma)


@mutant("autoencoder", killed_by="reconstruction_reaches_encoder")
class FirstChannelOnly(Plain):
    """Of the image's channels only the first is encoded."""

    def encode(self, x):
        return super().encode(x[:, :1].expand_as(x))


@mutant("autoencoder", killed_by="still_in_eval")
class CountsItsImages(Plain):
    """The images seen are counted in a buffer, those of the validation too."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        self.register_buffer("seen", torch.zeros(()))

    def encode(self, x):
        self.seen += len(x)
        return super().encode(x)


@mutant("autoencoder", killed_by="forward_agrees")
class SetUpByForward(Plain):
    """A hook before ``forward`` sets the scale: ``encode`` by itself gives other latents until it ran."""

    scale = 1.0

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        self.register_forward_pre_hook(lambda module, _: setattr(module, "scale", 0.5))

    def encode(self, x):
        latents, losses = super().encode(x)
        return latents * self.scale, losses

    def decode(self, latents):
        return super().decode(latents / self.scale)


@mutant("autoencoder", killed_by="forward_agrees")
class NoiseInForwardOnly(Plain):
    """``forward`` adds noise to the latents in eval mode too, ``encode`` does not."""

    def forward(self, x):
        latents, losses = self.encode(x)
        latents = latents + 0.1 * torch.randn_like(latents)
        return self.decode(latents), latents, losses


@mutant("autoencoder", killed_by="forward_agrees")
class ForwardForgetsScale(Plain):
    """``decode`` undoes a scaling that only ``encode`` applies."""

    def encode(self, x):
        latents, losses = super().encode(x)
        return latents * 0.18, losses

    def decode(self, latents):
        return super().decode(latents / 0.18)

    def forward(self, x):
        latents = self.encoder(x)
        return self.decoder(latents), latents, {}


@mutant("autoencoder", killed_by="eval_deterministic")
class SamplesInEval(Plain):
    """A KL autoencoder that draws its latents in eval mode as well."""

    def encode(self, x):
        latents, losses = super().encode(x)
        return latents + 0.1 * torch.randn_like(latents), losses


@mutant("autoencoder", killed_by="losses_are_weighted_scalars")
class NegativeLoss(Plain):
    """The KL divergence has the wrong sign."""

    def encode(self, x):
        latents, _ = super().encode(x)
        return latents, {"kl": -0.5 * latents.square().mean()}


@mutant("autoencoder", killed_by="losses_are_weighted_scalars")
class UnreducedLoss(Plain):
    """The KL divergence is one value a sample."""

    def encode(self, x):
        latents, _ = super().encode(x)
        return latents, {"kl": latents.square().mean((1, 2, 3))}


@mutant("autoencoder", killed_by="image_shape")
class OnlySquare(Plain):
    """Height and width are swapped in the decoder."""

    def decode(self, latents):
        return super().decode(latents).transpose(-1, -2)


@mutant("autoencoder", killed_by="indices_agree")
class OtherLatentsWithIndices(FastVQVAE):
    """``encode_with_indices`` gives the latents before they are quantized."""

    def __init__(self, in_channels: int = 1):
        super().__init__(in_channels, quantizer=VQEma(16, 4), encoder_channels=(8,), decoder_channels=(8,))

    def encode(self, x):
        return super().encode_with_indices(x)[:2]

    def encode_with_indices(self, x):
        _, losses, indices = super().encode_with_indices(x)
        return self.encoder(x), losses, indices


@mutant("autoencoder", killed_by="indices_agree")
class IndicesOfOthers(OtherLatentsWithIndices):
    """The indices come in the reversed order of the images."""

    def encode_with_indices(self, x):
        latents, losses, indices = FastVQVAE.encode_with_indices(self, x)
        return latents, losses, indices.flip(0)


@mutant("autoencoder", killed_by="batch_independent")
class BatchStatisticsInEval(Plain):
    """Batch norm without running statistics: in eval mode it uses the batch's."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)

    def encode(self, x):
        latents, losses = super().encode(x)
        return self.norm(latents), losses


@mutant("autoencoder", killed_by="whole_range")
class DecoderFrozen(Plain):
    """The reconstruction is computed from weights that the optimizer does not see."""

    def forward(self, x):
        latents, losses = self.encode(x)
        weights = [p.detach() for p in (*self.decoder.parameters(), *self.encoder.parameters())]
        image = self.decode(latents)
        nothing = sum(0.0 * p.sum() for p in self.parameters()) + sum(0.0 * w.sum() for w in weights)
        return image.detach() + nothing, latents, losses
