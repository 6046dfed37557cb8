"""Noise paired with the latents of a batch so that the way between them is short."""

from __future__ import annotations

import torch
from torch import Tensor


class MinibatchOT:
    """Pairs the noise of a batch with its latents so that the sum of squared distances is least.

    Paths from noise to data cross less, so that samples need fewer steps; the larger the batch, the more.
    The assignment is exact, and found on the CPU: of a batch of 256 in milliseconds, of 2,000 in a second.

    With a condition it skews what is learned: pairs are made across classes, so a class is trained on the
    noise nearest to it, and its samples are drawn from all of the Gaussian (Cheng and Schwing 2025,
    arXiv 2503.10636). ``train_diffusion`` refuses both together.

    Source: Pooladian et al. 2023 (arXiv 2304.14772); Tong et al. 2023 (arXiv 2302.00482).
    """

    across_classes = True

    def __call__(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Return the noise in the order of the latents that it is paired with, [B, C, H, W]."""
        from scipy.optimize import linear_sum_assignment

        # of |x - n|^2 = |x|^2 + |n|^2 - 2 x n only the last term depends on the pairs
        gain = latents.detach().flatten(1).float() @ noise.detach().flatten(1).float().T
        finite = gain.nan_to_num()  # latents that are not finite are noticed by their loss
        _, order = linear_sum_assignment(finite.cpu().numpy(), maximize=True)
        return noise[torch.from_numpy(order).to(noise.device)]
