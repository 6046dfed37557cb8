"""Passing images through an autoencoder, and latents back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from attrs import frozen
from torch import Tensor

from uldm_core.errors import RunError
from uldm_core.protocols import (
    Augmentation,
    Autoencoder,
    Condition,
    Context,
    Dataset,
    FitsImages,
    HasLabels,
    HasVariants,
    LatentScaling,
    Quantized,
)
from uldm_plugins.shared.images import images_at_a_time, in_batches, to_float, to_uint8
from uldm_plugins.stages.kept_latents import MOST_HELD, Encode, Keeper, KeptLatents
from uldm_plugins.stages.training import prefetch, read_batches, read_images

Batch = TypeVar("Batch")

DRAWS = 32
"""How often variants are drawn that do not change their image."""


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
    return read_batches(dataset, index_batches(dataset))


def unless_stopped(batches: Iterable[Batch], context: Context) -> Iterator[Batch]:
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


class NormalizedLatents:
    """A dataset's latents, normalized: encoded once and kept, or encoded whenever they are asked for.

    Args:
        dataset: the images.
        autoencoder: frozen.
        scaling: is fitted to the latents of the images as they are.
        context: of the stage.
        augmentation: of the images that are trained.
        variants: of each image, itself among them, that are kept of an augmentation that has not few.
        dtype: float32 or float16, in which latents are kept.
    """

    def __init__(
        self,
        dataset: Dataset,
        autoencoder: Autoencoder,
        scaling: LatentScaling,
        context: Context,
        augmentation: Augmentation | None = None,
        variants: int = 4,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dataset = dataset
        self.autoencoder = autoencoder
        self.scaling = scaling
        self.context = context
        self.augmentation = augmentation
        self.dtype = dtype
        self.variants = variants
        self.parameters = torch.zeros(1, len(dataset), 1)
        self.kept: list[KeptLatents] = []
        self.held = False

    def fit(self, *, cached: bool) -> None:
        """Fit the scaling to all latents, and keep them if they are to be cached, each variant by itself."""
        if not cached:
            self.scaling.fit(self._encoded())
            return
        if self.augmentation is not None:
            generator = self.context.generator("augmentation")
            self.parameters = parameters_of(self.augmentation, self.variants, len(self.dataset), generator)
        keeper = Keeper(
            self.dataset,
            self.autoencoder,
            self.context,
            self.augmentation,
            self.dtype,
            index_batches(self.dataset),
        )
        self.kept = [keeper.keep(*self._encoding(parameters)) for parameters in self.parameters]
        self.scaling.fit(unless_stopped(self.kept[0].batches(), self.context))
        self.held = sum(kept.nbytes for kept in self.kept) <= MOST_HELD
        if self.held:
            self.kept = [kept.in_memory(self.scaling.normalize) for kept in self.kept]

    def of(self, indices: Tensor) -> Tensor:
        """Return the latents of some images, float32 [B, C, h, w], on the stage's device."""
        if self.kept:
            return self._rows(0, indices)
        return self.scaling.normalize(self._encode(read_images(self.dataset, indices))).clone()

    def of_each(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the latents of each batch of indices, as ``of`` does; images are read ahead."""
        if self.kept:
            return map(self.of, batches)
        encoded = map(self._encode, read_batches(self.dataset, batches))
        return (self.scaling.normalize(latents).clone() for latents in encoded)

    def augmented(self, indices: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        """Return latents of some images as the augmentation changes them at a step, [B, C, h, w].

        Also returns its parameters, [B, P], if the denoiser is to be given them, else None.
        """
        if self.augmentation is None:
            return self.of(indices), None
        generator = self.context.generator(step, "augmentation")
        if self.kept:
            which = torch.randint(len(self.kept), indices.shape, generator=generator)
            parameters = self.parameters[which, indices]
            latents = self.of(indices)
            for number in which[which > 0].unique().tolist():
                chosen = which == number
                latents[chosen.to(latents.device)] = self._rows(number, indices[chosen])
        else:
            parameters = self.augmentation.draw(len(indices), generator)
            images = read_images(self.dataset, indices)
            latents = self.scaling.normalize(self._encode(images, parameters)).clone()
        return latents, None if self.augmentation.leaks else parameters.to(latents)

    def prefetch(self, indices: Tensor) -> None:
        """Have the images read whose latents are asked for next, if these are not kept."""
        if not self.kept:
            prefetch(self.dataset, indices)

    def all(self) -> Iterable[Tensor]:
        """Return all latents in the images' order, in batches."""
        if not self.kept:
            return (self.scaling.normalize(batch) for batch in self._encoded())
        batches = self.kept[0].batches()
        return batches if self.held else map(self.scaling.normalize, batches)

    def _rows(self, number: int, indices: Tensor) -> Tensor:
        rows = self.kept[number].rows(indices)
        return (rows if self.held else self.scaling.normalize(rows)).clone()

    def _encoding(self, parameters: Tensor) -> tuple[Encode, Tensor]:
        """Return what encodes images as an augmentation changes them with parameters [N, P], and these."""
        changes = bool(parameters.any())

        def encoded(images: Tensor, indices: Tensor) -> Tensor:
            return self._encode(images, parameters[indices] if changes else None)

        return encoded, parameters

    def _encoded(self) -> Iterator[Tensor]:
        return map(self._encode, unless_stopped(image_batches(self.dataset), self.context))

    def _encode(self, images: Tensor, parameters: Tensor | None = None) -> Tensor:
        if self.augmentation is not None and parameters is not None:
            images = self.augmentation(images.to(self.context.device), parameters.to(self.context.device))
        return encode(images, self.autoencoder, self.context)


def fit_condition(condition: Condition, latents: NormalizedLatents) -> None:
    """Fit a condition to the images of latents, or to these, and to the labels of the dataset.

    Raises:
        RunError: it cannot be fitted.
    """
    dataset, context = latents.dataset, latents.context

    def images() -> Iterator[Tensor]:
        batches = unless_stopped(image_batches(dataset), context)
        return (to_float(batch.to(context.device)) for batch in batches)

    of_images = isinstance(condition, FitsImages) and condition.fits_images
    context.message("fitting the condition")
    try:
        labels = dataset.labels if isinstance(dataset, HasLabels) else None
        condition.fit(Repeatable(images if of_images else latents.all), labels)
    except ValueError as error:
        raise RunError(f"condition: {error}") from error


def parameters_of(augmentation: Augmentation, variants: int, n: int, generator: torch.Generator) -> Tensor:
    """Return the parameters of the variants of n images, float [V, n, P]; the first are all 0.

    They are all that there are, if the augmentation has few; else so many, of which all but the first change
    the image, if it does so often enough.
    """
    if isinstance(augmentation, HasVariants):
        return augmentation.variants.unsqueeze(1).expand(-1, n, -1)
    drawn = augmentation.draw((variants - 1) * n, generator)
    for _ in range(DRAWS):
        same = ~drawn.any(1)
        if not bool(same.any()):
            break
        drawn[same] = augmentation.draw(int(same.sum()), generator)
    return torch.cat([torch.zeros_like(drawn[:n]), drawn]).view(variants, n, -1)


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
