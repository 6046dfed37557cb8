"""Noise schedules of T discrete steps."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Interval

from uldm_core.errors import OptionError
from uldm_plugins.noise_schedulers.process import Discrete, Prediction

Beta = Annotated[float, Interval(gt=0, lt=1)]
Steps = Annotated[int, Ge(2)]


class Linear(Discrete):
    """Betas in equal steps (Ho et al. 2020, arXiv 2006.11239); diffusers' ``linear``.

    Args:
        timesteps: T.
        beta_start: the first beta.
        beta_end: the last beta.
        prediction: what the denoiser predicts.
        zero_terminal_snr: the last step is noise and nothing else.
    """

    def __init__(
        self,
        timesteps: Steps = 1000,
        beta_start: Beta = 1e-4,
        beta_end: Beta = 0.02,
        prediction: Prediction = "epsilon",
        zero_terminal_snr: bool = False,
    ) -> None:
        betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
        super().__init__(betas, prediction, zero_terminal_snr)


class ScaledLinear(Discrete):
    """Square roots of the betas in equal steps (Rombach et al. 2022, arXiv 2112.10752).

    Args:
        timesteps: T.
        beta_start: the first beta.
        beta_end: the last beta.
        prediction: what the denoiser predicts.
        zero_terminal_snr: the last step is noise and nothing else.
    """

    def __init__(
        self,
        timesteps: Steps = 1000,
        beta_start: Beta = 0.0015,
        beta_end: Beta = 0.0195,
        prediction: Prediction = "epsilon",
        zero_terminal_snr: bool = False,
    ) -> None:
        roots = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64)
        super().__init__(roots.square(), prediction, zero_terminal_snr)


class Cosine(Discrete):
    """alpha^2 falls as a squared cosine (Nichol and Dhariwal 2021, arXiv 2102.09672).

    Args:
        timesteps: T.
        s: offset that keeps the first betas from vanishing.
        max_beta: upper bound of each beta.
        prediction: what the denoiser predicts.
        zero_terminal_snr: the last step is noise and nothing else.
    """

    gentler: ClassVar[str] = "a smaller s or fewer timesteps"

    def __init__(
        self,
        timesteps: Steps = 1000,
        s: Annotated[float, Ge(0)] = 0.008,
        max_beta: Beta = 0.999,
        prediction: Prediction = "v",
        zero_terminal_snr: bool = False,
    ) -> None:
        t = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
        square = torch.cos((t + s) / (1 + s) * math.pi / 2).square()
        super().__init__(betas_of(square, max_beta), prediction, zero_terminal_snr)


class Sigmoid(Discrete):
    """alpha^2 falls as a sigmoid (Jabri et al. 2022, arXiv 2212.11972).

    denoising-diffusion-pytorch's ``sigmoid_beta_schedule``.

    Args:
        timesteps: T.
        start: where on the sigmoid time 0 lies.
        end: where on the sigmoid time 1 lies; above ``start``.
        tau: temperature of the sigmoid.
        max_beta: upper bound of each beta.
        prediction: what the denoiser predicts.
        zero_terminal_snr: the last step is noise and nothing else.
    """

    gentler: ClassVar[str] = "a larger tau, or start and end nearer to 0"

    def __init__(
        self,
        timesteps: Steps = 1000,
        start: float = -3.0,
        end: float = 3.0,
        tau: Annotated[float, Gt(0)] = 1.0,
        max_beta: Beta = 0.999,
        prediction: Prediction = "v",
        zero_terminal_snr: bool = False,
    ) -> None:
        if start >= end:
            raise OptionError(f"start is {start} and end {end}: end must be above start")
        t = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
        rise = torch.sigmoid((t * (end - start) + start) / tau)
        super().__init__(betas_of(rise[-1] - rise, max_beta), prediction, zero_terminal_snr)


def betas_of(square: torch.Tensor, max_beta: float) -> torch.Tensor:
    """Return the betas [T] whose alpha^2 falls as the values [T + 1], in any unit."""
    return (1 - square[1:] / square[:-1]).clamp(0, max_beta)
