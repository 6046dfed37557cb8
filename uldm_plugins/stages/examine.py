"""What an autoencoder makes of single images: their reconstructions, codes and losses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from attrs import frozen
from torch import Tensor

from uldm_core.protocols import Autoencoder, Context
from uldm_plugins.shared.images import to_float, to_uint8
from uldm_plugins.stages.latents import encode_with_codes


@frozen
class Examined:
    """An image, what came back of it, and what that cost.

    Args:
        original: uint8 [C, H, W].
        reconstruction: uint8 [C, H, W].
        codes: int64 [Q, h, w], one map for each codebook; None without a quantizer.
        losses: ``l1`` and ``l2`` of images in [-1, 1], ``psnr`` in dB (of uint8, 100 at most), and the
            autoencoder's own, weighted as in training.
    """

    original: Tensor
    reconstruction: Tensor
    codes: Tensor | None
    losses: dict[str, float]


@torch.inference_mode()
def examine(batches: Iterable[Tensor], autoencoder: Autoencoder, context: Context) -> Iterator[Examined]:
    """Yield what an autoencoder makes of uint8 images [B, C, H, W], one image after the other."""
    autoencoder.eval()
    for batch in batches:
        images = to_float(batch.to(context.device))
        with context.autocast():
            latents, codes = encode_with_codes(autoencoder, images)
            decoded = autoencoder.decode(latents).float()
            own = [autoencoder.encode(image)[1] for image in images.split(1)]  # a loss is a batch's mean
        for index, original in enumerate(batch):
            found = None if codes is None else _maps(codes[index]).cpu()
            losses = {**distances(decoded[index], images[index]), **_floats(own[index])}
            yield Examined(original, to_uint8(decoded[index]).cpu(), found, losses)


def distances(reconstruction: Tensor, image: Tensor) -> dict[str, float]:
    """Return ``l1``, ``l2`` and ``psnr`` of images in [-1, 1]."""
    difference = reconstruction - image
    bytes_apart = (to_uint8(reconstruction).double() - to_uint8(image)).square().mean()
    psnr = 10 * torch.log10(255**2 / bytes_apart.clamp(min=255**2 * 1e-10))
    return {
        "l1": difference.abs().mean().item(),
        "l2": difference.square().mean().item(),
        "psnr": psnr.item(),
    }


def _maps(codes: Tensor) -> Tensor:
    """Return an image's codes as one map for each codebook, [Q, h, w]."""
    return codes if codes.ndim == 3 else codes.unsqueeze(0)


def _floats(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: loss.item() for name, loss in losses.items()}
