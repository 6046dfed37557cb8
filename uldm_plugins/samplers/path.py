"""The path a sampler takes: its times, and the step from one to the next."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from uldm_core.protocols import Denoise, NoiseScheduler


@frozen
class Point:
    """A time on the path, with the coefficients there; the last point is clean data (1, 0)."""

    t: float
    alpha: float
    sigma: float


def make_path(noise_scheduler: NoiseScheduler, steps: int, shift: float = 1.0) -> list[Point]:
    """Return ``steps`` + 1 points from noise to clean data.

    Continuous times are evenly spaced from 1 to 0; discrete ones are evenly spaced steps from T - 1 to 0,
    after which comes clean data (diffusers' ``linspace`` spacing with ``set_alpha_to_one``).

    Args:
        noise_scheduler: the forward process.
        steps: how many times the path is evaluated at.
        shift: above 1 spends more steps near noise: t -> s t / (1 + (s - 1) t) (Esser et al. 2024).

    Raises:
        ValueError: no step, or more steps than a discrete process has.
    """
    if steps < 1:
        raise ValueError(f"{steps} sampling steps: one is the least")
    if noise_scheduler.timesteps is None:
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
    else:
        last = noise_scheduler.timesteps - 1
        if steps > noise_scheduler.timesteps:
            raise ValueError(f"{steps} sampling steps, but the noise scheduler has {last + 1} timesteps")
        times = torch.linspace(last, 0, steps, dtype=torch.float64).round() / last
    times = shift * times / (1 + (shift - 1) * times)
    device = next(iter(getattr(noise_scheduler, "buffers", lambda: ())()), torch.empty(0)).device
    alphas, sigmas = noise_scheduler.coefficients(times.float().to(device))
    points = zip(times.tolist(), alphas.tolist(), sigmas.tolist())
    return [*(Point(*point) for point in points), Point(0.0, 1.0, 0.0)]


def evaluate(
    denoise: Denoise, noise_scheduler: NoiseScheduler, latents: Tensor, point: Point
) -> tuple[Tensor, Tensor]:
    """Call the denoiser at a point and return ``(x0, noise)`` as it sees them."""
    t = torch.full((len(latents),), point.t, device=latents.device)
    return noise_scheduler.split(denoise(latents, t), latents, t)
