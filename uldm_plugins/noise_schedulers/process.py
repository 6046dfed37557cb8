"""What every forward process x_t = alpha x0 + sigma noise has in common."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from uldm_core.errors import OptionError
from uldm_plugins.noise_schedulers.predictions import PREDICTION_TYPES, Levels, Prediction

_log = logging.getLogger(__name__)
MOST_SIGNAL = 0.2
"""How much of the data may be left where sampling starts; the literature's schedules leave up to 0.07."""
TIME_SCALE = 1000.0
"""Denoisers are given the time on the scale of 1,000 timesteps, whatever the process."""


class Process(nn.Module, ABC):
    """A forward process and the meaning of the denoiser's prediction.

    A subclass gives ``coefficients``. What the denoiser predicts is the noise (``epsilon``), the data
    (``sample``), ``v``, the velocity (``flow``) or ``edm``: see ``predictions.py``.
    """

    timesteps: int | None = None
    sigma_data: float = 1.0

    def __init__(self, prediction: Prediction) -> None:
        super().__init__()
        self.prediction = prediction
        self.prediction_type = PREDICTION_TYPES[prediction]

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(alpha, sigma)``, each of t's shape [B]."""

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t [B, C, H, W]."""
        levels = self.levels_at(t, x0)
        return levels.alpha * x0 + levels.sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the denoiser should predict at x_t."""
        return self.prediction_type.target(x0, noise, self.levels_at(t, x0))

    def split(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(x0, noise)`` as the prediction at x_t implies them."""
        return self.prediction_type.split(prediction, x_t, self.levels_at(t, x_t))

    def snr(self, t: Tensor) -> Tensor:
        """Return the signal-to-noise ratio alpha^2 / sigma^2, [B]."""
        alpha, sigma = self.coefficients(t)
        return (alpha / sigma).square()

    def conditioning(self, t: Tensor) -> Tensor:
        """Return the time as the denoiser is given it: float [B], on the scale of 1,000 timesteps."""
        return t * TIME_SCALE

    def scale_input(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return x_t as the denoiser is given it."""
        return x_t

    def warn_of_signal(self, end: str, advice: str) -> None:
        """Log where pure noise keeps so much of the data that it is no place to start from.

        Args:
            end: what the time 1 is called.
            advice: what to take instead.
        """
        levels = self.levels_at(torch.ones(1), torch.ones(1))
        left = (levels.alpha * self.sigma_data / levels.std).item()
        if left > MOST_SIGNAL:
            _log.warning(
                "%s: at %s %.0f %% of the data are left, and samples start without any: take %s",
                type(self).__name__.lower(),
                end,
                100 * left,
                advice,
            )

    def levels_at(self, t: Tensor, x: Tensor) -> Levels:
        """Return the coefficients at times [B], to be multiplied with x [B, ...]."""
        alpha, sigma = self.coefficients(t)
        shape = (-1, *(1,) * (x.ndim - 1))
        return Levels(alpha.view(shape), sigma.view(shape), self.sigma_data)


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
        self.register_buffer("levels", levels, persistent=False)
        self.warn_of_signal("the last timestep", "larger betas, more timesteps, or zero_terminal_snr")

    def _refuse_equal(self, alpha: Tensor, sigma: Tensor) -> None:
        """Raise ValueError where the signal-to-noise ratio does not fall from a timestep to the next."""
        falls = alpha[:-1] * sigma[1:] > alpha[1:] * sigma[:-1]
        if not falls.all():
            step = int(falls.int().argmin())
            raise OptionError(
                f"timesteps {step} and {step + 1} have the same noise in float32: take {self.gentler}"
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
