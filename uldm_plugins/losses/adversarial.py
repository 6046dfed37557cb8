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
