"""Images between bytes and the range that networks see, and on paper."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from uldm_core.paths import whole

MOST_IMAGES = 500
MOST_PIXELS = 1 << 19
_BOARD = (255, 220)
NO_BACKBONE = "a loss or metric without a backbone: l1 and psnr, say, take any number of channels"


def to_float(images: Tensor) -> Tensor:
    """Map uint8 to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Map floats in [-1, 1] to uint8, rounding; what lies outside is clipped."""
    return images.float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def images_at_a_time(height: int, width: int) -> int:
    """Return how many images of a size pass through a network at a time where no gradients are kept.

    Half a million pixels in all, at least one image and at most 500: 500 of 28x28, 128 of 64x64, 8 of
    256x256. A map of 64 channels at the images' own size is then 128 MiB in float32, of which a network keeps
    a few at a time: less than a training step keeps of as many images. Latents count as images of their size.
    """
    return max(1, min(MOST_IMAGES, MOST_PIXELS // (height * width)))


def in_batches(images: Tensor, scale: int = 1) -> Sequence[Tensor]:
    """Return images [N, C, H, W], or latents that become ``scale`` times as large, a network's batch each."""
    height, width = images.shape[-2:]
    return images.split(images_at_a_time(scale * height, scale * width))


def refuse_small(images: Tensor, smallest: int, name: str, instead: str) -> None:
    """Raise ``ValueError`` if images are smaller than a component can take.

    Args:
        images: [B, C, H, W].
        smallest: the least height and width.
        name: of the component.
        instead: what else helps than larger images, for the message.
    """
    height, width = images.shape[-2:]
    if min(height, width) < smallest:
        raise ValueError(
            f"{name} needs images of {smallest}x{smallest} or more, not {height}x{width}: "
            f"give a dataset of size >= {smallest}, or {instead}"
        )


def refuse_channels(images: Tensor, name: str, instead: str = NO_BACKBONE) -> None:
    """Raise ``ValueError`` unless images [B, C, H, W] are grey or RGB.

    Args:
        images: [B, C, H, W].
        name: of the component.
        instead: what else helps than other images, for the message.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise ValueError(
            f"{name} takes grey or RGB images, not such of {channels} channels: "
            f"give a dataset of channels = 1 or 3, or {instead}"
        )


def displayable(images: Tensor) -> Tensor:
    """Return uint8 images [N, C, H, W] as they are shown, uint8 [N, 1 or 3, H, W'].

    Grey and RGB stay as they are; RGBA is laid on a light checkerboard; of other numbers of channels, each is
    a grey picture, the first on the left.
    """
    count, channels, height, width = images.shape
    if channels in (1, 3):
        return images
    if channels != 4:
        return images.movedim(1, 2).reshape(count, 1, height, channels * width)
    colours, alpha = images[:, :3].int(), images[:, 3:].int()
    below = _checkerboard(height, width).to(images.device)
    return colours.mul_(alpha).add_(below * (255 - alpha) + 127).div_(255, rounding_mode="floor").byte()


def _checkerboard(height: int, width: int) -> Tensor:
    """Return what is seen through transparent pixels, int32 [H, W], eight squares on the shorter side."""
    side = max(min(height, width) // 8, 1)
    odd = (torch.arange(height)[:, None] // side + torch.arange(width) // side) % 2
    return _BOARD[0] + odd.int() * (_BOARD[1] - _BOARD[0])


def save_grid(images: Tensor, path: Path, columns: int | None = None, scale: int = 2, gap: int = 2) -> None:
    """Write uint8 images [N, C, H, W] as one PNG; see ``grid``."""
    with whole(path) as file:
        grid(images, columns, scale, gap).save(file, "PNG")


def grid_of_ten(images: Tensor) -> Image.Image:
    """Return uint8 images [N, C, H, W], ten a row, small ones magnified: how trackers show them."""
    images = displayable(images)
    return grid(images, min(len(images), 10), scale=max(1, 64 // max(images.shape[-2:])))


def png_of_grid(images: Tensor) -> bytes:
    """Return ``grid_of_ten`` as a PNG, transparent between images: it fits dark and light pages."""
    images = displayable(images)
    picture = grid_of_ten(images)
    picture.putalpha(ImageOps.invert(grid_of_ten(torch.zeros_like(images[:, :1]))))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def array_of_grid(images: Tensor) -> np.ndarray:
    """Return ``grid_of_ten`` as uint8 [H, W, C]."""
    pixels = np.asarray(grid_of_ten(images))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def grid(images: Tensor, columns: int | None = None, scale: int = 1, gap: int = 2) -> Image.Image:
    """Return uint8 images [N, C, H, W] as one picture, each as ``displayable`` has it.

    Args:
        images: what to show, row by row.
        columns: images a row; about a square by default.
        scale: how many pixels a pixel becomes.
        gap: white pixels between images.
    """
    images = displayable(images)
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = torch.full(
        (channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8
    )
    for index, image in enumerate(images.cpu()):
        top, left = (
            place * size + gap for place, size in zip(divmod(index, columns), (height + gap, width + gap))
        )
        sheet[:, top : top + height, left : left + width] = image
    pixels = sheet.permute(1, 2, 0).squeeze(-1).numpy()
    picture = Image.fromarray(pixels)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
