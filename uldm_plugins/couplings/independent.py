"""Noise as it comes."""

from __future__ import annotations

from torch import Tensor


class Independent:
    """Pairs each latent with the noise that was drawn for it."""

    def __call__(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Return the noise, as it is."""
        return noise
