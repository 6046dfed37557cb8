"""Ancestral sampling."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge
from attrs import frozen
from torch import Generator, Tensor

from uldm_core.protocols import Denoise, NoiseScheduler
from uldm_plugins.samplers.path import Point, evaluate, make_path


@frozen
class DDPM:
    """Ancestral sampling from q(x_s | x_t, x0), with the posterior's variance; no clipping of latents.

    Source: Ho et al. 2020 (arXiv 2006.11239), equations 6 and 7; diffusers'
    ``DDPMScheduler(clip_sample=False)``.

    Args:
        steps: calls of the denoiser; with T discrete timesteps at most T.
    """

    steps: Annotated[int, Ge(1)] = 1000

    def __call__(
        self, denoise: Denoise, noise_scheduler: NoiseScheduler, noise: Tensor, generator: Generator
    ) -> Tensor:
        """Return latents of the noise's shape."""
        path = make_path(noise_scheduler, self.steps)
        latents = noise
        for here, there in pairwise(path):
            x0, _ = evaluate(denoise, noise_scheduler, latents, here)
            on_x0, on_x, std = posterior(here, there)
            latents = on_x0 * x0 + on_x * latents
            if std > 0:
                fresh = torch.randn(noise.shape, generator=generator, device=generator.device)
                latents = latents + std * fresh.to(latents)
        return latents


def posterior(here: Point, there: Point) -> tuple[float, float, float]:
    """Return the weights of x0 and x_t in the posterior's mean, and its standard deviation."""
    ratio = here.alpha / there.alpha
    beta = here.sigma**2 - ratio**2 * there.sigma**2
    variance = beta * there.sigma**2 / here.sigma**2
    return (
        there.alpha * beta / here.sigma**2,
        ratio * there.sigma**2 / here.sigma**2,
        max(variance, 0.0) ** 0.5,
    )
