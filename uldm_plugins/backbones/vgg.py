"""VGG16, cut into the five stages that LPIPS looks at."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import VGG16_Weights, vgg16

from uldm_plugins.nn.frozen import Frozen

_CUTS = (0, 4, 9, 16, 23, 30)
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class Vgg16(Frozen):
    """VGG16's relu1_2, relu2_2, relu3_3, relu4_3, relu5_3, with 64, 128, 256, 512, 512 channels.

    Images [B, 1 or 3, H, W] in [-1, 1], at least 16x16, are scaled as LPIPS does.

    Source: Simonyan and Zisserman 2015 (arXiv 1409.1556), torchvision's ``vgg16``; scaling of
    ``lpips.LPIPS``.

    Args:
        weights: ``imagenet`` (torchvision's, downloaded on first use and checked against the hash that its
            name carries), ``random``, or the path of a torchvision state dict (``.pth`` or ``.safetensors``).
    """

    channels = (64, 128, 256, 512, 512)

    def __init__(self, weights: str = "imagenet") -> None:
        super().__init__()
        features = _load(weights).features
        self.stages = nn.ModuleList(features[start:end] for start, end in pairwise(_CUTS))
        for layer in features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # or a later layer would overwrite a map that is handed out
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)
        self.freeze()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the five maps, finest first."""
        maps = [(images - self.shift) / self.scale]  # a grey image broadcasts to three channels
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return tuple(maps[1:])


def _load(weights: str) -> nn.Module:
    network = vgg16(weights=None)
    if weights == "random":
        return network
    if weights == "imagenet":
        network.load_state_dict(VGG16_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True))
        return network
    path = Path(weights)
    if not path.is_file():
        raise ValueError(f"weights must be 'imagenet', 'random' or a file; there is no {path}")
    network.load_state_dict(_read(path))
    return network


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
