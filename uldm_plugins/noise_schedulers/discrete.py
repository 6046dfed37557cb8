"""Noise schedules of T discrete steps."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Ge, Interval

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
    """

    def __init__(
        self,
        timesteps: Steps = 1000,
        beta_start: Beta = 1e-4,
        beta_end: Beta = 0.02,
        prediction: Prediction = "epsilon",
    ) -> None:
        super().__init__(torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64), prediction)


class ScaledLinear(Discrete):
    """Square roots of the betas in equal steps (Rombach et al. 2022, arXiv 2112.10752).

    Args:
        timesteps: T.
        beta_start: the first beta.
        beta_end: the last beta.
        prediction: what the denoiser predicts.
    """

    def __init__(
        self,
        timesteps: Steps = 1000,
        beta_start: Beta = 0.0015,
        beta_end: Beta = 0.0195,
        prediction: Prediction = "epsilon",
    ) -> None:
        roots = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64)
        super().__init__(roots.square(), prediction)


class Cosine(Discrete):
    """alpha^2 falls as a squared cosine (Nichol and Dhariwal 2021, arXiv 2102.09672).

    Args:
        timesteps: T.
        s: offset that keeps the first betas from vanishing.
        max_beta: upper bound of each beta.
        prediction: what the denoiser predicts.
    """

    def __init__(
        self,
        timesteps: Steps = 1000,
        s: Annotated[float, Ge(0)] = 0.008,
        max_beta: Beta = 0.999,
        prediction: Prediction = "v",
    ) -> None:
        t = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
        square = torch.cos((t + s) / (1 + s) * math.pi / 2).square()
        super().__init__((1 - square[1:] / square[:-1]).clamp(max=max_beta), prediction)
