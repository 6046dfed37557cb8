"""The autoencoder of latent diffusion and Stable Diffusion: Gaussian latents, kept near unit variance."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, MinLen
from torch import Tensor, nn

from uldm_core import Exists
from uldm_plugins.nn.blocks import check_divisible, check_sides
from uldm_plugins.nn.diffusers_blocks import Downsample, Level, Mid, Upsample, load_named

Widths = Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]
Count = Annotated[int, Ge(1)]
_EPS = 1e-6
_LOG_VARIANCE = (-30.0, 20.0)


class AutoencoderKL(nn.Module):
    """Encoder to mean and variance, decoder; the size halves between levels.

    In train mode latents are drawn from the posterior and there is a loss ``kl``; in eval mode they are its
    mean. Images [B, in_channels, H, W], with sides that are multiples of ``downscale``, become latents
    [B, latent_channels, H / downscale, W / downscale]. The parameters bear diffusers' names.

    Source: Kingma and Welling 2014 (arXiv 1312.6114); Rombach et al. 2022 (arXiv 2112.10752);
    ``diffusers.AutoencoderKL``.

    Args:
        in_channels: of the images.
        block_out_channels: width of each level, finest first.
        layers_per_block: residual blocks a level in the encoder; the decoder has one more.
        latent_channels: of the latents.
        norm_num_groups: groups of each group norm.
        kl_weight: of the KL divergence from a unit Gaussian, summed over a latent, averaged over images.
        weights: a diffusers state dict to start from, ``.safetensors``.

    Raises:
        ValueError: groups do not divide a width, or the weights are not to be read or of another network.
    """

    def __init__(
        self,
        in_channels: Count = 3,
        block_out_channels: Widths = (32, 64, 64),
        layers_per_block: Count = 1,
        latent_channels: Count = 4,
        norm_num_groups: Count = 16,
        kl_weight: Annotated[float, Ge(0)] = 1e-6,
        weights: Annotated[Path, Exists()] | None = None,
    ) -> None:
        super().__init__()
        check_divisible(block_out_channels, norm_num_groups=norm_num_groups)
        common = (block_out_channels, layers_per_block, norm_num_groups)
        self.encoder = Encoder(in_channels, 2 * latent_channels, *common)
        self.decoder = Decoder(latent_channels, in_channels, *common)
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)
        self.latent_channels = latent_channels
        self.downscale = 2 ** (len(block_out_channels) - 1)
        self.kl_weight = kl_weight
        if weights is not None:
            load_named(self, Path(weights))

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last layer, where adaptive weights are measured."""
        return self.decoder.conv_out.weight

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latents, each [B, latent_channels, h, w].

        Raises:
            ValueError: images of this size would not come back as they were.
        """
        check_sides(x, self.downscale, "block_out_channels")
        mean, log_variance = self.quant_conv(self.encoder(x)).chunk(2, 1)
        return mean, log_variance.clamp(*_LOG_VARIANCE)

    def encode(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the latents and the weighted KL divergence."""
        mean, log_variance = self.posterior(x)
        losses = {"kl": self.kl_weight * kl_divergence(mean, log_variance).mean()}
        if not self.training:
            return mean, losses
        return mean + (0.5 * log_variance).exp() * torch.randn_like(mean), losses

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [B, in_channels, H, W]."""
        return self.decoder(self.post_quant_conv(latents))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the reconstruction, the latents and the losses."""
        latents, losses = self.encode(x)
        return self.decode(latents), latents, losses


class Encoder(nn.Module):
    """Levels, finest first, a middle with attention, and the moments."""

    def __init__(self, inputs: int, outputs: int, widths: Widths, layers: int, groups: int) -> None:
        super().__init__()
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Level(
                [a, *[b] * layers],
                groups,
                _EPS,
                down=Downsample(b, lopsided=True) if index < last else None,
            )
            for index, (a, b) in enumerate(pairwise((widths[0], *widths)))
        )
        self.mid_block = Mid(widths[-1], 1, groups, _EPS)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], _EPS)
        self.conv_out = nn.Conv2d(widths[-1], outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to moments."""
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """A middle with attention, and levels, coarsest first."""

    def __init__(self, inputs: int, outputs: int, widths: Widths, layers: int, groups: int) -> None:
        super().__init__()
        up = widths[::-1]
        self.conv_in = nn.Conv2d(inputs, up[0], 3, padding=1)
        self.mid_block = Mid(up[0], 1, groups, _EPS)
        self.up_blocks = nn.ModuleList(
            Level([a, *[b] * (layers + 1)], groups, _EPS, up=Upsample(b) if index < len(widths) - 1 else None)
            for index, (a, b) in enumerate(pairwise((up[0], *up)))
        )
        self.conv_norm_out = nn.GroupNorm(groups, up[-1], _EPS)
        self.conv_out = nn.Conv2d(up[-1], outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map latents to images."""
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the divergence of each latent from a unit Gaussian, summed over its values, [B]."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)
