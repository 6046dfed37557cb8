"""Passing images through an autoencoder, and latents back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from attrs import frozen
from torch import Tensor

from uldm_core.protocols import Autoencoder, Context, Dataset, LatentScaling, Quantized
from uldm_plugins.shared.images import images_at_a_time, in_batches, to_float, to_uint8
from uldm_plugins.stages.training import read_images


@frozen
class Repeatable:
    """Batches that can be read several times.

    Args:
        make: gives them anew.
    """

    make: Callable[[], Iterable[Tensor]]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.make())


def index_batches(dataset: Dataset) -> Sequence[Tensor]:
    """Return the indices of a dataset's images in order, cut so that a network takes a batch at a time."""
    return torch.arange(len(dataset)).split(images_at_a_time(*dataset.size))


def image_batches(dataset: Dataset) -> Iterator[Tensor]:
    """Yield a dataset's images in order, uint8 [B, C, H, W], a network's batch at a time."""
    return (read_images(dataset, indices) for indices in index_batches(dataset))


def unless_stopped(batches: Iterable[Tensor], context: Context) -> Iterator[Tensor]:
    """Yield the batches; before each, raise ``Interrupted`` if the run is to stop.

    Not within a trainer's step or preview: what is begun there is finished, and the engine stops after it.
    """
    for batch in batches:
        context.check_stop()
        yield batch


@torch.inference_mode()
def encode(images: Tensor, autoencoder: Autoencoder, context: Context) -> Tensor:
    """Return the latents of uint8 images [B, C, H, W], float32 [B, C, h, w], on the stage's device."""
    with context.autocast():
        batches = (to_float(batch.to(context.device, non_blocking=True)) for batch in in_batches(images))
        return torch.cat([autoencoder.encode(batch)[0].float() for batch in batches])


def encode_all(dataset: Dataset, autoencoder: Autoencoder, context: Context) -> Tensor:
    """Return the latents of the whole dataset, float32 [N, C, h, w], on the stage's device."""
    context.begin("encoding images", len(dataset))
    encoded = []
    for indices in index_batches(dataset):
        encoded.append(encode(read_images(dataset, indices), autoencoder, context))
        context.advance(int(indices[-1]) + 1)
    return torch.cat(encoded)


class NormalizedLatents:
    """A dataset's latents, normalized: kept in memory, or encoded whenever they are asked for.

    Args:
        dataset: the images.
        autoencoder: frozen.
        scaling: is fitted to them.
        context: of the stage.
    """

    def __init__(
        self, dataset: Dataset, autoencoder: Autoencoder, scaling: LatentScaling, context: Context
    ) -> None:
        self.dataset = dataset
        self.autoencoder = autoencoder
        self.scaling = scaling
        self.context = context
        self.cached: Tensor | None = None

    def fit(self, *, cached: bool) -> None:
        """Fit the scaling to all latents, and keep them if they are to be cached."""
        latents = encode_all(self.dataset, self.autoencoder, self.context) if cached else None
        self.scaling.fit(self._encoded() if latents is None else in_batches(latents))
        self.cached = None if latents is None else self.scaling.normalize(latents)

    def of(self, indices: Tensor) -> Tensor:
        """Return the latents of some images, float32 [B, C, h, w], on the stage's device."""
        if self.cached is not None:
            return self.cached[indices.to(self.cached.device)].clone()
        return self.scaling.normalize(self._encode(indices)).clone()

    def all(self) -> Iterable[Tensor]:
        """Return all latents in the images' order, in batches."""
        if self.cached is not None:
            return in_batches(self.cached)
        return (self.scaling.normalize(batch) for batch in self._encoded())

    def _encoded(self) -> Iterator[Tensor]:
        batches = unless_stopped(index_batches(self.dataset), self.context)
        return (self._encode(indices) for indices in batches)

    def _encode(self, indices: Tensor) -> Tensor:
        return encode(read_images(self.dataset, indices), self.autoencoder, self.context)


@torch.inference_mode()
def decode(latents: Tensor, autoencoder: Autoencoder, scaling: LatentScaling, context: Context) -> Tensor:
    """Return the images of what a sampler made, uint8 [B, C, H, W]."""
    with context.autocast():
        batches = in_batches(scaling.denormalize(latents), autoencoder.downscale)
        return torch.cat([to_uint8(autoencoder.decode(batch)) for batch in batches])


def reconstruct(dataset: Dataset, autoencoder: Autoencoder, context: Context) -> Iterator[Tensor]:
    """Yield the dataset's images after a pass through the autoencoder, uint8 [B, C, H, W]."""
    return passed(image_batches(dataset), autoencoder, context)


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
    if not isinstance(autoencoder, Quantized):
        return autoencoder.encode(images)[0], None
    latents, _, indices = autoencoder.encode_with_indices(images)
    return latents, indices


def held_out(dataset: Dataset) -> Dataset:
    """Return the test split, or the dataset itself where it has none."""
    return dataset.split("test") if "test" in dataset.splits else dataset
