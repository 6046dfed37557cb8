"""Guidance by the same denoiser without its condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from uldm_core.protocols import Denoise, Models, NoiseScheduler
from uldm_plugins.guidance.interval import Interval, Weight, WeightedGuidance, extrapolated


class ClassifierFree(WeightedGuidance):
    """Leads from what the denoiser predicts when it is not told the condition to what it predicts when it is.

    Both predictions are made in one batch.

    Source: Ho and Salimans 2022 (arXiv 2207.12598); ``ClassifierFreeGuidance`` of diffusers.

    Args:
        classes: of the condition, without which there is nothing to leave out.
        weight: of the guidance; 1 is none, 0 the prediction without condition.
        interval: the noise levels, sigma / alpha, between which it acts; everywhere by default.

    Raises:
        ValueError: the interval is empty.
    """

    def __init__(
        self, classes: Annotated[int, Ge(1)], weight: Weight = 1.5, interval: Interval | None = None
    ) -> None:
        super().__init__(weight, interval)
        self.classes = classes

    def guided(self, models: Models, noise_scheduler: NoiseScheduler) -> Denoise:
        """Return the denoiser with guidance.

        Raises:
            ValueError: there is no condition.
        """
        both = without_and_with(models)
        return lambda latents, t: extrapolated(*both(latents, t), self.weight)


def without_and_with(models: Models) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return what predicts without and with the condition, in one batch.

    Raises:
        ValueError: there is no condition.
    """
    if models.condition is None or models.untold is None:
        raise ValueError("guidance by the condition needs a condition")
    told = models.condition
    conditions = torch.cat([torch.full_like(told, models.untold), told])

    def both(latents: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        predictions = models.predict(torch.cat([latents, latents]), torch.cat([t, t]), conditions)
        untold, told = predictions.chunk(2)
        return untold, told

    return both
