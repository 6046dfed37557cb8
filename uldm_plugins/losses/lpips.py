"""Learned perceptual image patch similarity, on any backbone."""

from __future__ import annotations

from torch import Tensor

from uldm_core import use
from uldm_core.protocols import Backbone
from uldm_plugins.nn.perceptual import Heads, PerceptualDistance


class LPIPS(PerceptualDistance):
    """Distance of two images in a backbone's features, normalised to unit length at each place.

    d = sum over layers of mean over places of sum over channels w_c (f0 - f1)^2. The weights w_c are the
    published heads, version 0.1, where the backbone has some (vgg16, alexnet, squeezenet: they ship with
    uldm), and 1 / C for every other one. ``distances()`` gives it for each pair, ``maps()`` at each pixel.

    Source: Zhang et al. 2018 (arXiv 1801.03924), ``lpips.LPIPS``.

    Args:
        backbone: the feature network.
        normalize: images are in [0, 1] rather than in [-1, 1].
        heads: ``published``, ``even`` (1 / C), or ``auto``: published if there are some, else even, with a
            line in the log.

    Raises:
        ValueError: ``heads = "published"`` and the backbone has none.
    """

    def __init__(
        self, backbone: Backbone = use("vgg16"), normalize: bool = False, heads: Heads = "auto"
    ) -> None:
        super().__init__(backbone, normalize, heads)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean distance of images [B, 1 or 3, H, W], a scalar."""
        return self.distances(prediction, target).mean()
