"""Training a denoiser on an autoencoder's latents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn

from uldm_core import Excludes, Partial, use
from uldm_core.protocols import (
    Autoencoder,
    Context,
    Dataset,
    Denoiser,
    LatentScaling,
    LRSchedule,
    NoiseScheduler,
    Optimizer,
    Sampler,
    TimestepWeighting,
)
from uldm_plugins.shared.ema import EMA, averaging
from uldm_plugins.shared.images import in_batches
from uldm_plugins.stages.latents import encode, encode_all, index_batches, unless_stopped
from uldm_plugins.stages.previews import Sketch, at_rest
from uldm_plugins.stages.training import OptimizerStep, predict, read_images


class TrainDiffusion:
    """Trains a denoiser to predict, at random times, the target of its noise scheduler.

    The loss is the mean of weight(t) (prediction - target)^2. Latents are brought to unit variance first,
    measured over a full pass over the dataset.

    Source: Ho et al. 2020 (arXiv 2006.11239); Rombach et al. 2022 (arXiv 2112.10752).

    Args:
        dataset: the images.
        autoencoder: frozen; gives the latents.
        denoiser: what is trained; later stages get its averaged weights.
        noise_scheduler: the forward process and what is predicted.
        latent_scaling: fitted here, used again by whoever decodes.
        timestep_weighting: which times are trained, and how much each counts.
        steps: optimizer steps.
        batch_size: latents a step.
        cache_latents: encode the dataset once and keep the latents in memory; else encode every batch.
        optimizer: of the denoiser.
        lr_schedule: of its learning rate.
        ema_decay: of the average of the weights; 0 keeps the last ones.
        ema_std: width of a power-function average, relative to the time trained; it takes the place of
            ``ema_decay``.
        max_grad_norm: the gradient is scaled down to this norm; 0 leaves it.
        previews: how often, over the whole training, to show what becomes of the same noise; 0 shows none.
        preview_sampler: draws the previews.
    """

    trains = ("denoiser", "latent_scaling")
    makes: Sequence[str] = ()
    needs: Sequence[str] = ()
    reads = ("train",)
    adjustable: Sequence[str] = ("optimizer", "lr_schedule", "max_grad_norm")

    def __init__(
        self,
        dataset: Dataset,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        noise_scheduler: NoiseScheduler,
        latent_scaling: LatentScaling = use("unit_variance"),
        timestep_weighting: TimestepWeighting = use("uniform"),
        steps: Annotated[int, Ge(1)] = 1000,
        batch_size: Annotated[int, Ge(1)] = 128,
        cache_latents: bool = True,
        optimizer: Partial[Optimizer] = use("adamw", lr=1e-3),
        lr_schedule: Partial[LRSchedule] = use("linear", warmup=100),
        ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.999,
        ema_std: Annotated[float, Interval(gt=0, lt=0.28), Excludes("ema_decay")] | None = None,
        max_grad_norm: Annotated[float, Ge(0)] = 1.0,
        previews: Annotated[int, Ge(0)] = 8,
        preview_sampler: Partial[Sampler] = use("euler", steps=10),
    ) -> None:
        self.dataset = dataset
        self.autoencoder = autoencoder
        self.denoiser = denoiser
        self.noise_scheduler = noise_scheduler
        self.latent_scaling = latent_scaling
        self.timestep_weighting = timestep_weighting
        self.steps = steps
        self.batch_size = batch_size
        self.cache_latents = cache_latents
        self.previews = previews
        self.preview_sampler = preview_sampler
        self._average = averaging(ema_decay, ema_std)
        self._optimizer_options = (optimizer, lr_schedule, steps, max_grad_norm)

    def prepare(self, context: Context) -> None:
        """Fit the scaling, encode the dataset, make optimizer and average."""
        self.autoencoder.eval()
        self.denoiser.train()
        self.latents = encode_all(self.dataset, self.autoencoder, context) if self.cache_latents else None
        self.latent_scaling.fit(self._raw_latents(context))
        if self.latents is not None:
            self.latents = self.latent_scaling.normalize(self.latents)
        self.optimizer_step = OptimizerStep(self.denoiser.parameters(), *self._optimizer_options)
        self.ema = EMA(self.denoiser, self._average)

    def step(self, step: int, context: Context) -> Mapping[str, Tensor]:
        """Update the denoiser once."""
        indices = context.batch(len(self.dataset), self.batch_size, step)
        latents = self._normalized(indices, context)
        generator = context.generator(step)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        t = self.timestep_weighting.sample(len(latents), generator).to(latents)
        noisy = self.noise_scheduler.add_noise(latents, noise, t)
        with context.autocast():
            prediction = predict(self.denoiser, self.noise_scheduler, noisy, t)
        target = self.noise_scheduler.target(latents, noise, t)
        errors = (prediction - target).square().mean((1, 2, 3))
        loss = (self.timestep_weighting.weight(t, self.noise_scheduler) * errors).mean()
        self.optimizer_step(loss, step)
        self.ema.update()
        return {"loss": loss.detach()}

    def preview(self, step: int, context: Context) -> None:
        """Show ``samples``: the same noise each time, drawn with the averaged weights."""
        sketch = Sketch(
            self.autoencoder,
            self.denoiser,
            self.noise_scheduler,
            self.latent_scaling,
            self.preview_sampler,
            self.dataset.size,
        )
        with at_rest(self.denoiser, self.ema):
            context.show("samples", sketch.draw(context), step)

    def stateful(self) -> Mapping[str, Any]:
        """Return everything that a resumed run needs."""
        return {
            "denoiser": self.denoiser,
            "latent_scaling": self.latent_scaling,
            "optimizer": self.optimizer_step,
            "ema": self.ema,
        }

    def finish(self, context: Context) -> Mapping[str, float]:
        """Leave the averaged weights in the denoiser."""
        self.ema.apply()
        self._rest()
        return {}

    def take(self, state: Mapping[str, Any]) -> None:
        """Leave the averaged weights of a checkpoint in the denoiser, and the scaling as it was fitted."""
        EMA(self.denoiser, self._average).take(state["denoiser"], state["ema"])
        self.latent_scaling.load_state_dict(state["latent_scaling"])
        self._rest()

    def _rest(self) -> None:
        self.denoiser.eval()
        if isinstance(self.latent_scaling, nn.Module):
            self.latent_scaling.eval()

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
