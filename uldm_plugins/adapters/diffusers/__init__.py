"""Components of diffusers, as records. Imports neither torch nor diffusers."""

from __future__ import annotations

from uldm_core.registry.component import Component
from uldm_core.registry.plugins import hookimpl


@hookimpl
def uldm_components() -> list[Component]:
    """Return the adapted components."""
    return [
        Component(
            "autoencoder",
            "autoencoder_kl",
            f"{__name__}.autoencoder_kl:AutoencoderKL",
            summary="diffusers' AutoencoderKL",
            requires="diffusers",
        ),
        Component(
            "autoencoder",
            "vq_model",
            f"{__name__}.vq_model:VQModel",
            summary="diffusers' VQModel",
            requires="diffusers",
        ),
        Component(
            "denoiser",
            "unet_2d",
            f"{__name__}.unet_2d:UNet2D",
            summary="diffusers' UNet2DModel",
            requires="diffusers",
        ),
    ]
