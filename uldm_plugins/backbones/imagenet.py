"""The networks whose features LPIPS compares: VGG16, AlexNet and SqueezeNet, cut into stages."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision import models

from uldm_core.errors import OptionError
from uldm_core.protocols import RequiredFile
from uldm_core.shapes import is_shapes_only
from uldm_plugins.nn.frozen import Frozen
from uldm_plugins.shared.images import refuse_channels, refuse_small
from uldm_plugins.shared.pretrained import existing, published, published_file, read_state

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class Trunk(Frozen):
    """The convolutions of a torchvision classifier, one feature map a stage, finest first.

    Images [B, 1 or 3, H, W] in [-1, 1] are scaled as LPIPS does. The weights are torchvision's, trained on
    ImageNet, fetched on first use into the torch hub cache.

    Args:
        weights: ``imagenet``, ``random``, or the path of a torchvision state dict: ``.safetensors``, or a
            ``.pth`` whose name carries the start of its SHA-256, as torchvision's do.
        weights_url: another address for ``imagenet``; its file name must carry the hash as well.
        auto_download: whether the network may be used.

    Raises:
        ValueError: the weights are not to be had, damaged, or of another network.
    """

    architecture: str
    published: Any
    cuts: tuple[int, ...]
    channels: tuple[int, ...]
    smallest_size: int
    lpips_heads: str
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        weights: Literal["imagenet", "random"] | Path = "imagenet",
        weights_url: str | None = None,
        auto_download: bool = True,
    ) -> None:
        super().__init__()
        features = self._features()
        if weights != "random":
            address = weights_url or self.published.url
            fetched = weights == "imagenet"
            path = published(address, auto_download=auto_download) if fetched else existing(Path(weights))
            if not is_shapes_only():
                _load(features, path)
        self.stages = nn.ModuleList(features[start:end] for start, end in pairwise(self.cuts))
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)
        self.freeze()

    @classmethod
    def required_files(cls, options: Mapping[str, Any]) -> list[RequiredFile]:
        """Return the file of torchvision's weights, if they are wanted."""
        if options["weights"] != "imagenet":
            return []
        address = options["weights_url"] or cls.published.url
        return [published_file(address, auto_download=options["auto_download"])]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps, finest first.

        Raises:
            ValueError: the images are too small for the deepest stage, or neither grey nor RGB.
        """
        refuse_channels(images, self.architecture)
        refuse_small(images, self.smallest_size, self.architecture, "another backbone")
        maps = [(images - self.shift) / self.scale]  # a grey image broadcasts to three channels
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return tuple(maps[1:])

    def _features(self) -> nn.Sequential:
        """Return the convolutions with random weights, without the time for the classifier's."""
        with torch.device("meta"):
            features = getattr(models, self.architecture)().features[: self.cuts[-1]]
        device = torch.get_default_device()
        for layer in features.to_empty(device=device).modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        return features


class Vgg16(Trunk):
    """VGG16's relu1_2, relu2_2, relu3_3, relu4_3, relu5_3, with 64, 128, 256, 512, 512 channels.

    Source: Simonyan and Zisserman 2015 (arXiv 1409.1556); ``torchvision.models.vgg16``, ``lpips.LPIPS``.
    """

    architecture = "vgg16"
    published = models.VGG16_Weights.IMAGENET1K_V1
    cuts = (0, 4, 9, 16, 23, 30)
    channels = (64, 128, 256, 512, 512)
    smallest_size = 16
    lpips_heads = "vgg"


class AlexNet(Trunk):
    """AlexNet's relu1 to relu5, with 64, 192, 384, 256, 256 channels.

    Source: Krizhevsky 2014 (arXiv 1404.5997); ``torchvision.models.alexnet``, ``lpips.LPIPS``.
    """

    architecture = "alexnet"
    published = models.AlexNet_Weights.IMAGENET1K_V1
    cuts = (0, 2, 5, 8, 10, 12)
    channels = (64, 192, 384, 256, 256)
    smallest_size = 31
    lpips_heads = "alex"


class SqueezeNet(Trunk):
    """SqueezeNet 1.1's relu1 to relu7, with 64, 128, 256, 384, 384, 512, 512 channels.

    Source: Iandola et al. 2016 (arXiv 1602.07360); ``torchvision.models.squeezenet1_1``, ``lpips.LPIPS``.
    """

    architecture = "squeezenet1_1"
    published = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    cuts = (0, 2, 5, 8, 10, 11, 12, 13)
    channels = (64, 128, 256, 384, 384, 512, 512)
    smallest_size = 17
    lpips_heads = "squeeze"


def _load(features: nn.Sequential, path: Path) -> None:
    """Load the convolutions' part of a torchvision state dict.

    Raises:
        ValueError: it is of another network.
    """
    prefix = "features."
    state = read_state(path)
    trunk = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    wanted = features.state_dict()
    wrong = [
        name for name, tensor in wanted.items() if name not in trunk or trunk[name].shape != tensor.shape
    ]
    if wrong:
        raise OptionError(f"{path} is of another network: it has no fitting {prefix}{wrong[0]}")
    features.load_state_dict({name: trunk[name] for name in wanted})
