"""Drawing new images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from uldm_core import MistakeError, use
from uldm_core.errors import Problem, Where
from uldm_core.kinds import latent_size
from uldm_core.protocols import (
    Autoencoder,
    Condition,
    Context,
    Dataset,
    Denoise,
    Denoiser,
    Guidance,
    LatentScaling,
    NoiseScheduler,
    Sampler,
)
from uldm_core.run_folder.files import damaged
from uldm_plugins.shared.arrays import read_arrays, save_arrays
from uldm_plugins.shared.images import images_at_a_time, in_batches, save_grid
from uldm_plugins.stages.guided import (
    AVERAGES,
    GuidedDenoiser,
    calls_per_image,
    kept_average,
    needs_average,
    with_weights,
)
from uldm_plugins.stages.latents import decode, unless_stopped
from uldm_plugins.stages.path import RecordedSampler, slerp
from uldm_plugins.stages.tuned import TUNED, Choice, read_tuned

GRID = 100
PATHS = 10
FRAMES = 12
REPORT_EVERY_SECONDS = 0.5
NO_WEAKER = (
    "it leads away from a weaker denoiser, and the last training of this run kept none of this denoiser",
    "train the denoiser in this run, with train_diffusion's option weaker above 0; name another denoiser, "
    'weaker = { ref = "..." }; or draw without guidance, with --guidance 1 or guidance = "none"',
)
"""What is wrong where there is no weaker denoiser, and what to do."""


class Sample:
    """Draws images: noise, through sampler and denoiser, to latents, and decodes them.

    Makes ``samples.npz`` with ``images``, uint8 [N, H, W, C], and with a condition ``classes``, int64 [N]; a
    grid as ``samples.png``; and how the first images come about as ``path.npz``: ``frames``, uint8
    [F, N, H, W, C], what is decoded from the noisy latents on the way, at ``times``, float32 [F], falling
    from 1 (noise) to 0.

    After a stage ``tune``, it draws as that chose: with its weight and interval of the guidance, average of
    the denoiser's weights, and steps of the sampler.

    Args:
        dataset: has images of the size to draw.
        autoencoder: decodes.
        denoiser: trained.
        noise_scheduler: the process it was trained on.
        latent_scaling: as fitted in training.
        condition: as fitted in training; the classes of images are drawn from it.
        guidance: makes samples more faithful, at the cost of calling the denoiser more often.
        sampler: turns noise into latents.
        count: how many images.
        batch_size: latents at a time; by default 500, or fewer where they are larger than 32x32, half a
            million places in all. It is part of what a seed means.
    """

    trains: Sequence[str] = ()
    makes = ("samples.npz",)
    needs: Sequence[str] = ()
    optional_needs = (AVERAGES, TUNED)
    reads: Sequence[str] = ()

    def __init__(
        self,
        dataset: Dataset,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        noise_scheduler: NoiseScheduler,
        latent_scaling: LatentScaling = use("unit_variance"),
        condition: Condition | None = None,
        guidance: Guidance = use("none"),
        sampler: Sampler = use("heun"),
        count: Annotated[int, Ge(1)] = 1000,
        batch_size: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        self.dataset = dataset
        self.autoencoder = autoencoder
        self.denoiser = self._trained = denoiser
        self.noise_scheduler = noise_scheduler
        self.latent_scaling = latent_scaling
        self.condition = condition
        self.guidance = guidance
        self.classes: Sequence[int] = ()
        self.sampler = sampler
        self.count = count
        self.latent_size = latent_size(dataset.size, autoencoder.downscale)
        self.batch_size = batch_size or images_at_a_time(*self.latent_size)

    @property
    def artifact_bytes(self) -> int:
        """What ``samples.npz`` and ``path.npz`` take on disk at most."""
        return (self.count + FRAMES * PATHS) * self.dataset.channels * prod(self.dataset.size)

    def costs(self) -> Mapping[str, float]:
        """Return how often a denoiser is called for an image: guidance calls it twice where it acts."""
        classes = self.condition.classes if self.condition else 0
        calls = calls_per_image(self.sampler, self.guidance, self.noise_scheduler, classes)
        return {"denoiser_calls_per_image": float(calls)}

    def run(self, context: Context) -> Mapping[str, float]:
        """Draw the images and write them."""
        choice = self.take_tuned(context.products)
        if choice:
            context.message(f"[{context.name}] as tuned: {choice}")
        recorded = RecordedSampler(self.sampler, PATHS, FRAMES)
        images = self.draw(context, self.count, recorded)
        save_images(context.artifact("samples.npz"), images, self.drawn_classes(context, self.count))
        save_grid(images[:GRID], context.artifact("samples.png"))
        context.publish("samples.png")
        times, frames = self.frames(recorded, context)
        save_arrays(context.artifact("path.npz"), frames=channels_last(frames), times=times)
        return {"count": float(len(images)), **self.costs(), **(choice.numbers if choice else {})}

    def take_tuned(self, products: Mapping[str, Path]) -> Choice | None:
        """Draw from now on as an earlier stage ``tune`` chose, if there was one; return what it chose.

        Raises:
            MistakeError: its file is damaged.
            RunError: it chose for another guidance or sampler.
        """
        if TUNED not in products:
            return None
        choice = read_tuned(products[TUNED])
        self.take(choice, products)
        return choice

    def take(self, choice: Choice, products: Mapping[str, Path]) -> None:
        """Draw from now on in another way; the components that the stage was given stay as they are."""
        self.guidance = choice.guided(self.guidance)
        self.sampler = choice.sampled(self.sampler)
        self.denoiser = choice.averaged(self.denoiser, products)

    def draw(self, context: Context, count: int, sampler: Sampler | None = None) -> Tensor:
        """Return so many images, uint8 [count, C, H, W]; they follow from the context's seed.

        Args:
            context: of the stage.
            count: how many.
            sampler: instead of the stage's own.
        """
        context.begin("drawing images", count)
        batches = []
        for batch in self._batches(context, count, sampler or self.sampler):
            batches.append(batch)
            context.advance(sum(map(len, batches)))
        return torch.cat(batches)

    def drawn_classes(self, context: Context, count: int) -> Tensor | None:
        """Return the classes of the images that ``draw`` returns, int64 [count]; None without a condition.

        They are drawn from the condition, unless ``classes`` names some of it: then these take turns.
        """
        if self.condition is None:
            return None
        if self.classes:
            return torch.tensor(self.classes).repeat(-(-count // len(self.classes)))[:count]
        return self.condition.draw(count, context.generator("classes"))

    def frames(self, recorded: RecordedSampler, context: Context) -> tuple[Tensor, Tensor]:
        """Return the times of a recorded path [F], and what is decoded there, uint8 [F, N, C, H, W]."""
        times, latents = recorded.path()
        return times, torch.stack([self._decode(noisy, context) for noisy in latents])

    @torch.inference_mode()
    def interpolate(self, context: Context, pairs: int, steps: int) -> Tensor:
        """Return the images of noises on the arcs from the first to the second of each pair.

        The pairs are those of the noises that ``draw`` begins with, in their order.

        Args:
            context: of the stage; the noises follow from its seed.
            pairs: how many arcs.
            steps: images on an arc, its two ends included.

        Returns:
            uint8 [steps, pairs, C, H, W].

        Raises:
            ValueError: the sampler adds noise of its own, so that an image follows from more than its first.
        """
        context.begin("drawing images", steps * pairs)
        starts = [self._noise(context, number)[0] for number in range(-(-2 * pairs // self.batch_size))]
        first, second = torch.cat(starts)[: 2 * pairs].unflatten(0, (pairs, 2)).unbind(1)
        arcs = torch.cat([slerp(first, second, share) for share in torch.linspace(0, 1, steps).tolist()])
        drawn = self.drawn_classes(context, pairs)
        classes = None if drawn is None else drawn.repeat(steps)
        guided = self._guided(context)
        images: list[Tensor] = []
        for noise in arcs.split(self.batch_size):
            generator = context.generator("arcs")
            untouched = generator.get_state()
            done = sum(map(len, images))
            told = None if classes is None else classes[done : done + len(noise)]
            images.append(self._draw(context, guided, noise, told, generator, self.sampler, done))
            if not torch.equal(generator.get_state(), untouched):
                raise ValueError("it adds noise of its own on the way: nothing lies between two images")
            context.advance(sum(map(len, images)))
        return torch.cat(images).unflatten(0, (steps, pairs))

    @torch.inference_mode()
    def _batches(self, context: Context, count: int, sampler: Sampler) -> Iterator[Tensor]:
        classes, guided = self.drawn_classes(context, count), self._guided(context)
        for number, start in enumerate(range(0, count, self.batch_size)):
            noise, generator = self._noise(context, number)
            noise = noise[: count - start]
            told = None if classes is None else classes[start : start + len(noise)]
            yield self._draw(context, guided, noise, told, generator, sampler, start)

    def _noise(self, context: Context, number: int) -> tuple[Tensor, torch.Generator]:
        """Return a batch's noise on the CPU, and the generator in the state after it."""
        generator = context.generator("batch", number)
        shape = (self.batch_size, self.autoencoder.latent_channels, *self.latent_size)
        return torch.randn(shape, generator=generator), generator

    def _guided(self, context: Context) -> GuidedDenoiser:
        """Return the denoiser with its guidance, and the weaker one that its training kept.

        Raises:
            MistakeError: it kept none, and the guidance needs one.
        """
        weaker = None
        if needs_average(self.guidance):
            early = kept_average(context.products, of=self._trained)
            if [tensor.shape for tensor in early] != [own.shape for own in self.denoiser.parameters()]:
                raise MistakeError(Problem(Where(("stages", context.name, "guidance")), *NO_WEAKER))
            weaker = with_weights(self.denoiser, early)
        return GuidedDenoiser(self.denoiser, self.noise_scheduler, self.guidance, self.condition, weaker)

    def _draw(
        self,
        context: Context,
        guided: GuidedDenoiser,
        noise: Tensor,
        classes: Tensor | None,
        generator: torch.Generator,
        sampler: Sampler,
        done: int,
    ) -> Tensor:
        """Return the images of some noise on the CPU; ``done`` others are drawn already."""
        denoise = self._watched(guided.denoise(context, classes), context, len(noise), done)
        return self._decode(
            sampler(denoise, self.noise_scheduler, noise.to(context.device), generator), context
        )

    def _decode(self, latents: Tensor, context: Context) -> Tensor:
        self.autoencoder.eval()
        batches = unless_stopped(in_batches(latents, self.autoencoder.downscale), context)
        decoded = [decode(batch, self.autoencoder, self.latent_scaling, context).cpu() for batch in batches]
        return torch.cat(decoded)

    def _watched(self, denoise: Denoise, context: Context, size: int, done: int) -> Denoise:
        """Return a denoiser that reports progress between its calls, and may stop there."""
        reported = time.monotonic()

        def watched(latents: Tensor, t: Tensor) -> Tensor:
            nonlocal reported
            context.check_stop()
            if time.monotonic() - reported > REPORT_EVERY_SECONDS:
                reported = time.monotonic()
                context.advance(done + int(size * (1 - float(t[0]))))
            return denoise(latents, t)

        return watched


def channels_last(images: Tensor) -> Tensor:
    """Return images [..., C, H, W] as files have them, [..., H, W, C]."""
    return images.movedim(-3, -1)


def save_images(path: Path, images: Tensor, classes: Tensor | None = None) -> None:
    """Write uint8 images [N, C, H, W] as ``images``, uint8 [N, H, W, C], in an ``.npz``; and ``classes``."""
    more = {} if classes is None else {"classes": classes}
    save_arrays(path, images=channels_last(images), **more)


def load_images(path: Path) -> Tensor:
    """Read what ``save_images`` wrote, as uint8 [N, C, H, W].

    Raises:
        MistakeError: the file is damaged, holds no images, or more than half of the memory.
    """
    try:
        images = read_arrays(path, ["images"])["images"]
    except ValueError as error:
        raise damaged(path, str(error)) from error
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise damaged(path, f"images are {images.dtype} {list(images.shape)}; expected uint8 [N, H, W, C]")
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
