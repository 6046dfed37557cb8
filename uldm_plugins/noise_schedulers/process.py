"""What every forward process x_t = alpha x0 + sigma noise has in common."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Prediction = Literal["epsilon", "sample", "v", "flow"]
TIME_SCALE = 1000.0
"""Denoisers are told the time on the scale of 1,000 timesteps, whatever the process."""


class Process(nn.Module):
    """A forward process and the meaning of the denoiser's prediction.

    A subclass gives ``coefficients``. The prediction is the noise (``epsilon``), the data (``sample``),
    v = alpha noise - sigma x0 (Salimans and Ho 2022, arXiv 2202.00512), or the velocity noise - x0
    (``flow``; Lipman et al. 2023, arXiv 2210.02747).
    """

    timesteps: int | None = None

    def __init__(self, prediction: Prediction) -> None:
        super().__init__()
        self.prediction = prediction

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(alpha, sigma)``, each of t's shape [B]."""
        raise TypeError(f"{type(self).__name__} must define coefficients(t)")

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t [B, C, H, W]."""
        alpha, sigma = self._broadcast(t, x0)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the denoiser should predict at x_t."""
        alpha, sigma = self._broadcast(t, x0)
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return x0
        if self.prediction == "v":
            return alpha * noise - sigma * x0
        return noise - x0

    def split(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(x0, noise)`` as the prediction at x_t implies them."""
        alpha, sigma = self._broadcast(t, x_t)
        if self.prediction == "epsilon":
            return (x_t - sigma * prediction) / alpha, prediction
        if self.prediction == "sample":
            return prediction, (x_t - alpha * prediction) / sigma
        if self.prediction == "v":
            square = alpha.square() + sigma.square()
            return (alpha * x_t - sigma * prediction) / square, (sigma * x_t + alpha * prediction) / square
        both = alpha + sigma
        return (x_t - sigma * prediction) / both, (x_t + alpha * prediction) / both

    def snr(self, t: Tensor) -> Tensor:
        """Return the signal-to-noise ratio alpha^2 / sigma^2, [B]."""
        alpha, sigma = self.coefficients(t)
        return (alpha / sigma).square()

    def conditioning(self, t: Tensor) -> Tensor:
        """Return the time as denoisers are told it: float [B], on the scale of 1,000 timesteps."""
        return t * TIME_SCALE

    def _broadcast(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.coefficients(t)
        shape = (-1, *(1,) * (x.ndim - 1))
        return alpha.view(shape), sigma.view(shape)


class Discrete(Process):
    """A process of T steps with variances beta: alpha^2 is the cumulative product of 1 - beta.

    Time t in [0, 1] means step round(t (T - 1)) (Ho et al. 2020, arXiv 2006.11239).
    """

    alphas_cumprod: Tensor

    def __init__(self, betas: Tensor, prediction: Prediction) -> None:
        super().__init__(prediction)
        self.timesteps = len(betas)
        self.register_buffer("alphas_cumprod", (1 - betas.double()).cumprod(0).float(), persistent=False)

    def step(self, t: Tensor) -> Tensor:
        """Return the step that a time means, int64, of t's shape."""
        return torch.round(t.float() * (len(self.alphas_cumprod) - 1)).long()  # bfloat16 cannot count to T

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(alpha, sigma)``, each [B]."""
        square = self.alphas_cumprod[self.step(t)]
        return square.sqrt(), (1 - square).sqrt()

    def conditioning(self, t: Tensor) -> Tensor:
        """Return the step as a float [B]."""
        return self.step(t).float()
