"""What metrics on a backbone's features share."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from heapq import heappush, heapreplace
from random import Random

import torch
from torch import Tensor, nn

from uldm_core.protocols import Backbone
from uldm_plugins.shared.images import in_batches, to_float
from uldm_plugins.shared.place import device_of

_BLOCK_VALUES = 1 << 25


class Vectors:
    """The vectors of images, or of at most so many of them, chosen by chance: the same at each time.

    Not every n-th is taken: files are often in an order of some period. Those that are not chosen cost next
    to nothing.

    Args:
        features: of uint8 images [B, C, H, W], vectors [B, D].
        count: how many at most; None is all.
    """

    def __init__(self, features: Callable[[Tensor], Tensor], count: int | None = None) -> None:
        self.features = features
        self.count = count
        self.seen = 0
        self._vectors: list[Tensor] = []
        self._chosen: list[tuple[float, int, Tensor]] = []  # a heap: that of the least rank goes first
        self._ranks = Random(0)

    def update(self, images: Tensor) -> None:
        """Take in uint8 images [B, C, H, W]."""
        if self.count is None:
            self._vectors.append(self.features(images))
        else:
            self._vectors = []
            for place, image in enumerate(images, self.seen):
                rank = self._ranks.random()
                if len(self._chosen) < self.count:
                    heappush(self._chosen, (rank, place, image.cpu().clone()))  # not a view of its batch
                elif rank > self._chosen[0][0]:
                    heapreplace(self._chosen, (rank, place, image.cpu().clone()))
        self.seen += len(images)

    def all(self) -> Tensor:
        """Return the vectors, [N, D], in the order of the images; computed once, until more of these come."""
        if self.count is not None and not self._vectors:
            images = torch.stack(
                [image for _, _, image in sorted(self._chosen, key=lambda ranked: ranked[1])]
            )
            self._vectors = [self.features(batch) for batch in in_batches(images)]
        self._vectors = [torch.cat(self._vectors)]
        return self._vectors[0]


class VectorSets(ABC):
    """A vector for each real and each fake image, as ``features`` gives them.

    Args:
        real: how many real images are chosen at most; None is all.
        fake: how many fake images likewise.
    """

    compares = True
    smallest_count = 1

    def __init__(self, real: int | None = None, fake: int | None = None) -> None:
        self._counts = real, fake
        self.reset()

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Return vectors [B, D] of uint8 images [B, C, H, W], on the CPU."""

    def reset(self, *, keep_real: bool = False) -> None:
        """Forget all images, or all but the real ones."""
        self._fake = Vectors(self.features, self._counts[1])
        if not keep_real:
            self._real = Vectors(self.features, self._counts[0])

    def update(self, images: Tensor, *, real: bool) -> None:
        """Take in uint8 images [B, C, H, W]."""
        (self._real if real else self._fake).update(images)

    def sets(self) -> tuple[Tensor, Tensor]:
        """Return the real and the fake features, each [N, D].

        Raises:
            ValueError: fewer than ``smallest_count`` on a side.
        """
        if min(self._real.seen, self._fake.seen) < self.smallest_count:
            raise ValueError(f"{type(self).__name__} needs {self.smallest_count} images or more on each side")
        return self._real.all(), self._fake.all()


class FeatureSets(VectorSets):
    """The features of real and of fake images: a backbone's last map, averaged over places.

    Args:
        backbone: the feature network; no loss of the run should use it.
        count: at most so many images of each side are chosen; None is all.
    """

    def __init__(self, backbone: Backbone, count: int | None = None) -> None:
        self.backbone = backbone
        super().__init__(count, count)

    @property
    def description(self) -> dict[str, str]:
        """What the numbers were measured with."""
        return {"features": named(self.backbone), "preprocessing": "uint8 to [-1, 1]"}

    def features(self, images: Tensor) -> Tensor:
        """Return features [B, D], float64."""
        return pooled(self.backbone, images).double().cpu()


@torch.inference_mode()
def pooled(backbone: Backbone, images: Tensor) -> Tensor:
    """Return a backbone's last feature map of uint8 images, averaged over places, [B, D]."""
    return backbone(to_float(images.to(device_of(backbone))))[-1].mean((2, 3))


def named(network: object) -> str:
    """Return a network's class and a short hash of its weights."""
    digest = hashlib.blake2b(digest_size=8)
    state = network.state_dict() if isinstance(network, nn.Module) else {}
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return f"{type(network).__name__} {digest.hexdigest()}"


def neighbour_distances(vectors: Tensor, k: int) -> Tensor:
    """Return each vector's distance to its k-th nearest other, [N]."""
    return torch.cat([block.kthvalue(k + 1).values for block in distance_blocks(vectors, vectors)])


def distance_blocks(first: Tensor, second: Tensor) -> Iterator[Tensor]:
    """Yield the distances of the first to all of the second, block by block of the first."""
    rows = max(1, _BLOCK_VALUES // len(second))
    return (torch.cdist(block, second) for block in first.split(rows))
