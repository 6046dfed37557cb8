"""Broken and sound autoencoders."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

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
            nn.Upsample(scale_factor=2),
            nn.Conv2d(self.latent_channels, 16, 3, padding=1),
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(16, in_channels, 3, padding=1),
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
    """Takes any size: pads on the way in, and cuts off what it remembers to have padded."""

    def encode(self, x):
        self.sides = x.shape[-2:]
        return self.encoder(F.pad(x, (0, -x.shape[-1] % 4, 0, -x.shape[-2] % 4))), {}

    def decode(self, latents):
        height, width = self.sides
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
            nn.Conv2d(4, 16, 1), nn.SiLU(), nn.Upsample(scale_factor=2), nn.Conv2d(16, 1, 1), nn.Tanh()
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
class EvenSubPixels(Plain):
    """The last layer shuffles sub-pixels, whose weights start equal, as in ICNR."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        last = nn.Conv2d(16, 4 * in_channels, 3, padding=1)
        for values in last.parameters():
            values.data = values.data[::4].repeat_interleave(4, 0)
        self.decoder = nn.Sequential(*self.decoder[:3], last, nn.PixelShuffle(2))


@mutant("autoencoder", killed_by="starts_without_checkerboard")
class UnevenSubPixels(Plain):
    """The last layer shuffles sub-pixels, whose weights start apart from each other."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        last = nn.Conv2d(16, 4 * in_channels, 3, padding=1)
        self.decoder = nn.Sequential(*self.decoder[:3], last, nn.PixelShuffle(2))


@mutant("autoencoder", killed_by="starts_without_checkerboard")
class TransposedAsTorchStartsIt(Plain):
    """Transposed convolutions, with the weights that torch gives them."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(3, 16, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(16, in_channels, 4, 2, 1)
        )


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


@mutant("autoencoder", killed_by="batch_independent")
class BatchStatisticsInEval(Plain):
    """Batch norm without running statistics: in eval mode it uses the batch's."""

    def __init__(self, in_channels: int = 3):
        super().__init__(in_channels)
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)

    def encode(self, x):
        latents, losses = super().encode(x)
        return self.norm(latents), losses


@mutant("autoencoder", killed_by="learns")
class DecoderFrozen(Plain):
    """The reconstruction is computed from weights that the optimizer does not see."""

    def forward(self, x):
        latents, losses = self.encode(x)
        weights = [p.detach() for p in (*self.decoder.parameters(), *self.encoder.parameters())]
        image = self.decode(latents)
        nothing = sum(0.0 * p.sum() for p in self.parameters()) + sum(0.0 * w.sum() for w in weights)
        return image.detach() + nothing, latents, losses
