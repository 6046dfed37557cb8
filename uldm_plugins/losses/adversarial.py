"""The two sides of GAN losses; both are scalars to be minimised."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


class Hinge:
    """D = (relu(1 - real) + relu(1 + fake)) / 2, G = -fake, averaged over patches.

    Source: Lim and Ye 2017 (arXiv 1705.02894); ``hinge_d_loss`` of taming-transformers.
    """

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return the discriminator's loss."""
        return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())

    def generator(self, fake_logits: Tensor) -> Tensor:
        """Return the generator's loss."""
        return -fake_logits.mean()


class LSGAN:
    """D = ((real - 1)^2 + fake^2) / 2, G = (fake - 1)^2, averaged over patches.

    Source: Mao et al. 2017 (arXiv 1611.04076).
    """

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return the discriminator's loss."""
        return 0.5 * ((real_logits - 1).square().mean() + fake_logits.square().mean())

    def generator(self, fake_logits: Tensor) -> Tensor:
        """Return the generator's loss."""
        return (fake_logits - 1).square().mean()


class Vanilla:
    """D = (softplus(-real) + softplus(fake)) / 2, G = softplus(-fake): cross entropy, not saturating.

    Source: Goodfellow et al. 2014 (arXiv 1406.2661); ``vanilla_d_loss`` of taming-transformers.
    """

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return the discriminator's loss."""
        return 0.5 * (F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean())

    def generator(self, fake_logits: Tensor) -> Tensor:
        """Return the generator's loss."""
        return F.softplus(-fake_logits).mean()
