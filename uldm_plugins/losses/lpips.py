"""Learned perceptual image patch similarity, on any backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from uldm_core import spec
from uldm_core.protocols import Backbone


class LPIPS(nn.Module):
    """Distance of two images in a backbone's features.

    d = sum over layers of mean over places of sum over channels w_c (f0 - f1)^2, with features normalised
    to unit length at each place. Without published heads for the backbone, w_c = 1 / C.

    Source: Zhang et al. 2018 (arXiv 1801.03924), ``lpips.LPIPS``.

    Args:
        backbone: the feature network.
    """

    def __init__(self, backbone: Backbone = spec("vgg16")) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean distance of images [B, C, H, W] in [-1, 1], a scalar."""
        with torch.no_grad():
            targets = [unit_length(features) for features in self.backbone(target)]
        predictions = [unit_length(features) for features in self.backbone(prediction)]
        layers = [(p - t).square().mean() for p, t in zip(predictions, targets, strict=True)]
        return torch.stack(layers).sum()


def unit_length(features: Tensor, eps: float = 1e-10) -> Tensor:
    """Scale features [B, C, h, w] to unit length over channels, with a finite gradient at zero."""
    features = features.float()
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + eps)
