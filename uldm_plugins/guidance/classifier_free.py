"""Guidance by the same denoiser without its condition."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from uldm_core.errors import OptionError
from uldm_core.protocols import Denoise, Models, NoiseScheduler
from uldm_plugins.guidance.interval import Interval, Weight, WeightedGuidance, extrapolated


class ClassifierFree(WeightedGuidance):
    """Leads from what the denoiser predicts when it is not told the condition to what it predicts when it is.

    Both predictions are made in one batch.

    Source: Ho and Salimans 2022 (arXiv 2207.12598); ``ClassifierFreeGuidance`` of diffusers.

    Args:
        weight: of the guidance; 1 is none, 0 the prediction without condition.
        interval: the noise levels, sigma / alpha, between which it acts; everywhere by default.
        classes: of the condition.

    Raises:
        ValueError: there is no condition, or the interval is empty.
    """

    def __init__(
        self, weight: Weight = 1.5, interval: Interval | None = None, classes: Annotated[int, Ge(0)] = 0
    ) -> None:
        if not classes:
            raise OptionError(
                "without a [condition] there is nothing that the denoiser is not told: take auto"
            )
        super().__init__(weight, interval)

    def guided(self, models: Models, noise_scheduler: NoiseScheduler) -> Denoise:
        """Return the denoiser with guidance."""

        def denoise(latents: Tensor, t: Tensor) -> Tensor:
            return extrapolated(*untold_and_told(models, latents, t), self.weight)

        return denoise


def untold_and_told(models: Models, latents: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the predictions without and with the condition, of one batch.

    Raises:
        ValueError: there is no condition.
    """
    if models.condition is None or models.untold is None:
        raise ValueError("guidance by the condition needs a condition")
    untold = torch.full_like(models.condition, models.untold)
    predictions = models.predict(
        torch.cat([latents, latents]), torch.cat([t, t]), torch.cat([untold, models.condition])
    )
    first, second = predictions.chunk(2)
    return first, second
