"""What metrics on a backbone's features share."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from uldm_core.protocols import Backbone
from uldm_plugins.shared.images import in_batches, to_float
from uldm_plugins.shared.place import device_of

_BLOCK_VALUES = 1 << 25


class Vectors:
    """The vectors of images, or of at most so many of them, evenly chosen.

    Those that are not chosen cost next to nothing: while images come, every n-th is kept, as they are, and n
    doubles when twice as many are there as are wanted.

    Args:
        features: of uint8 images [B, C, H, W], vectors [B, D].
        count: how many at most; None is all.
    """

    def __init__(self, features: Callable[[Tensor], Tensor], count: int | None = None) -> None:
        self.features = features
        self.count = count
        self.seen = 0
        self._every = 1
        self._kept: list[Tensor] = []
        self._all: Tensor | None = None

    def update(self, images: Tensor) -> None:
        """Take in uint8 images [B, C, H, W]."""
        first = -self.seen % self._every
        self.seen += len(images)
        self._all = None
        if self.count is None:
            self._kept.append(self.features(images))
            return
        self._kept.append(images[first :: self._every].cpu())
        while self.seen > 2 * self.count * self._every:
            self._kept, self._every = [torch.cat(self._kept)[::2]], 2 * self._every

    def all(self) -> Tensor:
        """Return the vectors, [N, D]; computed once, until more images come."""
        if self._all is None:
            kept = torch.cat(self._kept)
            self._all = kept if self.count is None else self._chosen(kept, self.count)
            self._kept = [kept]
        return self._all

    def _chosen(self, kept: Tensor, count: int) -> Tensor:
        places = torch.linspace(0, len(kept) - 1, min(len(kept), count)).round().long()
        return torch.cat([self.features(batch) for batch in in_batches(kept[places])])


class VectorSets(ABC):
    """A vector for each real and each fake image, as ``features`` gives them.

    Args:
        real: how many real images are chosen at most; None is all.
        fake: how many fake images likewise.
    """

    compares = True

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

    def sets(self, least: int) -> tuple[Tensor, Tensor]:
        """Return the real and the fake features, each [N, D].

        Raises:
            ValueError: fewer than ``least`` on a side.
        """
        if min(self._real.seen, self._fake.seen) < least:
            raise ValueError(f"{type(self).__name__} needs {least} images or more on each side")
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
