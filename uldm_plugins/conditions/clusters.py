"""Clusters that stand in for classes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from uldm_core.protocols import Backbone
from uldm_plugins.conditions.assigned import AssignedClasses

SEED = 0


class Clusters(AssignedClasses):
    """k-means clusters of the normalized latents, or of a backbone's features: found without any label.

    A denoiser that is told the cluster learns many easier distributions in place of one. Clusters are drawn
    as often as they occur, so that the model stays one of the images alone.

    Source: Adaloglou et al. 2024 (arXiv 2403.00570); k-means++ of Arthur and Vassilvitskii 2007.

    Args:
        classes: clusters.
        backbone: clusters its last features, averaged over the places; else the latents.
        iterations: of Lloyd's algorithm, at most.
    """

    def __init__(
        self,
        classes: Annotated[int, Ge(1)] = 100,
        backbone: Backbone | None = None,
        iterations: Annotated[int, Ge(1)] = 20,
    ) -> None:
        super().__init__(classes)
        self.backbone = backbone
        self.iterations = iterations
        self.fits_images = backbone is not None

    @torch.inference_mode()
    def fit(self, batches: Iterable[Tensor], labels: Tensor | None) -> None:
        """Cluster the batches, latents or images [B, C, H, W]; labels are not used.

        Raises:
            ValueError: there are fewer images than clusters.
        """
        points = torch.cat([self._features(batch).flatten(1).float().cpu() for batch in batches])
        if len(points) < self.classes:
            raise ValueError(f"{len(points)} images are fewer than {self.classes} clusters")
        self.assigned = k_means(points, self.classes, self.iterations)

    def _features(self, batch: Tensor) -> Tensor:
        return batch if self.backbone is None else self.backbone(batch)[-1].mean((2, 3))


def k_means(points: Tensor, clusters: int, iterations: int) -> Tensor:
    """Return the cluster of each point, int64 [N], of points float [N, D]; the same at every call.

    Lloyd's algorithm from centers that k-means++ chooses; a cluster that loses its points keeps its center.
    """
    centers = _first_centers(points, clusters)
    assigned = _nearest(points, centers)
    for _ in range(iterations):
        counts = torch.bincount(assigned, minlength=clusters).unsqueeze(1)
        sums = torch.zeros_like(centers).index_add_(0, assigned, points)
        centers = torch.where(counts > 0, sums / counts.clamp(min=1), centers)
        before, assigned = assigned, _nearest(points, centers)
        if torch.equal(before, assigned):
            break
    return assigned


def _first_centers(points: Tensor, clusters: int) -> Tensor:
    """Return points that are far from each other: each is drawn by its squared distance to those before."""
    generator = torch.Generator().manual_seed(SEED)
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distances = torch.full((len(points),), torch.inf)
    for _ in range(clusters - 1):
        distances = torch.minimum(distances, (points - points[chosen[-1]]).square().sum(1))
        sums = distances.double().cumsum(0)
        place = torch.rand((), generator=generator, dtype=torch.float64) * sums[-1]
        chosen.append(min(int(torch.searchsorted(sums, place, right=True)), len(points) - 1))
    return points[chosen]


def _nearest(points: Tensor, centers: Tensor) -> Tensor:
    """Return the index of the nearest center to each point."""
    norms = centers.square().sum(1)
    return torch.cat([(norms - 2 * batch @ centers.T).argmin(1) for batch in points.split(8192)])
