"""How the neighbourhoods of real and of fake images lie in each other."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from uldm_core import use
from uldm_core.errors import OptionError
from uldm_core.protocols import Backbone
from uldm_plugins.metrics.features import (
    FeatureSets,
    Vectors,
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
        count: at most so many images of each side are compared, chosen by chance; all by default. The time
            that it takes grows with their square, and the balls shrink as there are more.

    Raises:
        ValueError: ``count`` is no more than ``k``.
    """

    higher_is_better = {"precision": True, "recall": True}

    def __init__(
        self,
        backbone: Backbone = use("vgg16"),
        k: Annotated[int, Ge(1)] = 3,
        count: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        if count is not None and count <= k:
            raise OptionError(f"count = {count}: there are no {k} neighbours among so few")
        self.k, self.smallest_count = k, k + 1
        super().__init__(backbone, count)

    def compute(self) -> dict[str, float]:
        """Return ``precision`` and ``recall``, in [0, 1].

        Raises:
            ValueError: no more than ``k`` images on a side.
        """
        real, fake = self.sets()
        return {"precision": _inside(fake, real, self.k), "recall": _inside(real, fake, self.k)}


class DensityCoverage(FeatureSets):
    """Real balls a fake image lies in, by k (density); share of real balls with a fake in it (coverage).

    An outlier among the real images, whose ball is large, counts for less than in precision.

    Source: Naeem et al. 2020 (arXiv 2002.09797), package ``prdc``.

    Args:
        backbone: the feature network; no loss of the run should use it.
        k: which neighbour bounds a ball.
        count: at most so many images of each side are compared, chosen by chance; all by default. The time
            that it takes grows with their square, and the balls shrink as there are more.

    Raises:
        ValueError: ``count`` is no more than ``k``.
    """

    higher_is_better = {"coverage": True}  # images in the midst of the real ones are denser than they

    def __init__(
        self,
        backbone: Backbone = use("vgg16"),
        k: Annotated[int, Ge(1)] = 5,
        count: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        if count is not None and count <= k:
            raise OptionError(f"count = {count}: there are no {k} neighbours among so few")
        self.k, self.smallest_count = k, k + 1
        super().__init__(backbone, count)

    def compute(self) -> dict[str, float]:
        """Return ``density``, about 1 at best, and ``coverage``, in [0, 1].

        Raises:
            ValueError: no more than ``k`` images on a side.
        """
        real, fake = self.sets()
        radii = neighbour_distances(real, self.k)
        inside, covered = 0, torch.zeros(len(real), dtype=torch.bool)
        for distances in distance_blocks(fake, real):
            hits = distances < radii
            inside += int(hits.sum())
            covered |= hits.any(0)
        return {"density": inside / (self.k * len(fake)), "coverage": covered.double().mean().item()}


class NearestNeighbour(VectorSets):
    """How near fake images come to the nearest training image, and how many come nearer than unseen ones do.

    Real images are taken from the training split. ``copies`` is the share of fake images as near to
    a training image as the nearest hundredth of the test images is, so that 0.01 is what new images score:
    far above that, the model repeats what it was trained on. Distances are root mean squares over values:
    pixels in [0, 1], or features.

    Source: as in Meehan et al. 2020 (arXiv 2004.05675), of which this is the plain distance.

    Args:
        backbone: compare its features; pixels by default.
        count: at most so many images of a set are compared with all training images, chosen by chance; all
            by default.
    """

    reference = "train"

    def __init__(self, backbone: Backbone | None = None, count: Annotated[int, Ge(1)] | None = None) -> None:
        self.backbone = backbone
        self.count = count
        super().__init__(fake=count)

    @property
    def description(self) -> dict[str, str]:
        """What the numbers were measured with."""
        return {"features": "pixels in [0, 1]" if self.backbone is None else named(self.backbone)}

    def features(self, images: Tensor) -> Tensor:
        """Return pixels or features, float32 [B, D]."""
        if self.backbone is None:
            return images.flatten(1).float().cpu() / 255
        return pooled(self.backbone, images).float().cpu()

    def reset(self, *, keep_real: bool = False) -> None:
        """Forget all images, or all but the real and the unseen ones."""
        super().reset(keep_real=keep_real)
        if not keep_real:
            self._unseen = Vectors(self.features, self.count)
            self._usual: Tensor | None = None

    def update_unseen(self, images: Tensor) -> None:
        """Take in uint8 images [B, C, H, W] that no training has seen."""
        self._unseen.update(images)
        self._usual = None

    def compute(self) -> dict[str, float]:
        """Return the mean distance ``nearest_neighbour`` and the smallest, ``nearest_neighbour_min``.

        With unseen images also ``copies``, in [0, 1].

        Raises:
            ValueError: no image on a side.
        """
        real, fake = self.sets()
        unseen = self._unseen.all() if self._unseen.seen else None
        if unseen is not None and self._usual is None:
            self._usual = _to_nearest(unseen, real)
        same = unseen is not None and torch.equal(fake, unseen)  # the floor, which takes as long again
        least = self._usual if same and self._usual is not None else _to_nearest(fake, real)
        found = {"nearest_neighbour": least.mean().item(), "nearest_neighbour_min": least.min().item()}
        if self._usual is not None:
            found["copies"] = (least <= self._usual.quantile(0.01)).double().mean().item()
        return found


def _to_nearest(vectors: Tensor, others: Tensor) -> Tensor:
    """Return each vector's root mean square distance to the nearest of others, float64 [N]."""
    nearest = torch.cat([block.argmin(1) for block in distance_blocks(vectors, others)])
    # again, exactly: by a matrix product an image would not be at distance zero from itself
    return (vectors - others[nearest]).double().square().mean(1).sqrt()


def _inside(vectors: Tensor, balls: Tensor, k: int) -> float:
    """Return the share of vectors that lie in a ball."""
    radii = neighbour_distances(balls, k)
    hits = [(distances <= radii).any(1) for distances in distance_blocks(vectors, balls)]
    return torch.cat(hits).double().mean().item()
