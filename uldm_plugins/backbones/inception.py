"""The Inception network that FID is measured with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from uldm_core import Exists
from uldm_core.protocols import RequiredFile
from uldm_core.shapes import is_shapes_only
from uldm_plugins.nn.frozen import Frozen
from uldm_plugins.shared.images import images_at_a_time, refuse_channels, to_uint8
from uldm_plugins.shared.pretrained import existing, published, published_file, read_state

_FEATURES = "2048"
_WITHOUT = "give weights = the path of that file"
_SIZE = 299


class Inception(Frozen):
    """Inception v3 as the original FID has it: TensorFlow's weights and resizing, by torch-fidelity.

    Images [B, 1 or 3, H, W] in [-1, 1] of any size are rounded to bytes, as saved images are, and resized
    to 299x299. One map, [B, 2048, 1, 1].

    Source: Szegedy et al. 2016 (arXiv 1512.00567); ``torch_fidelity.FeatureExtractorInceptionV3``.

    Args:
        weights: a file of torch-fidelity's weights whose name carries the start of its SHA-256; by default
            the published one, fetched into the torch hub cache.
        auto_download: whether the network may be used.

    Raises:
        UnavailableError: the weights are neither here nor to be had.
        ValueError: the file is damaged.
    """

    channels = (2048,)

    def __init__(self, weights: Annotated[Path, Exists()] | None = None, auto_download: bool = True) -> None:
        super().__init__()
        given = None if weights is None else existing(Path(weights))
        path = given or published(URL_INCEPTION_V3, auto_download=auto_download, without=_WITHOUT)
        if is_shapes_only():  # torch-fidelity builds its network from the weights alone
            return
        read_state(path)  # torch-fidelity would run whatever the file holds: read it safely first
        self.network = FeatureExtractorInceptionV3(
            "inception-v3-compat", [_FEATURES], feature_extractor_weights_path=str(path)
        )
        self.freeze()

    @classmethod
    def required_files(cls, options: Mapping[str, Any]) -> list[RequiredFile]:
        """Return the published file, if no other is given."""
        if options["weights"] is not None:
            return []
        auto_download = options["auto_download"]
        return [published_file(URL_INCEPTION_V3, auto_download=auto_download, without=_WITHOUT)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the pooled features as one map.

        Raises:
            ValueError: the images are neither grey nor RGB.
        """
        refuse_channels(images, "inception")
        if is_shapes_only():
            return (images.new_empty(len(images), *self.channels, 1, 1),)
        pixels = to_uint8(images).expand(-1, 3, -1, -1)
        batches = pixels.split(images_at_a_time(_SIZE, _SIZE))  # it is given small images, and enlarges them
        return (torch.cat([self.network(batch)[0] for batch in batches])[:, :, None, None],)
