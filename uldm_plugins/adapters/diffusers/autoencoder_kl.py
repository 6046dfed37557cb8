"""The AutoencoderKL of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import diffusers
from annotated_types import Ge
from torch import Tensor, nn

from uldm_core import Exists
from uldm_plugins.adapters.diffusers.common import Count, Widths, load_weights
from uldm_plugins.nn.blocks import check_sides


class AutoencoderKL(nn.Module):
    """``diffusers.AutoencoderKL`` where an autoencoder is wanted.

    In train mode latents are drawn from the posterior; in eval mode they are its mean. Latents are as
    diffusers' ``encode`` gives them: ``scaling_factor`` is not applied.

    Source: ``diffusers.AutoencoderKL``.

    Args:
        in_channels: of the images.
        block_out_channels: width of each level, finest first.
        layers_per_block: residual blocks a level in the encoder.
        latent_channels: of the latents.
        norm_num_groups: groups of each group norm.
        kl_weight: of the KL divergence, summed over a latent, averaged over images.
        weights: a state dict to start from, ``.safetensors``.

    Raises:
        ValueError: the weights are not to be read or of another network.
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
        levels = len(block_out_channels)
        network: Any = diffusers.AutoencoderKL(
            in_channels=in_channels,
            out_channels=in_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
        )
        self.latent_channels = latent_channels
        self.downscale = 2 ** (levels - 1)
        self.kl_weight = kl_weight
        load_weights(network, weights)
        self.network: Any = network

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the decoder's last layer."""
        return self.network.decoder.conv_out.weight

    def encode(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return latents [B, latent_channels, h, w] of images [B, C, H, W], and the weighted ``kl``.

        Raises:
            ValueError: a side is no multiple of ``downscale``.
        """
        check_sides(x, self.downscale, "block_out_channels")
        posterior = self.network.encode(x).latent_dist
        latents = posterior.sample() if self.training else posterior.mode()
        return latents, {"kl": self.kl_weight * posterior.kl().mean()}

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [B, C, H, W]."""
        return self.network.decode(latents).sample

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the reconstruction, the latents and the losses."""
        latents, losses = self.encode(x)
        return self.decode(latents), latents, losses
