"""The images of a training set that a denoiser is not trained on, for choices after its training."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from uldm_core import RunError
from uldm_plugins.stages.denoising_loss import DenoisingLoss
from uldm_plugins.stages.latents import NormalizedLatents, unless_stopped

HELD_OUT = "held_out.npz"
"""The artifact with their ``indices``, int64 [N]; N may be 0."""
DRAWS = 4
"""How many times and noises each gets where averages are compared."""


def divided(count: int, share: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Divide the indices of ``count`` images into those that are trained and those that are held out.

    Args:
        count: how many images there are.
        share: of them that is held out, at most a half.
        generator: chooses them. Not every n-th image: files are often in an order of some period.

    Returns:
        two int64 tensors, both rising.

    Raises:
        RunError: some shall be held out, and of so few images that is none.
    """
    wanted = round(share * count)
    held = some(torch.arange(count), wanted, generator)
    trained = torch.ones(count, dtype=torch.bool).index_fill(0, held, False).nonzero()[:, 0]
    if share and not wanted:
        raise RunError(
            f"held_out = {share:g} holds out {wanted} of {count} images",
            hint="take another share, or 0 to train on all of them",
        )
    return trained, held


def some(indices: Tensor, count: int, generator: Generator) -> Tensor:
    """Return so many of the indices, chosen by the generator, in their order."""
    return indices[torch.randperm(len(indices), generator=generator)[:count].sort().values]


def held_out_loss(indices: Tensor, latents: NormalizedLatents, loss: DenoisingLoss, batch_size: int) -> float:
    """Return the mean loss on images, each with its class, at times and with noises that stay the same."""
    context, losses = latents.context, []
    batches = [*indices.split(batch_size)] * DRAWS
    for number, (batch, own) in enumerate(zip(batches, unless_stopped(latents.of_each(batches), context))):
        losses.append(loss(own, batch, context, context.generator("held_out", number)))
    return torch.cat(losses).mean().item()
