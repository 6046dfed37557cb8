"""What a sampler passes through on its way from noise to latents."""

from __future__ import annotations

import math

import torch
from attrs import define, field
from torch import Generator, Tensor

from uldm_core.protocols import Denoise, NoiseScheduler, Sampler


@define
class RecordedSampler:
    """A sampler that does what another one does, and keeps some of the latents of its first batch.

    It listens to the denoiser that the other calls, and so needs nothing of it but the protocol. Time is cut
    into equal stretches; in each, the latents asked about first are kept. Where a time is asked about again
    (by Heun's method, or a sampler that goes back), the later latents count.

    Args:
        sampler: does the work.
        count: how many images' latents to keep.
        frames: at how many times at most, noise and result included; 2 or more.
    """

    sampler: Sampler
    count: int
    frames: int
    _kept: dict[int, tuple[float, Tensor]] = field(factory=dict, init=False)

    def __call__(
        self, denoise: Denoise, noise_scheduler: NoiseScheduler, noise: Tensor, generator: Generator
    ) -> Tensor:
        """Return latents of the noise's shape, those of the sampler."""
        if self._kept:
            return self.sampler(denoise, noise_scheduler, noise, generator)
        self._keep(1.0, noise)

        def heard(latents: Tensor, t: Tensor) -> Tensor:
            if len(latents) == len(noise):  # not of a sampler that asks about a part of the images
                self._keep(
                    float(t[0]), _unit_variance(latents[: self.count], t[: self.count], noise_scheduler)
                )
            return denoise(latents, t)

        latents = self.sampler(heard, noise_scheduler, noise, generator)
        self._keep(0.0, latents)
        return latents

    def path(self) -> tuple[Tensor, Tensor]:
        """Return times falling from 1 to 0, float32 [F], and latents [F, N, C, h, w], near unit variance."""
        times, latents = zip(*(self._kept[stretch] for stretch in sorted(self._kept, reverse=True)))
        return torch.tensor(times), torch.stack(latents)

    def _keep(self, t: float, latents: Tensor) -> None:
        stretch = math.ceil(min(max(t, 0.0), 1.0) * (self.frames - 1))
        if stretch not in self._kept or t >= self._kept[stretch][0]:
            self._kept[stretch] = t, latents[: self.count].clone()


def _unit_variance(latents: Tensor, t: Tensor, noise_scheduler: NoiseScheduler) -> Tensor:
    """Scale x_t to the variance of data, which a decoder expects; on the way it is alpha^2 + sigma^2."""
    alpha, sigma = noise_scheduler.coefficients(t)
    return latents / (alpha.square() + sigma.square()).sqrt().view(-1, 1, 1, 1)
