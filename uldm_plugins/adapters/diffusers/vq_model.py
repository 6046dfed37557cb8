"""The VQModel of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import diffusers
from torch import Tensor, nn

from uldm_core import Exists
from uldm_plugins.adapters.diffusers.common import Count, Widths, load_weights
from uldm_plugins.nn.blocks import check_sides


class Codebook(nn.Module):
    """The quantizer of a VQModel where a quantizer is wanted: it owns nothing, the VQModel does."""

    def __init__(self, quantize: Any) -> None:
        super().__init__()
        self.quantize = quantize
        self.codebook_size: int = quantize.n_e
        self.dim: int = quantize.vq_embed_dim

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes [B, dim, h, w] of indices [B, h, w]."""
        return self.quantize.embedding(indices).movedim(-1, 1)

    def forward(self, latents: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the codes of latents [B, dim, h, w], the loss ``quantizer``, and indices [B, h, w]."""
        codes, loss, (_, _, indices) = self.quantize(latents)
        batch, _, height, width = latents.shape
        return codes, {"quantizer": loss}, indices.reshape(batch, height, width)


class VQModel(nn.Module):
    """``diffusers.VQModel`` where an autoencoder is wanted. Latents are codes, as of ``vqvae``.

    The loss ``quantizer`` is mean (z - sg[e])^2 + 0.25 mean (sg[z] - e)^2: diffusers' VQModel has the
    legacy order, which weighs the codebook's side.

    Source: ``diffusers.VQModel``, of taming-transformers (Esser et al. 2021, arXiv 2012.09841).

    Args:
        in_channels: of the images.
        block_out_channels: width of each level, finest first.
        layers_per_block: residual blocks a level in the encoder.
        latent_channels: channels of the latents before quantization.
        num_vq_embeddings: number of codes.
        vq_embed_dim: channels of a code, and of the latents; ``latent_channels`` by default.
        norm_num_groups: groups of each group norm.
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
        num_vq_embeddings: Count = 512,
        vq_embed_dim: Count | None = None,
        norm_num_groups: Count = 16,
        weights: Annotated[Path, Exists()] | None = None,
    ) -> None:
        super().__init__()
        levels = len(block_out_channels)
        network: Any = diffusers.VQModel(
            in_channels=in_channels,
            out_channels=in_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            num_vq_embeddings=num_vq_embeddings,
            vq_embed_dim=vq_embed_dim,
            norm_num_groups=norm_num_groups,
        )
        self.latent_channels = vq_embed_dim or latent_channels
        self.downscale = 2 ** (levels - 1)
        load_weights(network, weights)
        self.network: Any = network

    @property
    def quantizer(self) -> Codebook:
        """The VQModel's own quantizer."""
        return Codebook(self.network.quantize)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the decoder's last layer."""
        return self.network.decoder.conv_out.weight

    def encode_with_indices(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the codes [B, dim, h, w] of images [B, C, H, W], the loss, and indices [B, h, w].

        Raises:
            ValueError: a side is no multiple of ``downscale``.
        """
        check_sides(x, self.downscale, "block_out_channels")
        return self.quantizer(self.network.encode(x).latents)

    def encode(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the codes [B, dim, h, w] and the loss ``quantizer``."""
        latents, losses, _ = self.encode_with_indices(x)
        return latents, losses

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [B, C, H, W]; latents are decoded as they are, on a code or not."""
        return self.network.decode(latents, force_not_quantize=True).sample

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the reconstruction, the codes and the loss."""
        latents, losses = self.encode(x)
        return self.decode(latents), latents, losses
