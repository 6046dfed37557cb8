"""VGG16, cut into the five stages that LPIPS looks at."""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import VGG16_Weights
from torchvision.models.vgg import cfgs, make_layers

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
            name carries), ``random``, or the path of a torchvision state dict: ``.safetensors``, or a
            ``.pth`` whose name carries its hash as torchvision's do (``vgg16-397923af.pth``).

    Raises:
        ValueError: there is no such file, or its hash is not the one its name carries.
    """

    channels = (64, 128, 256, 512, 512)

    def __init__(self, weights: str = "imagenet") -> None:
        super().__init__()
        features = _features()
        if weights != "random":
            features.load_state_dict(_trunk(_read(weights)))
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


def _features() -> nn.Sequential:
    """Return VGG16's convolutions alone, initialised as torchvision does; its classifier is most of it."""
    features = make_layers(cfgs["D"])
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return features


def _trunk(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the convolutions' part of a torchvision state dict."""
    prefix = "features."
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def _read(weights: str) -> dict[str, Tensor]:
    if weights == "imagenet":
        return dict(VGG16_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True))
    path = Path(weights)
    if not path.is_file():
        raise ValueError(f"weights must be 'imagenet', 'random' or a file; there is no {path}")
    if path.suffix == ".safetensors":
        return load_file(path)
    _check_hash(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_hash(path: Path) -> None:
    """Raise ``ValueError`` unless the file's name carries the start of its SHA-256."""
    named = re.search(r"-([0-9a-f]{8,64})$", path.stem)
    if named is None:
        raise ValueError(f"{path} carries no hash in its name, as vgg16-397923af.pth does: give safetensors")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(named[1]):
        raise ValueError(f"{path} is damaged: its hash begins with {found[:8]}, its name says {named[1]}")
