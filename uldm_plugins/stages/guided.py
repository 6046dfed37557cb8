"""The denoiser as samplers call it: guided, and told what to draw."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from attrs import frozen
from torch import Tensor

from uldm_core.protocols import (
    Condition,
    Context,
    Denoise,
    Denoiser,
    Guidance,
    HasWeaker,
    Models,
    NoiseScheduler,
    Predict,
)
from uldm_plugins.stages.training import predict

AVERAGES = "averages.safetensors"
"""The artifact of averages that were kept while a denoiser was trained, by ``NAME.NUMBER`` of parameter."""
WEAKER = "weaker"
"""The name of the average that ``auto`` guidance leads away from."""


@frozen
class GuidedDenoiser:
    """A denoiser with its guidance.

    Args:
        denoiser: trained.
        noise_scheduler: the process it was trained on.
        guidance: leads away from a worse prediction.
        condition: what the denoiser is told, if anything.
        weaker: the denoiser that ``auto`` leads away from, if it is kept by the training.
    """

    denoiser: Denoiser
    noise_scheduler: NoiseScheduler
    guidance: Guidance
    condition: Condition | None = None
    weaker: Denoiser | None = None

    def denoise(self, context: Context, classes: Tensor | None, *, guided: bool = True) -> Denoise:
        """Return the denoiser for a batch of these classes, int64 [B], or None without a condition.

        Raises:
            ValueError: the guidance lacks a model that it needs.
        """
        told = None if classes is None else classes.to(context.device)
        strong = self._predict(self.denoiser, context)
        if not guided:
            return lambda latents, t: strong(latents, t, told)
        weaker = self._weaker()
        untold = self.condition.classes if self.condition else None
        models = Models(strong, told, untold, self._predict(weaker, context) if weaker else None)
        return self.guidance(models, self.noise_scheduler)

    @property
    def lacks_weaker(self) -> bool:
        """Whether the guidance needs a weaker denoiser, and there is none yet."""
        return isinstance(self.guidance, HasWeaker) and self._weaker() is None

    def _weaker(self) -> Denoiser | None:
        own = self.guidance.weaker if isinstance(self.guidance, HasWeaker) else None
        return own if own is not None else self.weaker

    def _predict(self, denoiser: Denoiser, context: Context) -> Predict:
        def call(latents: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
            with context.autocast():
                return predict(denoiser, self.noise_scheduler, latents, t, condition)

        denoiser.eval()
        return call


@torch.no_grad()
def with_weights(denoiser: Denoiser, parameters: Sequence[Tensor]) -> Denoiser:
    """Return a copy of a denoiser with other parameters, in the order of its own."""
    copy = deepcopy(denoiser)
    for own, other in zip(copy.parameters(), parameters, strict=True):
        own.copy_(other)
    return copy
