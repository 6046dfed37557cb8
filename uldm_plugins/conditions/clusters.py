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
MOST_VALUES = 2**28
"""Numbers from which the centers are found: 1 GiB."""
AT_ONCE = 8192
"""Points whose distances to all centers are held."""


class Clusters(AssignedClasses):
    """k-means clusters of the normalized latents, or of a backbone's features: found without any label.

    A denoiser that is conditioned on the cluster learns many easier distributions in place of one. Clusters
    are drawn as often as they occur, so that the model stays one of the images alone.

    It holds the values of all images twice, 1 GiB of them at most: of larger sets the centers are found from
    every second, fourth, ... batch, and all images are assigned to them in a second pass. A cluster without
    images is never drawn.

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

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor], labels: Tensor | None) -> None:
        """Cluster the batches, latents or images [B, C, H, W]; labels are not used.

        Raises:
            ValueError: there are fewer images than clusters.
        """
        points, stride = self._gathered(batches)
        if len(points) < self.classes:
            raise ValueError(f"{len(points)} images are fewer than classes = {self.classes}")
        centers = k_means(points, first_centers(points, self.classes), self.iterations)
        every = [points] if stride == 1 else map(self._points, batches)
        self.assigned = torch.cat([nearest(part, centers) for part in every])

    def _gathered(self, batches: Iterable[Tensor]) -> tuple[Tensor, int]:
        """Return the points of as many batches as may be held, [N, D], and that they are every n-th."""
        kept: list[Tensor] = []
        stride, held = 1, 0
        for number, batch in enumerate(batches):
            if number % stride == 0:
                kept.append(self._points(batch))
                held += kept[-1].numel()
            if held > MOST_VALUES:
                kept, stride = kept[::2], 2 * stride
                held = sum(part.numel() for part in kept)
        return torch.cat(kept), stride

    def _points(self, batch: Tensor) -> Tensor:
        values = batch if self.backbone is None else self.backbone(batch)[-1].mean((2, 3))
        return values.flatten(1).float().cpu()


def k_means(points: Tensor, centers: Tensor, iterations: int) -> Tensor:
    """Return centers [K, D] that Lloyd's algorithm makes of others, for points float [N, D].

    A center that loses its points stays where it is, as in scipy's ``kmeans2``.
    """
    assigned = nearest(points, centers)
    for _ in range(iterations):
        counts = torch.bincount(assigned, minlength=len(centers)).unsqueeze(1)
        sums = torch.zeros_like(centers).index_add_(0, assigned, points)
        centers = torch.where(counts > 0, sums / counts.clamp(min=1), centers)
        before, assigned = assigned, nearest(points, centers)
        if torch.equal(before, assigned):
            break
    return centers


def first_centers(points: Tensor, clusters: int) -> Tensor:
    """Return points [clusters, D] far from each other, the same ones each time.

    k-means++: each is drawn by its squared distance to those before.
    """
    generator = torch.Generator().manual_seed(SEED)
    centered = points - points.mean(0)  # else rounding would hide small distances between far points
    norms = centered.square().sum(1)
    distances = torch.full_like(norms, torch.inf)
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    while len(chosen) < clusters:
        last = chosen[-1]
        distances = torch.minimum(distances, norms + norms[last] - 2 * (centered @ centered[last]))
        distances[last] = 0
        sums = distances.clamp(min=0).double().cumsum(0)
        place = torch.rand((), generator=generator, dtype=torch.float64) * sums[-1]
        chosen.append(min(int(torch.searchsorted(sums, place, right=True)), len(points) - 1))
    return points[chosen]


def nearest(points: Tensor, centers: Tensor) -> Tensor:
    """Return the index of the nearest center to each point, int64 [N]."""
    norms = centers.square().sum(1)
    return torch.cat(
        [torch.addmm(norms, part, centers.T, alpha=-2).argmin(1) for part in points.split(AT_ONCE)]
    )
