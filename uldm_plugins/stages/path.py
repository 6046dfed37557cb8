"""What a sampler passes through on its way from noise to latents."""

from __future__ import annotations

import math

import torch
from attrs import define, field
from torch import Generator, Tensor

from uldm_core.protocols import Denoise, NoiseScheduler, Sampler

ROUNDING = 1e-4
"""Of a stretch of time, so that 0.9 in float32 is the end of a tenth, not the beginning of the next."""


@define
class RecordedSampler:
    """A sampler that does what another one does, and keeps some of the latents that it passes through.

    It listens to the denoiser that the other calls, and so needs nothing of it but the protocol. Time is cut
    into equal stretches; in each, the latents asked about first are kept. Where a time is asked about again
    (by Heun's method, or a sampler that goes back), the later latents count.

    Args:
        sampler: does the work.
        count: of how many images, from the first batch on.
        frames: at how many times at most, noise and result included; 2 or more.
    """

    sampler: Sampler
    count: int
    frames: int
    _batches: list[dict[int, tuple[float, Tensor]]] = field(factory=list, init=False)
    _missing: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._missing = self.count

    def __call__(
        self, denoise: Denoise, noise_scheduler: NoiseScheduler, noise: Tensor, generator: Generator
    ) -> Tensor:
        """Return latents of the noise's shape, those of the sampler."""
        wanted = min(self._missing, len(noise))
        if not wanted:
            return self.sampler(denoise, noise_scheduler, noise, generator)
        self._missing -= wanted
        self._batches.append({})
        self._keep(1.0, noise[:wanted])

        def heard(latents: Tensor, t: Tensor) -> Tensor:
            if len(latents) == len(noise):  # not of a sampler that asks about a part of the images
                self._keep(float(t[0]), _unit_variance(latents[:wanted], t[:wanted], noise_scheduler))
            return denoise(latents, t)

        latents = self.sampler(heard, noise_scheduler, noise, generator)
        self._keep(0.0, latents[:wanted])
        return latents

    def path(self) -> tuple[Tensor, Tensor]:
        """Return times falling from 1 to 0, float32 [F], and latents [F, N, C, h, w], near unit variance."""
        stretches = sorted(set.intersection(*map(set, self._batches)), reverse=True)
        times = [self._batches[0][stretch][0] for stretch in stretches]
        latents = [torch.cat([batch[stretch][1] for batch in self._batches]) for stretch in stretches]
        return torch.tensor(times), torch.stack(latents)

    def _keep(self, t: float, latents: Tensor) -> None:
        kept = self._batches[-1]
        stretch = math.ceil(min(max(t, 0.0), 1.0) * (self.frames - 1) - ROUNDING)
        if stretch not in kept or t >= kept[stretch][0]:
            kept[stretch] = t, latents.clone()


def _unit_variance(latents: Tensor, t: Tensor, noise_scheduler: NoiseScheduler) -> Tensor:
    """Scale x_t to the variance of data, which a decoder expects; on the way it is alpha^2 + sigma^2."""
    alpha, sigma = noise_scheduler.coefficients(t)
    return latents / (alpha.square() + sigma.square()).sqrt().view(-1, 1, 1, 1)


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Return what lies a share of the way from first to second along the sphere, each [N, ...].

    A mean of two noises has too little variance to be noise; on the arc between them it stays.

    Source: Shoemake 1985, Animating rotation with quaternion curves; White 2016 (arXiv 1609.04468).
    """
    flat = first.flatten(1), second.flatten(1)
    angle = torch.acos(torch.cosine_similarity(*flat).clamp(-1 + 1e-6, 1 - 1e-6))
    angle = angle.view(-1, *(1,) * (first.ndim - 1))
    return (((1 - share) * angle).sin() * first + (share * angle).sin() * second) / angle.sin()
