"""Guidance by the condition without what makes samples too bright and flat."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from annotated_types import Interval as Range
from torch import Tensor

from uldm_core.protocols import Denoise, Models, NoiseScheduler
from uldm_plugins.guidance.classifier_free import without_and_with
from uldm_plugins.guidance.interval import Interval, Weight, WeightedGuidance

PLACES = (1, 2, 3)


class AdaptiveProjected(WeightedGuidance):
    """Classifier-free guidance of the data that are predicted, less the part along these data themselves.

    That part raises the contrast of samples and little else, so that larger weights can be taken. The
    difference of both predictions is also bounded, and each step takes some of the earlier ones off.

    Source: Sadat et al. 2024 (arXiv 2410.02416), algorithm 1; ``AdaptiveProjectedGuidance`` of diffusers.

    Args:
        classes: of the condition, without which there is nothing to leave out.
        weight: of the guidance; 1 is none.
        interval: the noise levels, sigma / alpha, between which it acts; everywhere by default.
        eta: how much of the part along the data is left; with 1, without momentum and without a threshold,
            it is ``classifier_free``.
        momentum: of the difference from step to step; below 0 it weakens what steps have in common.
        norm_threshold: the difference is scaled down to this norm; 0 leaves it. The norm is that of a whole
            latent, and grows with its size: 2.5 to 15 are usual for those of large models.

    Raises:
        ValueError: the interval is empty.
    """

    def __init__(
        self,
        classes: Annotated[int, Ge(1)],
        weight: Weight = 2.0,
        interval: Interval | None = None,
        eta: Annotated[float, Range(ge=0, le=1)] = 0.0,
        momentum: Annotated[float, Range(gt=-1, lt=1)] = -0.5,
        norm_threshold: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(weight, interval)
        self.classes = classes
        self.eta = eta
        self.momentum = momentum
        self.norm_threshold = norm_threshold

    def guided(self, models: Models, noise_scheduler: NoiseScheduler) -> Denoise:
        """Return the denoiser with guidance.

        Raises:
            ValueError: there is no condition.
        """
        both = without_and_with(models)
        average: Tensor | None = None

        def denoise(latents: Tensor, t: Tensor) -> Tensor:
            nonlocal average
            untold, told = both(latents, t)
            alpha, sigma = (c.view(-1, 1, 1, 1) for c in noise_scheduler.coefficients(t))
            if not float(sigma[0]):  # nothing is left to predict
                return told
            data = noise_scheduler.split(told, latents, t)[0]
            difference = data - noise_scheduler.split(untold, latents, t)[0]
            average = difference if average is None else difference + self.momentum * average
            change = (self.weight - 1) * self._projected(average, data)
            # targets are linear in data and noise: this much they change where x_t stays
            return told + noise_scheduler.target(change, -alpha / sigma * change, t)

        return denoise

    def _projected(self, difference: Tensor, data: Tensor) -> Tensor:
        """Return the difference, bounded, with ``eta`` of its part along the data."""
        if self.norm_threshold:
            difference = difference * (self.norm_threshold / _norm(difference)).clamp(max=1)
        along = data / _norm(data).clamp(min=1e-12)
        parallel = (difference * along).sum(PLACES, keepdim=True) * along
        return difference - (1 - self.eta) * parallel


def _norm(latents: Tensor) -> Tensor:
    return torch.linalg.vector_norm(latents, dim=PLACES, keepdim=True)
