"""How the neighbourhoods of real and of fake images lie in each other."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from uldm_core import use
from uldm_core.protocols import Backbone
from uldm_plugins.metrics.features import (
    FeatureSets,
    VectorSets,
    distance_blocks,
    named,
    neighbour_distances,
    pooled,
)


class PrecisionRecall(FeatureSets):
    """Share of fake images inside the balls of real ones (precision), and the other way (recall).

    A ball around an image reaches to its k-th nearest neighbour of its own set.

    Source: Kynkäänniemi et al. 2019 (arXiv 1904.06991); ``torch_fidelity``'s ``prc``.

    Args:
        backbone: the feature network; no loss of the run should use it.
        k: which neighbour bounds a ball.
    """

    higher_is_better = {"precision": True, "recall": True}

    def __init__(self, backbone: Backbone = use("vgg16"), k: Annotated[int, Ge(1)] = 3) -> None:
        self.k = k
        super().__init__(backbone)

    def compute(self) -> dict[str, float]:
        """Return ``precision`` and ``recall``, in [0, 1].

        Raises:
            ValueError: no more than ``k`` images on a side.
        """
        real, fake = self.sets(self.k + 1)
        return {"precision": _inside(fake, real, self.k), "recall": _inside(real, fake, self.k)}


class DensityCoverage(FeatureSets):
    """Real balls a fake image lies in, by k (density); share of real balls with a fake in it (coverage).

    An outlier among the real images, whose ball is large, counts for less than in precision.

    Source: Naeem et al. 2020 (arXiv 2002.09797), package ``prdc``.

    Args:
        backbone: the feature network; no loss of the run should use it.
        k: which neighbour bounds a ball.
    """

    higher_is_better = {"coverage": True}  # images in the midst of the real ones are denser than they

    def __init__(self, backbone: Backbone = use("vgg16"), k: Annotated[int, Ge(1)] = 5) -> None:
        self.k = k
        super().__init__(backbone)

    def compute(self) -> dict[str, float]:
        """Return ``density``, about 1 at best, and ``coverage``, in [0, 1].

        Raises:
            ValueError: no more than ``k`` images on a side.
        """
        real, fake = self.sets(self.k + 1)
        radii = neighbour_distances(real, self.k)
        inside, covered = 0, torch.zeros(len(real), dtype=torch.bool)
        for distances in distance_blocks(fake, real):
            hits = distances < radii
            inside += int(hits.sum())
            covered |= hits.any(0)
        return {"density": inside / (self.k * len(fake)), "coverage": covered.double().mean().item()}


class NearestNeighbour(VectorSets):
    """How near each fake image comes to the nearest training image: far below the test set's is copying.

    Real images are taken from the training split; what the test images score is the honest value. Distances
    are root mean squares over values: pixels in [0, 1], or features.

    Source: as in Meehan et al. 2020 (arXiv 2004.05675), of which this is the plain distance.

    Args:
        backbone: compare its features; pixels by default.
    """

    reference = "train"

    def __init__(self, backbone: Backbone | None = None) -> None:
        self.backbone = backbone
        super().__init__()

    @property
    def description(self) -> dict[str, str]:
        """What the numbers were measured with."""
        return {"features": "pixels in [0, 1]" if self.backbone is None else named(self.backbone)}

    def features(self, images: Tensor) -> Tensor:
        """Return pixels or features, float32 [B, D]."""
        if self.backbone is None:
            return images.flatten(1).float().cpu() / 255
        return pooled(self.backbone, images).float().cpu()

    def compute(self) -> dict[str, float]:
        """Return the mean distance ``nearest_neighbour`` and the smallest, ``nearest_neighbour_min``.

        Raises:
            ValueError: no image on a side.
        """
        real, fake = self.sets(1)
        nearest = torch.cat([block.argmin(1) for block in distance_blocks(fake, real)])
        # again, exactly: by a matrix product an image would not be at distance zero from itself
        least = (fake - real[nearest]).double().square().mean(1).sqrt()
        return {"nearest_neighbour": least.mean().item(), "nearest_neighbour_min": least.min().item()}


def _inside(vectors: Tensor, balls: Tensor, k: int) -> float:
    """Return the share of vectors that lie in a ball."""
    radii = neighbour_distances(balls, k)
    hits = [(distances <= radii).any(1) for distances in distance_blocks(vectors, balls)]
    return torch.cat(hits).double().mean().item()
