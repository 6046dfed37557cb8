"""The feature maps of timm's models."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import timm
import torch
from timm.models import get_pretrained_cfg, is_model
from torch import Tensor, nn

from uldm_core.errors import OptionError, UnavailableError, did_you_mean
from uldm_core.shapes import is_shapes_only
from uldm_plugins.nn.frozen import Frozen
from uldm_plugins.shared.pretrained import existing, read_state


class Features(Frozen):
    """A timm model, by name, as a frozen feature network: its stages' maps, finest first.

    Images [B, 1 or 3, H, W] in [-1, 1] are scaled by the mean and deviation that the model was trained with.

    Source: ``timm.create_model(model, features_only=True)``.

    Args:
        model: a name of ``timm.list_models()``, such as ``resnet18``.
        weights: ``pretrained`` (fetched by timm into its cache), ``random``, or the path of a state dict of
            the whole model, ``.safetensors``.

    Raises:
        ValueError: timm has no such model, it gives no feature maps, or the weights are not to be read.
        UnavailableError: the pretrained weights are neither here nor to be had.
    """

    def __init__(self, model: str, weights: Literal["pretrained", "random"] | Path = "pretrained") -> None:
        super().__init__()
        if not is_model(model):
            raise ValueError(f"timm has no model {model!r}{did_you_mean(model, timm.list_models())}")
        self.network = _network(model, weights)
        self.channels = tuple(self.network.feature_info.channels())
        config = get_pretrained_cfg(model)
        for name, values in (("mean", config.mean), ("deviation", config.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.freeze()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps, finest first."""
        scaled = ((images + 1) / 2 - self.mean) / self.deviation  # a grey image broadcasts to three channels
        return tuple(self.network(scaled))


def _network(model: str, weights: str | Path) -> nn.Module:
    if weights not in ("random", "pretrained"):
        existing(Path(weights))
    if weights == "random" or is_shapes_only():
        return timm.create_model(model, features_only=True)
    try:
        if weights == "pretrained":
            return timm.create_model(model, features_only=True, pretrained=True)
        state = read_state(Path(weights))
        timm.create_model(model).load_state_dict(state)  # whole and strict: for features alone timm is not
        own = {"state_dict": state}
        return timm.create_model(model, features_only=True, pretrained=True, pretrained_cfg_overlay=own)
    except (OSError, RuntimeError) as error:
        if weights != "pretrained":
            raise OptionError(f"{weights} is not of {model}: {error}") from error
        raise UnavailableError(
            f"the weights of {model} cannot be fetched ({error}): give weights = 'random' or a file's path"
        ) from error
