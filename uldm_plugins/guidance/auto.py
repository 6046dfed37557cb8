"""Guidance by a weaker denoiser."""

from __future__ import annotations

from torch import Tensor

from uldm_core.protocols import Denoise, Denoiser, Models, NoiseScheduler
from uldm_plugins.guidance.interval import Interval, Weight, WeightedGuidance, extrapolated


class Auto(WeightedGuidance):
    """Leads from what a weaker denoiser predicts to what the denoiser does, both told the same condition.

    What the weaker one gets wrong, the better one gets wrong a little as well: leading away from it corrects
    samples without making them alike.

    Source: Karras et al. 2024 (arXiv 2406.02507); ``AutoGuidance`` of diffusers.

    Args:
        weight: of the guidance; 1 is none.
        interval: the noise levels, sigma / alpha, between which it acts; everywhere by default.
        weaker: another denoiser of the recipe, ``{ ref = "small_denoiser" }``; by default an early average of
            the weights of the denoiser itself, see the option ``weaker`` of ``train_diffusion``.

    Raises:
        ValueError: the interval is empty.
    """

    def __init__(
        self, weight: Weight = 2.0, interval: Interval | None = None, weaker: Denoiser | None = None
    ) -> None:
        super().__init__(weight, interval)
        self.weaker = weaker

    def guided(self, models: Models, noise_scheduler: NoiseScheduler) -> Denoise:
        """Return the denoiser with guidance.

        Raises:
            ValueError: there is no weaker model.
        """
        weaker = models.weaker
        if weaker is None:
            raise ValueError("there is no weaker model")

        def denoise(latents: Tensor, t: Tensor) -> Tensor:
            worse = weaker(latents, t, models.condition)
            return extrapolated(worse, models.predict(latents, t, models.condition), self.weight)

        return denoise
