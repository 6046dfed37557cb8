"""No guidance."""

from __future__ import annotations

from torch import Tensor

from uldm_core.protocols import Denoise, Models, NoiseScheduler


class NoGuidance:
    """The denoiser as it is."""

    def __call__(self, models: Models, noise_scheduler: NoiseScheduler) -> Denoise:
        """Return the denoiser, told the condition."""

        def denoise(latents: Tensor, t: Tensor) -> Tensor:
            return models.predict(latents, t, models.condition)

        return denoise
