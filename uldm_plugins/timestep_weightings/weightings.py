"""Which times are trained, and how much each counts."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Generator, Tensor

from uldm_core.protocols import NoiseScheduler


class Uniform:
    """Every time alike: t uniform in [0, 1), weight 1. Times of a batch are stratified.

    One time is drawn from each of n equal intervals, which lowers the variance of a batch's loss
    (Kingma et al. 2021, arXiv 2107.00630, appendix I.1).
    """

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Return n times, float [n]."""
        return stratified(n, generator)

    def weight(self, t: Tensor, noise_scheduler: NoiseScheduler) -> Tensor:
        """Return ones, [B]."""
        return torch.ones_like(t)


class LogitNormal:
    """t = sigmoid(mean + std z), z normal: the middle of the path is trained most; weight 1.

    Source: Esser et al. 2024 (arXiv 2403.03206), section 3.1.

    Args:
        mean: of the logit; below 0 leans to data, above to noise.
        std: of the logit.
    """

    def __init__(self, mean: float = 0.0, std: Annotated[float, Gt(0)] = 1.0) -> None:
        self.mean = mean
        self.std = std

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Return n times, float [n]."""
        quantiles = stratified(n, generator).clamp(1e-6, 1 - 1e-6)
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(quantiles))

    def weight(self, t: Tensor, noise_scheduler: NoiseScheduler) -> Tensor:
        """Return ones, [B]."""
        return torch.ones_like(t)


class MinSNR:
    """t uniform; the signal-to-noise ratio's weight on x0 is clipped at gamma.

    In terms of the prediction: min(S, g) / S for epsilon, min(S, g) for sample, min(S, g) / (S + 1) for v,
    and for any other what its relation to x0 makes of it.

    Source: Hang et al. 2023 (arXiv 2303.09556).

    Args:
        gamma: where the ratio is clipped.
    """

    def __init__(self, gamma: Annotated[float, Gt(0)] = 5.0) -> None:
        self.gamma = gamma

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Return n times, float [n]."""
        return stratified(n, generator)

    def weight(self, t: Tensor, noise_scheduler: NoiseScheduler) -> Tensor:
        """Return the weight of each time, [B]."""
        return per_prediction(noise_scheduler.snr(t).clamp(max=self.gamma), t, noise_scheduler)


class SoftMinSNR(MinSNR):
    """t uniform; the ratio's weight on x0 bends towards gamma without a corner: S g / (S + g).

    Source: Crowson et al. 2024 (arXiv 2401.11605), section 3.3; k-diffusion's ``soft-min-snr``.

    Args:
        gamma: what the weight of large ratios tends to.
    """

    def weight(self, t: Tensor, noise_scheduler: NoiseScheduler) -> Tensor:
        """Return the weight of each time, [B]."""
        softened = 1 / (1 / noise_scheduler.snr(t) + 1 / self.gamma)
        return per_prediction(softened, t, noise_scheduler)


def per_prediction(on_x0: Tensor, t: Tensor, noise_scheduler: NoiseScheduler) -> Tensor:
    """Return what a weight of the squared error in x0 is on that of the prediction.

    x0 is linear in the prediction, so the errors differ by the square of the slope.
    """
    one = torch.ones_like(t)[:, None, None, None]
    slope, _ = noise_scheduler.split(one, torch.zeros_like(one), t)
    return (on_x0.sqrt() * slope.flatten()).square()  # a root first: the square of 1 / alpha may overflow


def stratified(n: int, generator: Generator) -> Tensor:
    """Return n uniform times in [0, 1), one from each of n equal intervals, in random order."""
    places = torch.randperm(n, generator=generator, device=generator.device)
    return (places + torch.rand(n, generator=generator, device=generator.device)) / n
