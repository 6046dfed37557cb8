"""Kernel distance of two sets of images in a backbone's features."""

from __future__ import annotations

from torch import Tensor

from uldm_core import use
from uldm_core.protocols import Backbone
from uldm_plugins.metrics.features import FeatureSets

_BLOCK = 2000


class KID(FeatureSets):
    """Squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, unbiased, over whole sets.

    Others average over random subsets; over whole sets it is the same in expectation, and exact. It may be
    slightly below zero. With ``backbone = "inception"`` it is the published KID.

    Source: Binkowski et al. 2018 (arXiv 1801.01401); ``torchmetrics.image.kid``.

    Args:
        backbone: the feature network; no loss of the run should use it.
    """

    smallest_count = 2

    def __init__(self, backbone: Backbone = use("vgg16")) -> None:
        super().__init__(backbone)

    def compute(self) -> dict[str, float]:
        """Return ``kid``.

        Raises:
            ValueError: fewer than two images on a side.
        """
        real, fake = self.sets()
        return {"kid": _within(real) + _within(fake) - 2 * _kernel_sum(real, fake) / (len(real) * len(fake))}


def _kernel_sum(first: Tensor, second: Tensor) -> float:
    """Return the sum of the kernel over all pairs."""
    blocks = first.split(_BLOCK)
    return sum(((block @ second.T / first.shape[1] + 1) ** 3).sum().item() for block in blocks)


def _within(vectors: Tensor) -> float:
    """Return the mean of the kernel over pairs of different vectors."""
    count = len(vectors)
    own = ((vectors.square().sum(1) / vectors.shape[1] + 1) ** 3).sum().item()
    return (_kernel_sum(vectors, vectors) - own) / (count * (count - 1))
