"""What a denoiser may predict of x_t = alpha x0 + sigma noise: one object a prediction type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from attrs import frozen
from torch import Tensor

Prediction = Literal["epsilon", "sample", "v", "flow", "edm"]


@frozen
class Levels:
    """The coefficients at some times, each [B, 1, 1, 1], and the deviation of the data."""

    alpha: Tensor
    sigma: Tensor
    sigma_data: float = 1.0

    @property
    def std(self) -> Tensor:
        """The deviation of x_t."""
        return (self.alpha.square() * self.sigma_data**2 + self.sigma.square()).sqrt()


class PredictionType(ABC):
    """The meaning of a denoiser's prediction."""

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, levels: Levels) -> Tensor:
        """Return what is to be predicted at x_t, [B, C, H, W]."""

    @abstractmethod
    def split(self, prediction: Tensor, x_t: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """Return ``(x0, noise)`` as the prediction at x_t implies them."""


class Epsilon(PredictionType):
    """The noise (Ho et al. 2020, arXiv 2006.11239)."""

    def target(self, x0: Tensor, noise: Tensor, levels: Levels) -> Tensor:
        """Return the noise."""
        return noise

    def split(self, prediction: Tensor, x_t: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """Return ``(x0, noise)``; alpha must not be 0."""
        return torch.addcmul(x_t, levels.sigma, prediction, value=-1) / levels.alpha, prediction


class Sample(PredictionType):
    """The data."""

    def target(self, x0: Tensor, noise: Tensor, levels: Levels) -> Tensor:
        """Return the data."""
        return x0

    def split(self, prediction: Tensor, x_t: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """Return ``(x0, noise)``; clean data say nothing of the noise: it is its mean, 0."""
        noise = (x_t - levels.alpha * prediction) / levels.sigma
        return prediction, noise.where(levels.sigma > 0, 0)


class V(PredictionType):
    """v = alpha noise - sigma x0 (Salimans and Ho 2022, arXiv 2202.00512)."""

    def target(self, x0: Tensor, noise: Tensor, levels: Levels) -> Tensor:
        """Return v."""
        return levels.alpha * noise - levels.sigma * x0

    def split(self, prediction: Tensor, x_t: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """Return ``(x0, noise)``."""
        alpha, sigma = levels.alpha, levels.sigma
        square = alpha.square() + sigma.square()
        return (alpha * x_t - sigma * prediction) / square, (sigma * x_t + alpha * prediction) / square


class Flow(PredictionType):
    """The velocity noise - x0 (Lipman et al. 2023, arXiv 2210.02747)."""

    def target(self, x0: Tensor, noise: Tensor, levels: Levels) -> Tensor:
        """Return the velocity."""
        return noise - x0

    def split(self, prediction: Tensor, x_t: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """Return ``(x0, noise)``."""
        x0 = torch.addcmul(x_t, levels.sigma, prediction, value=-1) / (levels.alpha + levels.sigma)
        return x0, x0 + prediction


class StraightFlow(Flow):
    """The velocity on the straight path, where alpha + sigma is 1: there is nothing to divide by."""

    def split(self, prediction: Tensor, x_t: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """Return ``(x0, noise)``."""
        x0 = torch.addcmul(x_t, levels.sigma, prediction, value=-1)
        return x0, x0 + prediction


class EDM(PredictionType):
    """F of x0 = c_skip x_t + c_out F, with the factors that give F unit variance.

    For data of deviation 1 on a variance-preserving process F is -v.

    Source: Karras et al. 2022 (arXiv 2206.00364), for any alpha.
    """

    def target(self, x0: Tensor, noise: Tensor, levels: Levels) -> Tensor:
        """Return F."""
        data = levels.sigma_data
        return (levels.sigma * x0 - levels.alpha * data**2 * noise) / (data * levels.std)

    def split(self, prediction: Tensor, x_t: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """Return ``(x0, noise)``."""
        alpha, sigma, data, std = levels.alpha, levels.sigma, levels.sigma_data, levels.std
        x0 = alpha * data**2 / std.square() * x_t + sigma * data / std * prediction
        return x0, sigma / std.square() * x_t - alpha * data / std * prediction


PREDICTION_TYPES: Mapping[Prediction, PredictionType] = {
    "epsilon": Epsilon(),
    "sample": Sample(),
    "v": V(),
    "flow": Flow(),
    "edm": EDM(),
}
