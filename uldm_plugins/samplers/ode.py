"""Deterministic samplers: solvers of the probability-flow ODE dx = x0 d(alpha) + noise d(sigma).

In these terms a step needs no division by alpha or sigma, so the same lines serve every process.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from attrs import frozen
from torch import Generator, Tensor

from uldm_core.protocols import Denoise, NoiseScheduler
from uldm_plugins.samplers.path import evaluate, make_path


@frozen
class Euler:
    """First order: x' = x + (alpha' - alpha) x0 + (sigma' - sigma) noise.

    On a variance-preserving process this is DDIM with eta 0 (Song et al. 2021, arXiv 2010.02502), on the
    flow process the Euler method of diffusers' ``FlowMatchEulerDiscreteScheduler``.

    Args:
        steps: calls of the denoiser.
        shift: above 1 spends more steps near noise.
    """

    steps: Annotated[int, Ge(1)] = 25
    shift: Annotated[float, Gt(0)] = 1.0

    def __call__(
        self, denoise: Denoise, noise_scheduler: NoiseScheduler, noise: Tensor, generator: Generator
    ) -> Tensor:
        """Return latents of the noise's shape."""
        path = make_path(noise_scheduler, self.steps, self.shift)
        latents = noise
        for here, there in pairwise(path):
            x0, eps = evaluate(denoise, noise_scheduler, latents, here)
            latents = latents + (there.alpha - here.alpha) * x0 + (there.sigma - here.sigma) * eps
        return latents


@frozen
class Heun:
    """Second order: each step averages the slopes at both ends; the last step, to clean data, is Euler's.

    Source: Karras et al. 2022 (arXiv 2206.00364), algorithm 1, in the terms of this module.

    Args:
        steps: steps; the denoiser is called 2 steps - 1 times.
        shift: above 1 spends more steps near noise.
    """

    order: ClassVar[int] = 2

    steps: Annotated[int, Ge(1)] = 10
    shift: Annotated[float, Gt(0)] = 1.0

    def __call__(
        self, denoise: Denoise, noise_scheduler: NoiseScheduler, noise: Tensor, generator: Generator
    ) -> Tensor:
        """Return latents of the noise's shape."""
        path = make_path(noise_scheduler, self.steps, self.shift)
        latents = noise
        for here, there in pairwise(path):
            x0, eps = evaluate(denoise, noise_scheduler, latents, here)
            alpha, sigma = there.alpha - here.alpha, there.sigma - here.sigma
            ahead = latents + alpha * x0 + sigma * eps
            if there.sigma > 0:
                x0_ahead, eps_ahead = evaluate(denoise, noise_scheduler, ahead, there)
                ahead = latents + alpha * (x0 + x0_ahead) / 2 + sigma * (eps + eps_ahead) / 2
            latents = ahead
        return latents
