"""What every vector-quantized autoencoder does, whatever its encoder and decoder look like."""

from __future__ import annotations

from torch import Tensor, nn

from uldm_core.protocols import Quantizer
from uldm_plugins.nn.blocks import check_sides


class QuantizedAutoencoder(nn.Module):
    """Encoder, quantizer, decoder. Latents are codes.

    Args:
        encoder: images [B, C, H, W] to [B, dim, H / downscale, W / downscale].
        quantizer: of ``dim`` channels.
        decoder: the way back.
        downscale: by which the latents are smaller than the images.
    """

    def __init__(self, encoder: nn.Module, quantizer: Quantizer, decoder: nn.Module, downscale: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.quantizer = quantizer
        self.decoder = decoder
        self.downscale = downscale
        self.latent_channels = quantizer.dim

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the decoder's last layer, where adaptive weights are measured."""
        return [parameter for parameter in self.decoder.parameters() if parameter.ndim > 1][-1]

    def check_size(self, images: Tensor) -> None:
        """Raise ``ValueError`` unless images of this size come back as they were."""
        check_sides(images, self.downscale, "down_sample")

    def encode_with_indices(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the codes [B, dim, h, w], the quantizer's losses, and the indices of the codes.

        Raises:
            ValueError: images of this size would not come back as they were.
        """
        self.check_size(x)
        return self.quantizer(self.encoder(x))

    def encode(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the codes [B, dim, h, w] and the quantizer's losses."""
        latents, losses, _ = self.encode_with_indices(x)
        return latents, losses

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [B, C, H, W] in [-1, 1]; latents are decoded as they are, on a code or not."""
        return self.decoder(latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the reconstruction, the codes and the quantizer's losses."""
        latents, losses = self.encode(x)
        return self.decoder(latents), latents, losses
