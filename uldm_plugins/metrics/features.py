"""What metrics on a backbone's features share."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from uldm_core.protocols import Backbone
from uldm_plugins.shared.images import to_float
from uldm_plugins.shared.place import device_of

_BLOCK_VALUES = 1 << 25


class VectorSets(ABC):
    """A vector for each real and each fake image, as ``features`` gives them."""

    compares = True

    def __init__(self) -> None:
        self.reset()

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Return vectors [B, D] of uint8 images [B, C, H, W], on the CPU."""

    def reset(self, *, keep_real: bool = False) -> None:
        """Forget all images, or all but the real ones."""
        self._fake: list[Tensor] = []
        if not keep_real:
            self._real: list[Tensor] = []

    def update(self, images: Tensor, *, real: bool) -> None:
        """Take in uint8 images [B, C, H, W]."""
        (self._real if real else self._fake).append(self.features(images))

    def sets(self, least: int) -> tuple[Tensor, Tensor]:
        """Return the real and the fake features, each [N, D].

        Raises:
            ValueError: fewer than ``least`` on a side.
        """
        if min(sum(map(len, batches)) for batches in (self._real, self._fake)) < least:
            raise ValueError(f"{type(self).__name__} needs {least} images or more on each side")
        return torch.cat(self._real), torch.cat(self._fake)


class FeatureSets(VectorSets):
    """The features of real and of fake images: a backbone's last map, averaged over places.

    Args:
        backbone: the feature network; no loss of the run should use it.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        super().__init__()

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


def evenly(vectors: Tensor, count: int | None) -> Tensor:
    """Return so many vectors at most, evenly chosen of all."""
    count = min(len(vectors), count or len(vectors))
    return vectors[torch.linspace(0, len(vectors) - 1, count).round().long()]


def neighbour_distances(vectors: Tensor, k: int) -> Tensor:
    """Return each vector's distance to its k-th nearest other, [N]."""
    return torch.cat([block.kthvalue(k + 1).values for block in distance_blocks(vectors, vectors)])


def distance_blocks(first: Tensor, second: Tensor) -> Iterator[Tensor]:
    """Yield the distances of the first to all of the second, block by block of the first."""
    rows = max(1, _BLOCK_VALUES // len(second))
    return (torch.cdist(block, second) for block in first.split(rows))
