"""Deterministic samplers: solvers of the probability-flow ODE dx = x0 d(alpha) + noise d(sigma).

In these terms a step needs no division by alpha or by the next sigma, so the same lines serve every process.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from attrs import frozen
from torch import Generator, Tensor

from uldm_core.protocols import Denoise, NoiseScheduler
from uldm_plugins.samplers.path import Point, Spacing, evaluate, make_path, start

FEW_STEPS = 15
"""With fewer steps the last but one of ``dpmpp_3m`` is of second order, as in diffusers."""


@frozen
class Euler:
    """First order: x' = x + (alpha' - alpha) x0 + (sigma' - sigma) noise.

    On a variance-preserving process this is DDIM with eta 0 (Song et al. 2021, arXiv 2010.02502), on the
    flow process the Euler method of diffusers' ``FlowMatchEulerDiscreteScheduler``.

    Args:
        steps: calls of the denoiser.
        shift: above 1 spends more steps near noise.
        spacing: of the times: even, of discrete ones as in diffusers, or ``karras``, for few steps.
    """

    steps: Annotated[int, Ge(1)] = 25
    shift: Annotated[float, Gt(0)] = 1.0
    spacing: Spacing = "linspace"

    def __call__(
        self, denoise: Denoise, noise_scheduler: NoiseScheduler, noise: Tensor, generator: Generator
    ) -> Tensor:
        """Return latents of the noise's shape."""
        path = make_path(noise_scheduler, self.steps, self.shift, self.spacing)
        latents = start(noise, path)
        for here, there in pairwise(path):
            x0, eps = evaluate(denoise, noise_scheduler, latents, here)
            latents = latents.add(x0, alpha=there.alpha - here.alpha).add(eps, alpha=there.sigma - here.sigma)
        return latents


@frozen
class Heun:
    """Second order: each step averages the slopes at both ends; the last step, to clean data, is Euler's.

    Every process is the flow in other units: x / (alpha + sigma) = (1 - s) x0 + s noise at the time
    s = sigma / (alpha + sigma). The slopes that are averaged are velocities, noise - x0, in this time: it
    stays in [0, 1] where sigma / alpha, which diffusers' ``HeunDiscreteScheduler`` steps in, has no bound.

    Source: Karras et al. 2022 (arXiv 2206.00364), algorithm 1; diffusers'
    ``FlowMatchHeunDiscreteScheduler``.

    Args:
        steps: steps; the denoiser is called 2 steps - 1 times.
        shift: above 1 spends more steps near noise.
        spacing: of the times: even, of discrete ones as in diffusers, or ``karras``, for few steps.
    """

    order: ClassVar[int] = 2

    steps: Annotated[int, Ge(1)] = 10
    shift: Annotated[float, Gt(0)] = 1.0
    spacing: Spacing = "linspace"

    def __call__(
        self, denoise: Denoise, noise_scheduler: NoiseScheduler, noise: Tensor, generator: Generator
    ) -> Tensor:
        """Return latents of the noise's shape."""
        path = make_path(noise_scheduler, self.steps, self.shift, self.spacing)
        latents = start(noise, path)
        for here, there in pairwise(path):
            x0, eps = evaluate(denoise, noise_scheduler, latents, here)
            ahead = (there.alpha * x0).add(eps, alpha=there.sigma)
            if there.sigma > 0:
                slopes = (x0, eps), evaluate(denoise, noise_scheduler, ahead, there)
                ahead = _averaged(latents, here, there, slopes)
            latents = ahead
        return latents


def _averaged(
    latents: Tensor, here: Point, there: Point, slopes: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    """Step from here to there along the mean of the slopes at both."""
    (x0, eps), (x0_ahead, eps_ahead) = slopes
    scale = (there.alpha + there.sigma) / (here.alpha + here.sigma)
    moved = (latents * scale).add(x0 + x0_ahead, alpha=(there.alpha - scale * here.alpha) / 2)
    return moved.add(eps.lerp(eps_ahead, 0.5), alpha=there.sigma - scale * here.sigma)


@frozen
class DPMpp2M:
    """One call a step: data are extrapolated from this step's prediction and the last's.

    With l = log(alpha / sigma), h = l' - l, r = h_last / h and D = (1 + 1 / 2r) x0 - (1 / 2r) x0_last:
    x' = (sigma' / sigma) x - alpha' (exp(-h) - 1) D; first order on the first step and on the last, to
    clean data. It is of second order in l; in equal steps of time the ends are coarse, and it lies between.

    Source: Lu et al. 2022 (arXiv 2211.01095), algorithm 2; diffusers' ``DPMSolverMultistepScheduler``.

    Args:
        steps: calls of the denoiser.
        shift: above 1 spends more steps near noise.
        spacing: of the times: even, of discrete ones as in diffusers, or ``karras``, for few steps.
    """

    steps: Annotated[int, Ge(1)] = 20
    shift: Annotated[float, Gt(0)] = 1.0
    spacing: Spacing = "linspace"

    def __call__(
        self, denoise: Denoise, noise_scheduler: NoiseScheduler, noise: Tensor, generator: Generator
    ) -> Tensor:
        """Return latents of the noise's shape."""
        path = make_path(noise_scheduler, self.steps, self.shift, self.spacing)
        latents, last, h_last = start(noise, path), noise, math.inf
        for here, there in pairwise(path):
            x0, _ = evaluate(denoise, noise_scheduler, latents, here)
            h = log_snr(there) - log_snr(here)
            more = 0.0 if math.isinf(h) else h / h_last / 2
            ratio = there.sigma / here.sigma
            # alpha' exp(-h) = alpha sigma' / sigma, which is finite where h is not
            latents = ratio * latents + (there.alpha - here.alpha * ratio) * (x0 + more * (x0 - last))
            last, h_last = x0, h
        return latents


@frozen
class DPMpp3M:
    """One call a step: data are extrapolated from the predictions of this step and the last two.

    Of the terms of ``dpmpp_2m``'s expansion in l = log(alpha / sigma) it has one more, at half its weight, as
    the source's code has it: of second order, with a smaller error. The first step is of first order and the
    second of second, as are the last, to clean data, and with fewer than 15 steps the last but one: with four
    steps it is ``dpmpp_2m``.

    Source: Lu et al. 2022 (arXiv 2211.01095), appendix B; diffusers'
    ``DPMSolverMultistepScheduler(solver_order=3)``.

    Args:
        steps: calls of the denoiser.
        shift: above 1 spends more steps near noise.
        spacing: of the times: even, of discrete ones as in diffusers, or ``karras``, for few steps.
    """

    steps: Annotated[int, Ge(1)] = 20
    shift: Annotated[float, Gt(0)] = 1.0
    spacing: Spacing = "linspace"

    def __call__(
        self, denoise: Denoise, noise_scheduler: NoiseScheduler, noise: Tensor, generator: Generator
    ) -> Tensor:
        """Return latents of the noise's shape."""
        path = make_path(noise_scheduler, self.steps, self.shift, self.spacing)
        latents, known = start(noise, path), list[tuple[float, Tensor]]()
        for left, (here, there) in zip(range(len(path) - 2, -1, -1), pairwise(path)):
            x0, _ = evaluate(denoise, noise_scheduler, latents, here)
            most = 2 if left == 1 and len(path) - 1 < FEW_STEPS else 3
            known = [(log_snr(here), x0), *known][:most]
            latents = _extrapolated(latents, here, there, known)
        return latents


def _extrapolated(latents: Tensor, here: Point, there: Point, known: list[tuple[float, Tensor]]) -> Tensor:
    """Step from here to there by the data predicted at up to three log-SNRs, the latest first."""
    (now, x0), *earlier = [pair for pair in known if math.isfinite(pair[0])] or known[:1]
    h, ratio = log_snr(there) - now, there.sigma / here.sigma
    first = there.alpha - here.alpha * ratio  # alpha' (1 - exp(-h)), which is finite where h is not
    latents = ratio * latents + first * x0
    if math.isinf(h) or not earlier:
        return latents
    slope = (x0 - earlier[0][1]) / (now - earlier[0][0])
    if len(earlier) == 1:
        return latents + first * h / 2 * slope
    slope_before = (earlier[0][1] - earlier[1][1]) / (earlier[0][0] - earlier[1][0])
    bend = (slope - slope_before) / (now - earlier[1][0])
    slope = slope + bend * (now - earlier[0][0])
    second = there.alpha * h - first
    return latents + second * slope + (there.alpha * h**2 / 2 - second) * bend


def log_snr(point: Point) -> float:
    """Return log(alpha / sigma), infinite at the two ends."""
    if point.sigma == 0:
        return math.inf
    return math.log(point.alpha / point.sigma) if point.alpha else -math.inf
