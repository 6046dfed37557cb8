"""What a trainer shows of itself while it trains. Nothing that is trained changes by it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from attrs import frozen
from torch import Tensor

from uldm_core import Partial
from uldm_core.kinds import latent_size
from uldm_core.protocols import (
    Autoencoder,
    Context,
    Dataset,
    LatentScaling,
    Network,
    Quantized,
    Sampler,
)
from uldm_plugins.pictures.codes import code_map
from uldm_plugins.shared.ema import EMA
from uldm_plugins.shared.images import in_batches, to_float, to_uint8
from uldm_plugins.stages.guided import GuidedDenoiser
from uldm_plugins.stages.latents import decode, encode_with_codes, held_out

PAIRS = 20
SAMPLES = 20


@contextmanager
def at_rest(module: Network, average: EMA) -> Iterator[None]:
    """Have a module in eval mode with its averaged weights, without gradients; then as it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad(), average.applied():
            yield
    finally:
        for part, training in modes:
            part.training = training


def reconstructed(
    dataset: Dataset, autoencoder: Autoencoder, context: Context
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return what an autoencoder makes of a few test images, as it is.

    Returns:
        ``reconstructions``, each image followed by its own, uint8 [2 N, C, H, W]; with a quantizer also
        ``codes``, the maps of the first codes at each place, uint8 [N, 3, H, W]. And the indices of the
        codes, [N, h, w] or [N, Q, h, w]; None without a quantizer.
    """
    test = held_out(dataset)
    originals = test.images(torch.arange(min(PAIRS, len(test))))
    images: list[Tensor] = []
    found: list[Tensor] = []
    maps = {}
    for batch in in_batches(originals):
        with context.autocast():
            latents, indices = encode_with_codes(autoencoder, to_float(batch.to(context.device)))
            images.append(to_uint8(autoencoder.decode(latents)).cpu())
        found += [] if indices is None else [indices]
    codes = torch.cat(found) if found else None
    if codes is not None and isinstance(autoencoder, Quantized):
        first = codes if codes.ndim == 3 else codes[:, 0]
        maps["codes"] = code_map(first, dataset.size, autoencoder.quantizer.codebook_size)
    pairs = torch.stack([originals, torch.cat(images)], 1).flatten(0, 1)
    return {"reconstructions": pairs, **maps}, codes


@frozen
class Sketch:
    """Draws samples from the same noise each time.

    Args:
        autoencoder: decodes.
        denoiser: as it is trained, with its process and guidance.
        latent_scaling: as fitted.
        sampler: makes the sampler; it takes no more steps than the process has.
        size: height and width of the images.
    """

    autoencoder: Autoencoder
    denoiser: GuidedDenoiser
    latent_scaling: LatentScaling
    sampler: Partial[Sampler]
    size: tuple[int, int]

    def draw(
        self, context: Context, count: int = SAMPLES, *, of: str = "preview", guided: bool = True
    ) -> Tensor:
        """Return so many images, uint8 [N, C, H, W]; the seed and the text ``of`` give their noise."""
        generator, process = context.generator(of), self.denoiser.noise_scheduler
        size = latent_size(self.size, self.autoencoder.downscale)
        noise = torch.randn(count, self.autoencoder.latent_channels, *size, generator=generator)
        most, steps = process.timesteps, self.sampler.options.get("steps")
        sampler = self.sampler(steps=most) if most and steps and steps > most else self.sampler()
        condition, guided = self.denoiser.condition, guided and not self.denoiser.lacks_weaker
        classes = condition.draw(count, context.generator(of, "classes")) if condition else None
        latents = []
        for batch in in_batches(noise.to(context.device)):
            told, classes = (
                (None, None) if classes is None else (classes[: len(batch)], classes[len(batch) :])
            )
            denoise = self.denoiser.denoise(context, told, guided=guided)
            latents.append(sampler(denoise, process, batch, generator))
        return decode(torch.cat(latents), self.autoencoder, self.latent_scaling, context)
