"""The loss of a denoiser."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Generator, Tensor

from uldm_core.protocols import (
    Condition,
    Context,
    Coupling,
    Denoiser,
    NoiseScheduler,
    TimestepWeighting,
)
from uldm_plugins.stages.training import predict


@frozen
class DenoisingLoss:
    """How far a denoiser's predictions are from their targets, at times that are drawn.

    Args:
        denoiser: predicts.
        noise_scheduler: says what is predicted.
        coupling: pairs noise with latents.
        timestep_weighting: draws times, and says how much each counts.
        condition: gives the classes of the images.
    """

    denoiser: Denoiser
    noise_scheduler: NoiseScheduler
    coupling: Coupling
    timestep_weighting: TimestepWeighting
    condition: Condition | None = None

    def __call__(
        self,
        latents: Tensor,
        indices: Tensor,
        context: Context,
        generator: Generator,
        drop: float = 0.0,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        """Return weight(t) mean((prediction - target)^2) of each latent, [B].

        Args:
            latents: normalized, [B, C, h, w].
            indices: of their images in the training set, int64 [B].
            context: of the stage.
            generator: draws noise, times and whose class is dropped, in this order.
            drop: the share of the images whose class the denoiser is not given.
            augmentation: the parameters by which the images were changed, [B, P].
        """
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        t = self.timestep_weighting.sample(len(latents), generator).to(latents)
        noise = self.coupling(latents, noise)
        noisy = self.noise_scheduler.add_noise(latents, noise, t)
        classes = self._classes(indices, generator, drop)
        classes = None if classes is None else classes.to(latents.device)
        with context.autocast():
            prediction = predict(self.denoiser, self.noise_scheduler, noisy, t, classes, augmentation)
        target = self.noise_scheduler.target(latents, noise, t)
        errors = (prediction - target).square().mean((1, 2, 3))
        return self.timestep_weighting.weight(t, self.noise_scheduler) * errors

    def _classes(self, indices: Tensor, generator: Generator, drop: float) -> Tensor | None:
        if self.condition is None:
            return None
        classes = self.condition.of(indices)
        dropped = torch.rand(len(classes), generator=generator) < drop
        return classes.masked_fill(dropped, self.condition.classes)
