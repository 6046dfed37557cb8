"""Passing images through an autoencoder, and latents back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from uldm_core.engine.context import Context
from uldm_core.protocols import Autoencoder, Dataset, LatentScaling
from uldm_plugins.nn.images import to_float, to_uint8
from uldm_plugins.stages.training import image_batch, read_images

BATCH = 500


def index_batches(size: int, batch_size: int = BATCH) -> Iterator[Tensor]:
    """Yield 0 ... size - 1 in order, cut into batches."""
    yield from torch.arange(size).split(batch_size)


@torch.inference_mode()
def encode_all(dataset: Dataset, autoencoder: Autoencoder, context: Context) -> Tensor:
    """Return the latents of the whole dataset, float32 [N, C, h, w], on the stage's device."""
    context.begin("encoding images", len(dataset))
    encoded = []
    for indices in index_batches(len(dataset)):
        with context.autocast():
            latents, _ = autoencoder.encode(image_batch(dataset, indices, context))
        encoded.append(latents.float())
        context.advance(int(indices[-1]) + 1)
    return torch.cat(encoded)


@torch.inference_mode()
def decode(latents: Tensor, autoencoder: Autoencoder, scaling: LatentScaling, context: Context) -> Tensor:
    """Return the images of what a sampler made, uint8 [B, C, H, W]."""
    with context.autocast():
        return to_uint8(autoencoder.decode(scaling.denormalize(latents)))


def reconstruct(dataset: Dataset, autoencoder: Autoencoder, context: Context) -> Iterator[Tensor]:
    """Yield the dataset's images after a pass through the autoencoder, uint8 [B, C, H, W]."""
    return passed(
        (read_images(dataset, indices) for indices in index_batches(len(dataset))), autoencoder, context
    )


def passed(batches: Iterable[Tensor], autoencoder: Autoencoder, context: Context) -> Iterator[Tensor]:
    """Yield uint8 images after a pass through the autoencoder, uint8 [B, C, H, W]."""
    return (images for images, _ in passed_with_codes(batches, autoencoder, context))


@torch.inference_mode()
def passed_with_codes(
    batches: Iterable[Tensor], autoencoder: Autoencoder, context: Context
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield uint8 images after a pass through the autoencoder, with the indices of their codes.

    These are [B, h, w], or [B, Q, h, w] with several codes a position; None without a quantizer.
    """
    autoencoder.eval()
    for batch in batches:
        with context.autocast():
            latents, codes = encode_with_codes(autoencoder, to_float(batch.to(context.device)))
            yield to_uint8(autoencoder.decode(latents)), codes


def encode_with_codes(autoencoder: Autoencoder, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return latents, and the indices of their codes, [B, h, w] or [B, Q, h, w]; None without a quantizer."""
    if not hasattr(autoencoder, "encode_with_indices"):
        return autoencoder.encode(images)[0], None
    latents, _, indices = autoencoder.encode_with_indices(images)
    return latents, indices


def held_out(dataset: Dataset) -> Dataset:
    """Return the test split, or the dataset itself where it has none."""
    return dataset.split("test") if "test" in dataset.splits else dataset
