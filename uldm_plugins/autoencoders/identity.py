"""No autoencoder: diffusion on pixels."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn


class IdentityAutoencoder(nn.Module):
    """Latents are the images; there is nothing to train.

    Args:
        in_channels: of the images.
    """

    downscale = 1

    def __init__(self, in_channels: Annotated[int, Ge(1)] = 3) -> None:
        super().__init__()
        self.latent_channels = in_channels

    def encode(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the images [B, C, H, W], and no losses."""
        return x.clone(), {}

    def decode(self, latents: Tensor) -> Tensor:
        """Return the latents, which are images."""
        return latents.clone()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the images as reconstruction and as latents, and no losses."""
        return x.clone(), x.clone(), {}
