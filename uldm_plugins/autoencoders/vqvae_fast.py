"""A VQ-VAE for processors without a GPU."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, MinLen
from torch import Tensor, nn

from uldm_core import use
from uldm_core.kinds import latent_size
from uldm_core.protocols import Quantizer
from uldm_core.shapes import height_and_width, is_shapes_only
from uldm_core.sizes import Size
from uldm_plugins.autoencoders.quantized import QuantizedAutoencoder

Widths = Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]


class FastVQVAE(QuantizedAutoencoder):
    """Strided convolutions with batch norm: every level halves the size, the first one at once.

    The encoder ends in a batch norm without scale, so latents have unit variance when they are quantized.
    With ``size`` given, odd sides on the way are rounded up and cut off again (28, 14, 7, 4).

    Args:
        in_channels: of the images.
        size: height and width of the images, one number for a square; without it, sides must be multiples of
            ``downscale``.
        quantizer: its ``dim`` is the number of latent channels.
        encoder_channels: width of each level of the encoder, finest first.
        decoder_channels: width of each level of the decoder, finest first; as many.
        encoder_blocks: residual blocks at the latents' size.
        decoder_blocks: residual blocks at the latents' size.
        image_channels: width of one more 3x3 convolution at the images' size, which smooths the pattern that
            transposed convolutions leave; 0 has none.

    Raises:
        ValueError: encoder and decoder differ in their number of levels.
    """

    def __init__(
        self,
        in_channels: Annotated[int, Ge(1)] = 3,
        size: Size | None = None,
        quantizer: Quantizer = use("vq_ema"),
        encoder_channels: Widths = (32, 64),
        decoder_channels: Widths = (48, 96),
        encoder_blocks: Annotated[int, Ge(0)] = 1,
        decoder_blocks: Annotated[int, Ge(0)] = 1,
        image_channels: Annotated[int, Ge(0)] = 0,
    ) -> None:
        levels = len(encoder_channels)
        if levels != len(decoder_channels):
            raise ValueError(
                f"encoder_channels has {levels} levels, decoder_channels {len(decoder_channels)}: "
                f"they must be as many"
            )
        given = height_and_width(size) if size else None
        sizes = [latent_size(given, 2**level) if given else None for level in range(levels)]
        encoder = _encoder(in_channels, encoder_channels, encoder_blocks, quantizer.dim)
        decoder = nn.Sequential(
            *_decoder(decoder_channels, decoder_blocks, quantizer.dim, sizes),
            *_to_image(decoder_channels[0], image_channels, in_channels, sizes[0]),
        )
        super().__init__(encoder, quantizer, decoder, 2**levels)
        self.size = given

    def check_size(self, images: Tensor) -> None:
        """Raise ``ValueError`` unless images of this size come back as they were."""
        height, width = images.shape[-2:]
        if self.size is None:
            if height % self.downscale or width % self.downscale:
                sides = f"sides must be multiples of {self.downscale}, unless the option size is given"
                raise ValueError(f"images of {height}x{width}: {sides}")
        elif (height, width) != self.size:
            wanted = "x".join(map(str, self.size))
            raise ValueError(f"images of {height}x{width}: this autoencoder is for {wanted}")


class Halve(nn.Conv2d):
    """Convolution that halves the size; odd sides are rounded up."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, ceil(H / 2), ceil(W / 2)]."""
        height, width = x.shape[-2:]
        return super().forward(F.pad(x, (0, width % 2, 0, height % 2)) if height % 2 or width % 2 else x)


class Double(nn.ConvTranspose2d):
    """Transposed convolution that doubles the size, cut off at ``size`` if that is given.

    Each of the four pixels that come of one has weights of its own, 2x2 of them. Drawn apart from each other
    they start as a checkerboard; here the sums of all four start equal, so that what is even stays even.

    Source: Odena et al. 2016, Deconvolution and checkerboard artifacts. In ICNR (Aitken et al. 2017, arXiv
    1707.02937) the four have equal weights, not sums alone: that learns more slowly here.
    """

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int] | None) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)
        self.size = size
        if not is_shapes_only():
            self._even_out()

    @torch.no_grad()
    def _even_out(self) -> None:
        """Have the weights of each of the four pixels add up to the same."""
        # [inputs, outputs, tap, pixel, tap, pixel]: a pixel gets every other row and column of the kernel
        taps = self.weight.unflatten(3, (2, 2)).unflatten(2, (2, 2))
        means = taps.mean((2, 4), keepdim=True)
        taps -= means - means.mean((3, 5), keepdim=True)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, 2 H, 2 W], or ``size`` at most."""
        height, width = self.size or (None, None)
        return super().forward(input, output_size)[..., :height, :width]


class Residual(nn.Module):
    """Two 3x3 convolutions, batch norm and SiLU in front of each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_norm(width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            *_norm(width),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, width, H, W] to the same shape."""
        return x + self.body(x)


def _norm(width: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(width), nn.SiLU()]


def _encoder(in_channels: int, widths: Widths, blocks: int, dim: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((in_channels, *widths)):
        layers += _norm(inputs) if layers else []
        layers.append(Halve(inputs, outputs))
    layers += [Residual(widths[-1]) for _ in range(blocks)]
    layers += [*_norm(widths[-1]), nn.Conv2d(widths[-1], dim, 1), nn.BatchNorm2d(dim, affine=False)]
    return nn.Sequential(*layers)


def _decoder(widths: Widths, blocks: int, dim: int, sizes: list[tuple[int, int] | None]) -> list[nn.Module]:
    top = widths[-1]
    layers: list[nn.Module] = [nn.Conv2d(dim, top, 3, padding=1)]
    layers += [Residual(top) for _ in range(blocks)]
    for (inputs, outputs), size in zip(pairwise(widths[::-1]), sizes[:0:-1]):
        layers += [*_norm(inputs), Double(inputs, outputs, size)]
    width = widths[0]
    return [*layers, *_norm(width), nn.Conv2d(width, width, 3, padding=1, bias=False), *_norm(width)]


def _to_image(
    width: int, image_channels: int, in_channels: int, size: tuple[int, int] | None
) -> list[nn.Module]:
    """Return the layers from the finest level to images, over ``image_channels`` at their size if any."""
    if not image_channels:
        return [Double(width, in_channels, size), nn.Tanh()]
    smoothing = nn.Conv2d(image_channels, in_channels, 3, padding=1)
    return [Double(width, image_channels, size), nn.SiLU(), smoothing, nn.Tanh()]
