"""What every forward process x_t = alpha x0 + sigma noise has in common."""

from __future__ import annotations

import logging
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from uldm_core.errors import OptionError

_log = logging.getLogger(__name__)
Prediction = Literal["epsilon", "sample", "v", "flow", "edm"]
MOST_SIGNAL = 0.2
"""How much of the data may be left where sampling starts; the literature's schedules leave up to 0.07."""
TIME_SCALE = 1000.0
"""Denoisers are told the time on the scale of 1,000 timesteps, whatever the process."""


class Process(nn.Module):
    """A forward process and the meaning of the denoiser's prediction.

    A subclass gives ``coefficients``. The prediction is the noise (``epsilon``), the data (``sample``),
    v = alpha noise - sigma x0 (Salimans and Ho 2022, arXiv 2202.00512), the velocity noise - x0
    (``flow``; Lipman et al. 2023, arXiv 2210.02747), or F of x0 = c_skip x_t + c_out F, with the factors
    that give F unit variance (``edm``; Karras et al. 2022, arXiv 2206.00364, for any alpha). For data of
    deviation ``sigma_data`` = 1 on a variance-preserving process F is -v.
    """

    timesteps: int | None = None
    sigma_data: float = 1.0

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
        if self.prediction == "flow":
            return noise - x0
        spread = self._spread(alpha, sigma)
        return (sigma * x0 - alpha * self.sigma_data**2 * noise) / (self.sigma_data * spread)

    def split(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(x0, noise)`` as the prediction at x_t implies them."""
        alpha, sigma = self._broadcast(t, x_t)
        if self.prediction == "epsilon":
            return torch.addcmul(x_t, sigma, prediction, value=-1) / alpha, prediction
        if self.prediction == "sample":
            noise = (x_t - alpha * prediction) / sigma
            return prediction, noise.where(sigma > 0, 0)  # clean data say nothing of it: its mean
        if self.prediction == "v":
            square = alpha.square() + sigma.square()
            return (alpha * x_t - sigma * prediction) / square, (sigma * x_t + alpha * prediction) / square
        if self.prediction == "flow":
            x0 = torch.addcmul(x_t, sigma, prediction, value=-1) / (alpha + sigma)
            return x0, x0 + prediction
        spread, data = self._spread(alpha, sigma), self.sigma_data
        x0 = alpha * data**2 / spread.square() * x_t + sigma * data / spread * prediction
        return x0, sigma / spread.square() * x_t - alpha * data / spread * prediction

    def snr(self, t: Tensor) -> Tensor:
        """Return the signal-to-noise ratio alpha^2 / sigma^2, [B]."""
        alpha, sigma = self.coefficients(t)
        return (alpha / sigma).square()

    def conditioning(self, t: Tensor) -> Tensor:
        """Return the time as denoisers are told it: float [B], on the scale of 1,000 timesteps."""
        return t * TIME_SCALE

    def scale_input(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return x_t as the denoiser is given it."""
        return x_t

    def _spread(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the deviation of x_t, for data of deviation ``sigma_data``."""
        return (alpha.square() * self.sigma_data**2 + sigma.square()).sqrt()

    def _broadcast(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.coefficients(t)
        shape = (-1, *(1,) * (x.ndim - 1))
        return alpha.view(shape), sigma.view(shape)


class Discrete(Process):
    """A process of T steps with variances beta: alpha^2 is the cumulative product of 1 - beta.

    Time t in [0, 1] means step round(t (T - 1)) (Ho et al. 2020, arXiv 2006.11239). With
    ``zero_terminal_snr`` alpha is shifted and scaled so that the last step is noise and nothing else (Lin et
    al. 2024, arXiv 2305.08891, algorithm 1; diffusers' ``rescale_zero_terminal_snr``).
    """

    levels: Tensor
    """Alpha and sigma of each step, [2, T]."""
    gentler: ClassVar[str] = "smaller betas or fewer timesteps"
    """What to change where timesteps cannot be told apart."""

    def __init__(self, betas: Tensor, prediction: Prediction, zero_terminal_snr: bool = False) -> None:
        super().__init__(prediction)
        if zero_terminal_snr and prediction == "epsilon":
            raise ValueError("zero_terminal_snr: pure noise says nothing of the data by epsilon; predict v")
        self.timesteps = len(betas)
        alpha = (1 - betas.double()).cumprod(0).sqrt()
        if zero_terminal_snr:
            alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        levels = torch.stack([alpha, (1 - alpha.square()).sqrt()]).float()
        self._refuse_equal(*levels.double())
        self._warn_of_signal(alpha[-1].item())
        self.register_buffer("levels", levels, persistent=False)

    def _refuse_equal(self, alpha: Tensor, sigma: Tensor) -> None:
        """Raise ValueError where the signal-to-noise ratio does not fall from a timestep to the next."""
        falls = alpha[:-1] * sigma[1:] > alpha[1:] * sigma[:-1]
        if not falls.all():
            step = int(falls.int().argmin())
            raise OptionError(
                f"timesteps {step} and {step + 1} have the same noise in float32: take {self.gentler}"
            )

    def _warn_of_signal(self, alpha: float) -> None:
        """Log where the last timestep keeps so much of the data that noise is no place to start from."""
        if alpha > MOST_SIGNAL:
            _log.warning(
                "%s: at the last timestep %.0f %% of the data are left (alpha), and samples start "
                "without any: take larger betas, more timesteps, or zero_terminal_snr",
                type(self).__name__.lower(),
                100 * alpha,
            )

    @property
    def alphas_cumprod(self) -> Tensor:
        """Alpha^2 of each step, [T], as the literature has it."""
        return self.levels[0].square()

    def step(self, t: Tensor) -> Tensor:
        """Return the step that a time means, int64, of t's shape."""
        return torch.round(t.float() * (self.levels.shape[1] - 1)).long()  # bfloat16 cannot count to T

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(alpha, sigma)``, each [B]."""
        alpha, sigma = self.levels[:, self.step(t)]
        return alpha, sigma

    def conditioning(self, t: Tensor) -> Tensor:
        """Return the step as a float [B]."""
        return self.step(t).float()
