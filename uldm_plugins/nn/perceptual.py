"""The distance of images in a backbone's features: a loss to train on and a metric to measure with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from uldm_core.errors import OptionError
from uldm_core.protocols import Backbone
from uldm_core.shapes import is_shapes_only

_HEADS = Path(__file__).parent / "weights" / "lpips_heads.safetensors"
Heads = Literal["auto", "published", "even"]

_log = logging.getLogger(__name__)


class PerceptualDistance(nn.Module):
    """Distance of two images in a backbone's features, normalised to unit length at each place.

    d = sum over layers of mean over places of sum over channels w_c (f0 - f1)^2.

    Source: Zhang et al. 2018 (arXiv 1801.03924), ``lpips.LPIPS``.

    Args:
        backbone: the feature network.
        normalize: images are in [0, 1] rather than in [-1, 1].
        heads: the weights w_c. ``published`` ones, ``even`` (1 / C), or ``auto``: published if there are
            some, else even, with a line in the log.

    Raises:
        ValueError: ``heads = "published"`` and the backbone has none.
    """

    def __init__(
        self,
        backbone: Backbone,
        normalize: bool,
        heads: Heads,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.normalize = normalize
        for index, head in enumerate(_heads(backbone, heads)):
            self.register_buffer(f"head_{index}", head.view(1, -1, 1, 1), persistent=False)

    @property
    def smallest_size(self) -> int:
        """The least height and width of images that the backbone takes."""
        return getattr(self.backbone, "smallest_size", 1)

    def distances(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the distance of each pair of images [B, 1 or 3, H, W], [B, 1, 1, 1]."""
        layers = [layer.mean((2, 3), keepdim=True) for layer in self.layers(prediction, target)]
        return torch.stack(layers).sum(0)

    def maps(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the distance at each pixel, [B, 1, H, W]: the layers' maps, enlarged and added up."""
        return torch.stack(enlarged(self.layers(prediction, target), prediction.shape[-2:])).sum(0)

    def layers(self, prediction: Tensor, target: Tensor) -> list[Tensor]:
        """Return each layer's weighted squared differences, [B, 1, h, w], finest first."""
        maps = zip(*self._features(prediction, target), strict=True)
        return [
            ((unit_length(p) - unit_length(t)).square() * getattr(self, f"head_{index}")).sum(1, keepdim=True)
            for index, (p, t) in enumerate(maps)
        ]

    def _features(self, prediction: Tensor, target: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return the features of both: in one pass, unless only the prediction needs a gradient."""
        if prediction.shape != target.shape:
            raise ValueError(f"images of {list(prediction.shape)} against {list(target.shape)}")
        prediction, target = (self._prepared(images) for images in (prediction, target))
        if torch.is_grad_enabled() and prediction.requires_grad and not target.requires_grad:
            with torch.no_grad():
                targets = self.backbone(target)
            return self.backbone(prediction), targets
        both = [features.chunk(2) for features in self.backbone(torch.cat([prediction, target]))]
        return [pair[0] for pair in both], [pair[1] for pair in both]

    def _prepared(self, images: Tensor) -> Tensor:
        return images * 2 - 1 if self.normalize else images


def enlarged(layers: Sequence[Tensor], size: Sequence[int]) -> list[Tensor]:
    """Return each layer's map [B, 1, h, w] brought to the images' height and width."""
    return [F.interpolate(layer, list(size), mode="bilinear", align_corners=False) for layer in layers]


def unit_length(features: Tensor, eps: float = 1e-12) -> Tensor:
    """Scale features [B, C, h, w] to unit length over channels, with a finite gradient at zero.

    The square root of zero has none, so ``eps`` is added below the root; the reference adds its own above.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + eps)


def _heads(backbone: Backbone, choice: str) -> list[Tensor]:
    """Return each layer's weights, [C]."""
    name = getattr(backbone, "lpips_heads", None)
    if choice == "published" and name is None:
        raise OptionError(f"there are no published heads for {type(backbone).__name__}: heads = 'even'")
    if choice == "even" or name is None:
        if choice == "auto":
            _log.warning(
                "lpips: no published heads for %s, every channel weighs 1 / C", type(backbone).__name__
            )
        return [torch.full((count,), 1 / count) for count in backbone.channels]
    if is_shapes_only():
        return [torch.empty(count) for count in backbone.channels]
    heads = load_file(_HEADS)
    return [heads[f"{name}.{index}"] for index in range(len(backbone.channels))]
