"""The feature maps of timm's models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from timm.models import get_pretrained_cfg, is_model
from torch import Tensor

from uldm_core.errors import OptionError, UnavailableError, did_you_mean
from uldm_core.protocols import RequiredFile
from uldm_core.shapes import is_shapes_only
from uldm_plugins.nn.frozen import Frozen
from uldm_plugins.shared.images import refuse_channels
from uldm_plugins.shared.pretrained import WITHOUT, existing, read_state


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

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: str, weights: Literal["pretrained", "random"] | Path = "pretrained") -> None:
        super().__init__()
        if not is_model(model):
            raise ValueError(f"timm has no model {model!r}{did_you_mean(model, timm.list_models())}")
        config = get_pretrained_cfg(model)
        if weights == "pretrained" and (config is None or not config.has_weights):
            raise ValueError(f"timm has no weights of {model}: give another model, or weights = 'random'")
        self.network = _network(model, weights)
        self.channels: tuple[int, ...] = tuple(self.network.feature_info.channels())
        if config is None:
            raise ValueError(f"timm does not know the mean and deviation that {model} was trained with")
        for name, values in (("mean", config.mean), ("deviation", config.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.freeze()

    @classmethod
    def required_files(cls, options: Mapping[str, Any]) -> list[RequiredFile]:
        """Return the file that timm would fetch, if pretrained weights are wanted and it is known."""
        config = get_pretrained_cfg(options["model"]) if is_model(options["model"]) else None
        if options["weights"] != "pretrained" or config is None or not config.has_weights:
            return []
        return [_file_of(config)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps, finest first; raises ``ValueError`` unless images are grey or RGB."""
        refuse_channels(images, "a model of timm's")
        scaled = ((images + 1) / 2 - self.mean) / self.deviation  # a grey image broadcasts to three channels
        return tuple(self.network(scaled))


def _file_of(config: Any) -> RequiredFile:
    """Return the file with a model's weights: in the cache of Hugging Face's hub, or else in torch's."""
    if not config.hf_hub_id:
        name = config.url.rpartition("/")[2]
        path = Path(torch.hub.get_dir()) / "checkpoints" / name
        return RequiredFile(name, path, config.url, without=WITHOUT)
    repository, _, revision = config.hf_hub_id.partition("@")
    names = [config.hf_hub_filename or "pytorch_model.bin", "model.safetensors"]
    cached = (try_to_load_from_cache(repository, name, revision=revision or None) for name in names)
    cache = Path(constants.HF_HUB_CACHE)
    found = next((Path(path) for path in cached if isinstance(path, str)), cache / "absent" / names[-1])
    return RequiredFile(
        names[-1],
        found,
        f"{constants.ENDPOINT}/{repository}",
        without=WITHOUT,
        obstacle="HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "",
        by_hand=f"fetch it on a machine with a network (hf download {repository}) and copy it to {cache}",
    )


def _network(model: str, weights: str | Path) -> Any:
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
