"""Noise added to data that keep their size."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from uldm_plugins.noise_schedulers.predictions import Prediction
from uldm_plugins.noise_schedulers.process import Process

EXPONENT = 80
"""exp(80) and exp(-80) are numbers in float32."""


class EDM(Process):
    """x_t = x0 + sigma(t) noise; sigma's rho-th root rises evenly from ``sigma_min``'s to ``sigma_max``'s.

    The denoiser is given x_t / sqrt(sigma^2 + sigma_data^2), and ln(sigma) / 4 as the time. Evenly spaced
    times are Karras's steps.

    Source: Karras et al. 2022 (arXiv 2206.00364), table 1 and equation 5; diffusers' ``EDMEulerScheduler``.

    Args:
        sigma_min: noise at t = 0.
        sigma_max: noise at t = 1.
        sigma_data: deviation of the data; scaled latents have 1, images 0.5.
        rho: above 1 spends more steps near data.
        prediction: what the denoiser predicts.
    """

    def __init__(
        self,
        sigma_min: Annotated[float, Gt(0)] = 0.002,
        sigma_max: Annotated[float, Gt(0)] = 80.0,
        sigma_data: Annotated[float, Gt(0)] = 1.0,
        rho: Annotated[float, Gt(0)] = 7.0,
        prediction: Prediction = "edm",
    ) -> None:
        if sigma_min >= sigma_max:
            raise ValueError(
                f"sigma_min is {sigma_min} and sigma_max {sigma_max}: it must be above sigma_min"
            )
        widest = max(abs(math.log(sigma_min)), abs(math.log(sigma_max)))
        if widest / rho > EXPONENT:
            raise ValueError(
                f"rho is {rho}: sigma's roots leave float32's range; take {widest / EXPONENT:.2g} or more"
            )
        super().__init__(prediction)
        self.sigma_data = sigma_data
        self.rho = rho
        self.roots = (sigma_min ** (1 / rho), sigma_max ** (1 / rho))
        self.warn_of_signal("t = 1", "a larger sigma_max")

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(1, sigma)``, each of t's shape."""
        low, high = self.roots
        return torch.ones_like(t), (low + t * (high - low)) ** self.rho

    def conditioning(self, t: Tensor) -> Tensor:
        """Return c_noise = ln(sigma) / 4, float [B]."""
        return self.coefficients(t.float())[1].log() / 4

    def scale_input(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return c_in x_t: unit variance at every time."""
        return x_t / self.levels_at(t, x_t).std
