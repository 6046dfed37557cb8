"""Fréchet distance of two sets of images in a backbone's features."""

from __future__ import annotations

import torch
from torch import Tensor

from uldm_core import use
from uldm_core.protocols import Backbone, HasLogits
from uldm_plugins.metrics.features import named, pooled
from uldm_plugins.shared.images import to_float
from uldm_plugins.shared.place import device_of


class Moments:
    """Count, mean and covariance of vectors, accumulated in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.products: Tensor | float = 0.0

    def update(self, vectors: Tensor) -> None:
        """Take in vectors [N, D]."""
        vectors = vectors.double().cpu()
        self.count += len(vectors)
        self.total = self.total + vectors.sum(0)
        self.products = self.products + vectors.T @ vectors

    @property
    def mean(self) -> Tensor:
        """The mean, [D]."""
        return torch.as_tensor(self.total) / self.count

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance, [D, D]."""
        mean = self.mean
        return (torch.as_tensor(self.products) - self.count * torch.outer(mean, mean)) / (self.count - 1)


class Frechet:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of a backbone's last feature map, averaged over places.

    On a local feature network this is not FID and is never called so: FID means Inception's features.

    Source: Dowson and Landau 1982; Heusel et al. 2017 (arXiv 1706.08500).

    Args:
        backbone: the feature network; no loss of the run should use it.
        name: what the number is called.
    """

    compares = True
    smallest_count = 2

    def __init__(self, backbone: Backbone = use("vgg16"), name: str = "frechet") -> None:
        self.backbone = backbone
        self.name = name
        self.reset()

    @property
    def description(self) -> dict[str, str]:
        """What the number was measured with."""
        return {
            "features": named(self.backbone),
            "preprocessing": "uint8 to [-1, 1]",
        }

    def reset(self, *, keep_real: bool = False) -> None:
        """Forget all images, or all but the real ones."""
        self.fake = Moments()
        if not keep_real:
            self.real = Moments()

    @torch.inference_mode()
    def update(self, images: Tensor, *, real: bool) -> None:
        """Take in uint8 images [B, C, H, W]."""
        (self.real if real else self.fake).update(pooled(self.backbone, images))

    def compute(self) -> dict[str, float]:
        """Return the distance under the metric's name.

        Raises:
            ValueError: fewer than two images on a side.
        """
        if min(self.real.count, self.fake.count) < self.smallest_count:
            raise ValueError("the Fréchet distance needs two images or more on each side")
        return {self.name: frechet_distance(self.real, self.fake)}


class FrechetMnist(Frechet):
    """Fréchet distance in the 128 features of ``mnist_judge``, a classifier that no loss uses.

    Args:
        backbone: the evaluation classifier.
    """

    def __init__(self, backbone: Backbone = use("mnist_judge")) -> None:
        super().__init__(backbone, "frechet_mnist")


class Fid(Frechet):
    """FID: the Fréchet distance in 2048 features of Inception, as torch-fidelity and the paper have them.

    Nothing else in uldm bears the name. Report the number of images as well: it falls as they grow more.

    Source: Heusel et al. 2017 (arXiv 1706.08500); ``torch_fidelity.calculate_metrics(fid=True)``.

    Args:
        backbone: the Inception network.
    """

    def __init__(self, backbone: Backbone = use("inception")) -> None:
        super().__init__(backbone, "fid")


class ClassBalance:
    """How often a digit classifier sees each class, as shares of the fake images.

    Args:
        backbone: a backbone with ``logits``.

    Raises:
        ValueError: the backbone has none.
    """

    compares = False

    def __init__(self, backbone: Backbone = use("mnist_judge")) -> None:
        if not isinstance(backbone, HasLogits):
            raise ValueError(f"{type(backbone).__name__} has no logits: give a backbone that classifies")
        self.backbone = backbone
        self.reset()

    @property
    def description(self) -> dict[str, str]:
        """What the shares were measured with."""
        return {"features": named(self.backbone)}

    def reset(self, *, keep_real: bool = False) -> None:
        """Forget all images; real ones do not count anyway."""
        self.counts = torch.zeros(10, dtype=torch.int64)

    @torch.inference_mode()
    def update(self, images: Tensor, *, real: bool) -> None:
        """Take in uint8 images [B, C, H, W]; real ones do not count."""
        if not real:
            images = to_float(images.to(device_of(self.backbone)))
            classes = self.backbone.logits(images).argmax(1)
            self.counts += (classes.cpu()[:, None] == torch.arange(10)).sum(0)

    def compute(self) -> dict[str, float]:
        """Return the smallest and the largest share."""
        shares = self.counts / self.counts.sum().clamp(min=1)
        return {"smallest_class": shares.min().item(), "largest_class": shares.max().item()}


def frechet_distance(first: Moments, second: Moments) -> float:
    """Return the distance of two Gaussians; the trace of the root is summed from eigenvalues.

    C1 C2 is similar to the symmetric C1^(1/2) C2 C1^(1/2), so no matrix root of a product is needed.
    """
    values, vectors = torch.linalg.eigh(first.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second.covariance @ root).clamp(min=0).sqrt().sum()
    traces = first.covariance.trace() + second.covariance.trace()
    return float((first.mean - second.mean).square().sum() + traces - 2 * cross)
