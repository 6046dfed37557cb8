"""Training a denoiser on an autoencoder's latents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn

from uldm_core import Excludes, OptionError, Partial, RunError, use
from uldm_core.protocols import (
    Autoencoder,
    Condition,
    Context,
    Coupling,
    Dataset,
    Denoiser,
    FitsImages,
    Guidance,
    HasLabels,
    HasWeaker,
    LatentScaling,
    LRSchedule,
    NoiseScheduler,
    Optimizer,
    Sampler,
    TimestepWeighting,
)
from uldm_core.run_folder.files import write_tensors
from uldm_plugins.shared.arrays import save_arrays
from uldm_plugins.shared.ema import EMA, Snapshot, averaging
from uldm_plugins.shared.images import in_batches, to_float
from uldm_plugins.stages.guided import AVERAGES, WEAKER, GuidedDenoiser, needs_average, with_weights
from uldm_plugins.stages.held_out import HELD_OUT, divided
from uldm_plugins.stages.latents import (
    Repeatable,
    encode,
    encode_all,
    image_batches,
    index_batches,
    unless_stopped,
)
from uldm_plugins.stages.previews import Sketch, at_rest
from uldm_plugins.stages.training import OptimizerStep, predict, read_images


class TrainDiffusion:
    """Trains a denoiser to predict, at random times, the target of its noise scheduler.

    The loss is the mean of weight(t) (prediction - target)^2. Latents are brought to unit variance first,
    measured over a full pass over the dataset. With a condition the denoiser is told the class of each image.

    Makes ``averages.safetensors``, with an early average of the weights for guidance by a weaker denoiser,
    and ``held_out.npz`` with ``indices``, int64 [N], of the images that the denoiser was not trained on.

    Source: Ho et al. 2020 (arXiv 2006.11239); Rombach et al. 2022 (arXiv 2112.10752).

    Args:
        dataset: the images.
        autoencoder: frozen; gives the latents.
        denoiser: what is trained; later stages get its averaged weights.
        noise_scheduler: the forward process and what is predicted.
        latent_scaling: fitted here, used again by whoever decodes.
        condition: fitted here: what the denoiser is told beside the time.
        coupling: which noise is paired with which latent.
        timestep_weighting: which times are trained, and how much each counts.
        steps: optimizer steps.
        batch_size: latents a step.
        cache_latents: encode the dataset once and keep the latents in memory; else encode every batch.
        held_out: the share of the images, drawn by the seed, that the denoiser is not trained
            on: for choices after the training. Scaling and condition are fitted to them as well.
        drop: the share of images whose class it is not told, so that it also learns to do without.
        optimizer: of the denoiser.
        lr_schedule: of its learning rate.
        ema_decay: of the average of the weights; 0 keeps the last ones.
        ema_std: width of a power-function average, relative to the time trained; it takes the place of
            ``ema_decay``.
        weaker: the share of the steps after which the average is kept as a weaker denoiser, one copy of the
            weights more; 0 keeps none.
        max_grad_norm: the gradient is scaled down to this norm; 0 leaves it.
        previews: how often, over the whole training, to show what becomes of the same noise; 0 shows none.
        preview_sampler: draws the previews.
        guidance: of the previews.

    Raises:
        ValueError: the guidance is by a weaker denoiser, and none is kept.
    """

    trains = ("denoiser", "latent_scaling", "condition")
    makes = (AVERAGES, HELD_OUT)
    needs: Sequence[str] = ()
    reads = ("train",)
    preview_options: Sequence[str] = ("previews", "preview_sampler", "guidance")
    adjustable: Sequence[str] = ("optimizer", "lr_schedule", "max_grad_norm")

    def __init__(
        self,
        dataset: Dataset,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        noise_scheduler: NoiseScheduler,
        latent_scaling: LatentScaling = use("unit_variance"),
        condition: Condition | None = None,
        coupling: Coupling = use("independent"),
        timestep_weighting: TimestepWeighting = use("uniform"),
        steps: Annotated[int, Ge(1)] = 1000,
        batch_size: Annotated[int, Ge(1)] = 128,
        cache_latents: bool = True,
        held_out: Annotated[float, Interval(ge=0, le=0.5)] = 0.0,
        drop: Annotated[float, Interval(ge=0, lt=1)] = 0.1,
        optimizer: Partial[Optimizer] = use("adamw", lr=1e-3),
        lr_schedule: Partial[LRSchedule] = use("linear", warmup=100),
        ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.999,
        ema_std: Annotated[float, Interval(gt=0, lt=0.28), Excludes("ema_decay")] | None = None,
        weaker: Annotated[float, Interval(ge=0, lt=1)] = 0.125,
        max_grad_norm: Annotated[float, Ge(0)] = 1.0,
        previews: Annotated[int, Ge(0)] = 8,
        preview_sampler: Partial[Sampler] = use("euler", steps=10),
        guidance: Guidance = use("none"),
    ) -> None:
        if needs_average(guidance) and not weaker:
            raise OptionError("weaker = 0 keeps no weaker denoiser, which the guidance needs")
        self.dataset = dataset
        self.autoencoder = autoencoder
        self.denoiser = denoiser
        self.noise_scheduler = noise_scheduler
        self.latent_scaling = latent_scaling
        self.condition = condition
        self.coupling = coupling
        self.timestep_weighting = timestep_weighting
        self.steps = steps
        self.batch_size = batch_size
        self.cache_latents = cache_latents
        self.held_out = held_out
        self.drop = drop
        self.weaker_step = max(1, round(weaker * steps)) if weaker else 0
        self.previews = previews
        self.preview_sampler = preview_sampler
        self.guidance = guidance
        self._average = averaging(ema_decay, ema_std)
        self._optimizer_options = (optimizer, lr_schedule, steps, max_grad_norm)

    def prepare(self, context: Context) -> None:
        """Fit the scaling and the condition, encode the dataset, make optimizer and averages."""
        self.trained, self.kept_back = divided(
            len(self.dataset), self.held_out, context.generator("held out")
        )
        self.autoencoder.eval()
        self.denoiser.train()
        self.latents = encode_all(self.dataset, self.autoencoder, context) if self.cache_latents else None
        self.latent_scaling.fit(self._raw_latents(context))
        if self.latents is not None:
            self.latents = self.latent_scaling.normalize(self.latents)
        self._fit_condition(context)
        self.optimizer_step = OptimizerStep(self.denoiser.parameters(), *self._optimizer_options)
        self.ema = EMA(self.denoiser, self._average)
        self.early = Snapshot()

    def step(self, step: int, context: Context) -> Mapping[str, Tensor]:
        """Update the denoiser once."""
        indices = self.trained[context.batch(len(self.trained), self.batch_size, step)]
        latents = self._normalized(indices, context)
        generator = context.generator(step)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        t = self.timestep_weighting.sample(len(latents), generator).to(latents)
        noise = self.coupling(latents, noise)
        noisy = self.noise_scheduler.add_noise(latents, noise, t)
        classes = self._classes(indices, generator)
        with context.autocast():
            prediction = predict(self.denoiser, self.noise_scheduler, noisy, t, classes)
        target = self.noise_scheduler.target(latents, noise, t)
        errors = (prediction - target).square().mean((1, 2, 3))
        loss = (self.timestep_weighting.weight(t, self.noise_scheduler) * errors).mean()
        self.optimizer_step(loss, step)
        self.ema.update()
        if step + 1 == self.weaker_step:
            self.early.take(self.ema)
        return {"loss": loss.detach()}

    def preview(self, step: int, context: Context) -> None:
        """Show ``samples``: the same noise each time, drawn with the averaged weights, and guided."""
        early = self.early.parameters
        weaker = with_weights(self.denoiser, early) if early and needs_average(self.guidance) else None
        sketch = Sketch(
            self.autoencoder,
            GuidedDenoiser(self.denoiser, self.noise_scheduler, self.guidance, self.condition, weaker),
            self.latent_scaling,
            self.preview_sampler,
            self.dataset.size,
        )
        with at_rest(self.denoiser, self.ema):
            context.show("samples", sketch.draw(context), step)

    def stateful(self) -> Mapping[str, Any]:
        """Return everything that a resumed run needs."""
        fitted = {"condition": self.condition} if self.condition else {}
        return {
            "denoiser": self.denoiser,
            "latent_scaling": self.latent_scaling,
            "optimizer": self.optimizer_step,
            "ema": self.ema,
            "early": self.early,
            **fitted,
        }

    def finish(self, context: Context) -> Mapping[str, float]:
        """Leave the averaged weights in the denoiser; write the early ones, and what was held out."""
        self.ema.apply()
        early = self.early.parameters
        write_tensors(
            context.artifact(AVERAGES),
            {f"{WEAKER}.{number}": tensor.cpu() for number, tensor in enumerate(early)},
        )
        save_arrays(context.artifact(HELD_OUT), indices=self.kept_back)
        self._rest()
        return {}

    def take(self, state: Mapping[str, Any]) -> None:
        """Leave the averaged weights of a checkpoint in the denoiser, and what was fitted as it was."""
        EMA(self.denoiser, self._average).take(state["denoiser"], state["ema"])
        self.latent_scaling.load_state_dict(state["latent_scaling"])
        if self.condition:
            self.condition.load_state_dict(state["condition"])
        early = state.get("early", {}).get("parameters")
        if early and isinstance(self.guidance, HasWeaker) and needs_average(self.guidance):
            self.guidance.weaker = with_weights(self.denoiser, early)
        self._rest()

    def _rest(self) -> None:
        self.denoiser.eval()
        if isinstance(self.latent_scaling, nn.Module):
            self.latent_scaling.eval()

    def _fit_condition(self, context: Context) -> None:
        if self.condition is None:
            return
        of_images = isinstance(self.condition, FitsImages) and self.condition.fits_images
        batches = Repeatable(lambda: self._images(context) if of_images else self._all_normalized(context))
        context.message("fitting the condition")
        try:
            self.condition.fit(batches, self.dataset.labels if isinstance(self.dataset, HasLabels) else None)
        except ValueError as error:
            raise RunError(f"condition: {error}") from error

    def _classes(self, indices: Tensor, generator: torch.Generator) -> Tensor | None:
        """Return the classes that a batch is told, some of them dropped."""
        if self.condition is None:
            return None
        classes = self.condition.of(indices)
        dropped = torch.rand(len(classes), generator=generator) < self.drop
        return classes.masked_fill(dropped, self.condition.classes).to(indices.device)

    def _images(self, context: Context) -> Iterable[Tensor]:
        batches = unless_stopped(image_batches(self.dataset), context)
        return (to_float(batch.to(context.device)) for batch in batches)

    def _all_normalized(self, context: Context) -> Iterable[Tensor]:
        if self.latents is not None:
            return in_batches(self.latents)
        return (self.latent_scaling.normalize(batch) for batch in self._raw_latents(context))

    def _raw_latents(self, context: Context) -> Iterable[Tensor]:
        if self.latents is not None:
            return in_batches(self.latents)
        return (
            self._encode(indices, context) for indices in unless_stopped(index_batches(self.dataset), context)
        )

    def _normalized(self, indices: Tensor, context: Context) -> Tensor:
        if self.latents is not None:
            return self.latents[indices.to(self.latents.device)].clone()
        return self.latent_scaling.normalize(self._encode(indices, context)).clone()

    def _encode(self, indices: Tensor, context: Context) -> Tensor:
        return encode(read_images(self.dataset, indices), self.autoencoder, context)
