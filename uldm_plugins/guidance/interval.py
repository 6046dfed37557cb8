"""What guidance with a weight shares: where it acts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from uldm_core.errors import OptionError
from uldm_core.protocols import Denoise, Models, NoiseScheduler

Weight = Annotated[float, Ge(0)]
Interval = tuple[Annotated[float, Ge(0)], Annotated[float, Ge(0)]]


class WeightedGuidance(ABC):
    """Guidance in an interval of noise levels; with weight 1 it calls the denoiser alone, everywhere.

    Source: the interval, Kynkäänniemi et al. 2024 (arXiv 2404.07724).

    Args:
        weight: of the guidance; 1 is none.
        interval: the noise levels, sigma / alpha, between which it acts, both included; None is everywhere.

    Raises:
        ValueError: the interval is empty.
    """

    def __init__(self, weight: float, interval: tuple[float, float] | None) -> None:
        if interval and interval[0] > interval[1]:
            raise OptionError(f"interval = {list(interval)}: the first must not be above the second")
        self.weight = weight
        self.interval = interval

    @abstractmethod
    def guided(self, models: Models, noise_scheduler: NoiseScheduler) -> Denoise:
        """Return the denoiser with guidance."""

    def __call__(self, models: Models, noise_scheduler: NoiseScheduler) -> Denoise:
        """Return the denoiser, with guidance inside of the interval."""
        guided = self.guided(models, noise_scheduler) if self.weight != 1 else None

        def denoise(latents: Tensor, t: Tensor) -> Tensor:
            if guided is None or not self._acts(noise_scheduler, t):
                return models.predict(latents, t, models.condition)
            return guided(latents, t)

        return denoise

    def _acts(self, noise_scheduler: NoiseScheduler, t: Tensor) -> bool:
        if self.interval is None:
            return True
        alpha, sigma = noise_scheduler.coefficients(t[:1])
        level = float(sigma / alpha) if float(alpha) > 0 else float("inf")
        return self.interval[0] <= level <= self.interval[1]


def extrapolated(worse: Tensor, better: Tensor, weight: float) -> Tensor:
    """Return the prediction beyond the better one, seen from the worse one; the better one for weight 1."""
    return torch.lerp(worse, better, weight)
