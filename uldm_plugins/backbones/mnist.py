"""Two small classifiers of MNIST digits: one to train against, another of other shape to evaluate with."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from uldm_core.errors import OptionError
from uldm_core.shapes import is_shapes_only
from uldm_plugins.nn.frozen import Frozen
from uldm_plugins.shared.images import refuse_channels
from uldm_plugins.shared.pretrained import read_safetensors, require_fitting

SIZE = 28
CLASSES = 10
FEATURES = 128
_WEIGHTS = Path(__file__).parent / "weights"


class DigitClassifier(Frozen):
    """What the two classifiers share: input scaling, feature maps, logits, weights.

    Images [B, 1 or 3, H, W] in [-1, 1] are made grey and brought to 28x28. The maps are those of
    ``self.stages``, finest first; the last is the penultimate layer, [B, 128, 1, 1].
    """

    channels: tuple[int, ...]
    stages: nn.ModuleList
    head: nn.Module

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps, finest first; raises ``ValueError`` unless images are grey or RGB."""
        refuse_channels(images, "a classifier of digits")
        maps = [_grey_28(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return tuple(maps[1:])

    def logits(self, images: Tensor) -> Tensor:
        """Return class logits [B, 10]."""
        return self.head(self(images)[-1].flatten(1))

    def _load(self, weights: str | Path, shipped: str) -> None:
        """Load what ``weights`` names: ``mnist`` (shipped), ``random`` (nothing) or a path; then freeze."""
        if weights != "random":
            path = _WEIGHTS / f"{shipped}.safetensors" if weights == "mnist" else Path(weights)
            if not path.is_file():
                raise OptionError(
                    f"weights must be 'mnist', 'random' or a safetensors file; there is no {path}"
                )
            if not is_shapes_only():
                state = read_safetensors(path)
                require_fitting(self, state, path)
                self.load_state_dict(state)
        self.freeze()


class MnistClassifier(DigitClassifier):
    """Strided CNN with batch norm and SiLU, for perceptual losses: it leaves full resolution at once.

    Feature maps: 14x14, 14x14, 7x7, 4x4, and the penultimate 1x1, with 32, 32, 64, 128, 128 channels.

    Args:
        weights: ``mnist`` (shipped, made by ``recipes/mnist_classifier.toml``), ``random``, or a path.
        dropout: in front of the two last layers, while it is trained.
    """

    channels = (32, 32, 64, 128, FEATURES)

    def __init__(self, weights: Literal["mnist", "random"] | Path = "mnist", dropout: float = 0.2) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                _block(1, 32, 5, 2),
                _block(32, 32, 3, 1),
                nn.Sequential(_block(32, 64, 3, 2), _block(64, 64, 3, 1)),
                _block(64, 128, 3, 2),
                nn.Sequential(
                    nn.Dropout(dropout),
                    nn.Conv2d(128, FEATURES, 4, bias=False),
                    nn.BatchNorm2d(FEATURES),
                    nn.SiLU(),
                ),
            ]
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(FEATURES, CLASSES))
        self._load(weights, "mnist_classifier")


class MnistJudge(DigitClassifier):
    """LeNet-like CNN (5x5 kernels, max pooling, ReLU), for metrics only: no loss may use it.

    Samples score too well in the features that they were trained against, hence a second of other shape.
    Feature maps: 14x14, 7x7, and the penultimate 1x1, with 20, 48, 128 channels.

    Args:
        weights: ``mnist`` (shipped, made by ``recipes/mnist_judge.toml``), ``random``, or a path.
        dropout: in front of the two last layers, while it is trained.
    """

    channels = (20, 48, FEATURES)

    def __init__(self, weights: Literal["mnist", "random"] | Path = "mnist", dropout: float = 0.3) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                _pooled(1, 20),
                _pooled(20, 48),
                nn.Sequential(nn.Dropout(dropout), nn.Conv2d(48, FEATURES, 7), nn.ReLU()),
            ]
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(FEATURES, CLASSES))
        self._load(weights, "mnist_judge")


def _grey_28(images: Tensor) -> Tensor:
    grey = images.mean(1, keepdim=True) if images.shape[1] > 1 else images
    if grey.shape[-2:] == (SIZE, SIZE):
        return grey
    resized = F.interpolate(grey.float(), (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
    return resized.to(grey.dtype)  # torch's antialiasing knows no bfloat16 on the CPU


def _block(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.SiLU())


def _pooled(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 5, padding=2, bias=False)
    return nn.Sequential(convolution, nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU())
