"""Samplers that can add noise on the way."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from attrs import frozen
from torch import Generator, Tensor

from uldm_core.protocols import Denoise, NoiseScheduler
from uldm_plugins.samplers.path import Point, Spacing, evaluate, make_path, start


@frozen
class DDPM:
    """Ancestral sampling from q(x_s | x_t, x0), with the posterior's variance; no clipping of latents.

    Source: Ho et al. 2020 (arXiv 2006.11239), equations 6 and 7; diffusers'
    ``DDPMScheduler(clip_sample=False)``.

    Args:
        steps: calls of the denoiser; with T discrete timesteps at most T.
        spacing: of the times: even, of discrete ones as in diffusers, or ``karras``, for few steps.
    """

    steps: Annotated[int, Ge(1)] = 1000
    spacing: Spacing = "linspace"

    def __call__(
        self, denoise: Denoise, noise_scheduler: NoiseScheduler, noise: Tensor, generator: Generator
    ) -> Tensor:
        """Return latents of the noise's shape."""
        path = make_path(noise_scheduler, self.steps, spacing=self.spacing)
        latents = start(noise, path)
        for here, there in pairwise(path):
            x0, _ = evaluate(denoise, noise_scheduler, latents, here)
            on_x0, on_x, std = posterior(here, there)
            latents = on_x0 * x0 + on_x * latents + _fresh(latents, std, generator)
        return latents


@frozen
class DDIM:
    """Non-Markovian sampling: deterministic for eta 0, as noisy as ancestral sampling for eta 1.

    x' = alpha' x0 + sqrt(sigma'^2 - s^2) noise + s z, with s eta times the posterior's deviation.

    Source: Song et al. 2021 (arXiv 2010.02502), equation 12; diffusers' ``DDIMScheduler(clip_sample=False)``.

    Args:
        steps: calls of the denoiser.
        eta: how much fresh noise is added.
        spacing: of the times: even, of discrete ones as in diffusers, or ``karras``, for few steps.
    """

    steps: Annotated[int, Ge(1)] = 50
    eta: Annotated[float, Interval(ge=0, le=1)] = 0.0
    spacing: Spacing = "linspace"

    def __call__(
        self, denoise: Denoise, noise_scheduler: NoiseScheduler, noise: Tensor, generator: Generator
    ) -> Tensor:
        """Return latents of the noise's shape."""
        path = make_path(noise_scheduler, self.steps, spacing=self.spacing)
        latents = start(noise, path)
        for here, there in pairwise(path):
            x0, eps = evaluate(denoise, noise_scheduler, latents, here)
            std = self.eta * posterior(here, there)[2]
            kept = max(there.sigma**2 - std**2, 0.0) ** 0.5
            latents = there.alpha * x0 + kept * eps + _fresh(latents, std, generator)
        return latents


@frozen
class EulerAncestral(DDIM):
    """Euler steps to a lower level than the next, and fresh noise up to it: DDIM with eta 1 in other words.

    Source: k-diffusion's ``sample_euler_ancestral``; diffusers' ``EulerAncestralDiscreteScheduler``.

    Args:
        steps: calls of the denoiser.
        eta: how much fresh noise is added.
        spacing: of the times: even, of discrete ones as in diffusers, or ``karras``, for few steps.
    """

    steps: Annotated[int, Ge(1)] = 50
    eta: Annotated[float, Interval(ge=0, le=1)] = 1.0
    spacing: Spacing = "linspace"


def _fresh(latents: Tensor, std: float, generator: Generator) -> Tensor | float:
    """Return fresh noise of a deviation; none is drawn for 0."""
    if std <= 0:
        return 0.0
    return std * torch.randn(latents.shape, generator=generator, device=generator.device).to(latents)


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
