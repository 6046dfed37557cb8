"""The path a sampler takes: its times, and the step from one to the next."""

from __future__ import annotations

import math
from itertools import groupby
from operator import attrgetter
from typing import Literal

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from uldm_core.protocols import Denoise, NoiseScheduler
from uldm_plugins.shared.place import device_of

Spacing = Literal["linspace", "trailing", "leading", "karras"]
FAINTEST = 1 / 200
"""The least alpha / sigma that ``epsilon``, and sigma / alpha that ``sample``, is divided by, about."""
MOST_SIGNAL = 0.2
"""How much of the data may be left where samples start without any."""


@frozen
class Point:
    """A time on the path, with the coefficients there; the last point is clean data (1, 0)."""

    t: float
    alpha: float
    sigma: float


def make_path(
    noise_scheduler: NoiseScheduler, steps: int, shift: float = 1.0, spacing: Spacing = "linspace"
) -> list[Point]:
    """Return at most ``steps`` + 1 points from noise to clean data, no two of the same level.

    Continuous times are evenly spaced from 1 to 0; those of a process that is not clean at 0 end there,
    before the clean data. Discrete times are spaced as diffusers' ``timestep_spacing`` has them:
    ``linspace`` (both ends), ``trailing`` (from the last step down in equal strides; Lin et al. 2024,
    arXiv 2305.08891), ``leading`` (from the first step up; it never asks at the last).

    ``karras`` is for few steps, of either sort of time: the square roots of sigma / alpha are evenly spaced,
    which is the spacing of Karras et al. 2022 (arXiv 2206.00364), equation 5, with rho = 2. From n steps it
    goes from 4 sqrt(n) to 1 / n; the first time is 1. So the last step, which is of first order, is short.

    ``epsilon`` gives the data by a division by alpha, ``sample`` the noise by one by sigma, which multiplies
    the denoiser's errors. On a process that goes further, the path starts where alpha / sigma is nearest to
    1 / 200 with ``epsilon``, and is last evaluated where sigma / alpha is with ``sample``.

    Args:
        noise_scheduler: the forward process.
        steps: how many times the path is evaluated at.
        shift: above 1 spends more steps near noise: t -> s t / (1 + (s - 1) t) (Esser et al. 2024).
        spacing: of the times; ``trailing`` and ``leading`` are of discrete ones.

    Raises:
        ValueError: no step, or more steps than a discrete process has; ``leading`` would start where much of
            the data is left.
    """
    if steps < 1:
        raise ValueError(f"{steps} sampling steps: one is the least")
    times = _times(noise_scheduler, steps, spacing)
    times = (shift * times / (1 + (shift - 1) * times)).clamp(*_bounds(noise_scheduler))
    points = (Point(*point) for point in zip(times.tolist(), *_levels(noise_scheduler, times)))
    levels = groupby(points, attrgetter("alpha", "sigma"))  # rounding and shift can make two times one
    return [*(next(same) for (_, sigma), same in levels if sigma > 0), Point(0.0, 1.0, 0.0)]


def _levels(noise_scheduler: NoiseScheduler, times: Tensor) -> tuple[list[float], list[float]]:
    """Return alpha and sigma at times; what rounding brings below 0, as in cos(pi / 2), is 0."""
    device = device_of(noise_scheduler)
    alphas, sigmas = noise_scheduler.coefficients(times.float().to(device))
    return alphas.clamp(min=0).tolist(), sigmas.clamp(min=0).tolist()


def _bounds(noise_scheduler: NoiseScheduler) -> tuple[float, float]:
    """Return the least and the greatest time at which data and noise both follow from the prediction."""
    if noise_scheduler.prediction not in ("epsilon", "sample"):
        return 0.0, 1.0
    times = torch.linspace(0, 1, noise_scheduler.timesteps or 1001, dtype=torch.float64)
    alphas, sigmas = torch.tensor(_levels(noise_scheduler, times), dtype=torch.float64)
    ratios = alphas / sigmas if noise_scheduler.prediction == "epsilon" else sigmas / alphas
    bound = times[(ratios / FAINTEST).log().abs().argmin()].item()
    return (0.0, bound) if noise_scheduler.prediction == "epsilon" else (bound, 1.0)


def _times(noise_scheduler: NoiseScheduler, steps: int, spacing: Spacing) -> Tensor:
    """Return the times, float64 [steps], from noise to data."""
    count = noise_scheduler.timesteps
    if count is None and spacing == "karras":
        return _karras(noise_scheduler, steps)
    if count is None:
        clean = noise_scheduler.coefficients(torch.zeros(1))[1].item() == 0
        return torch.linspace(1, 0, steps + clean, dtype=torch.float64)[:steps]
    if steps > count:
        raise ValueError(f"{steps} sampling steps, but the noise scheduler has {count}: take fewer steps")
    if spacing == "karras":
        return (_karras(noise_scheduler, steps) * (count - 1)).round() / (count - 1)
    if spacing == "linspace":
        places = torch.linspace(count - 1, 0, steps, dtype=torch.float64)
    elif spacing == "trailing":
        places = count - torch.arange(steps, dtype=torch.float64) * count / steps - 1
    else:
        places = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (count // steps)
        _refuse_late_start(noise_scheduler, int(places[0]), count)
    return places.round() / (count - 1)


def _karras(noise_scheduler: NoiseScheduler, steps: int) -> Tensor:
    """Return times of which sigma / alpha has evenly spaced square roots; the first is 1."""
    ratios = torch.linspace(2 * steps**0.25, steps**-0.5, steps, dtype=torch.float64).square()
    times = torch.linspace(0, 1, noise_scheduler.timesteps or 10_001, dtype=torch.float64)
    alphas, sigmas = torch.tensor(_levels(noise_scheduler, times), dtype=torch.float64)
    found = torch.from_numpy(np.interp(ratios / (1 + ratios), sigmas / (alphas + sigmas), times))
    found[0] = 1
    return found


def _refuse_late_start(noise_scheduler: NoiseScheduler, first: int, count: int) -> None:
    """Raise ValueError where ``leading`` leaves out the timesteps that take most of the data away."""
    ends = torch.tensor([first, count - 1], dtype=torch.float64) / (count - 1)
    left, least = (alpha / math.hypot(alpha, sigma) for alpha, sigma in zip(*_levels(noise_scheduler, ends)))
    if left > MOST_SIGNAL >= least:
        raise ValueError(
            f"spacing 'leading' starts at timestep {first} of {count}, where {100 * left:.0f} % of the data "
            "are left: take 'trailing' or 'linspace'"
        )


def start(noise: Tensor, path: list[Point]) -> Tensor:
    """Return unit noise at the path's first level: scaled only where a process lets the variance grow."""
    return noise * (path[0].alpha ** 2 + path[0].sigma ** 2) ** 0.5


def evaluate(
    denoise: Denoise, noise_scheduler: NoiseScheduler, latents: Tensor, point: Point
) -> tuple[Tensor, Tensor]:
    """Call the denoiser at a point and return ``(x0, noise)`` as it sees them."""
    t = latents.new_full((len(latents),), point.t, dtype=torch.float32)
    return noise_scheduler.split(denoise(latents, t), latents, t)
