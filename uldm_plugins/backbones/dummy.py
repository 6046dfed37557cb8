"""A backbone without weights, for tests and first tries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from uldm_plugins.nn.frozen import Frozen
from uldm_plugins.shared.images import refuse_channels

_SCALES = 3


class Dummy(Frozen):
    """Colours and edges at three scales: nothing learned, nothing random, nothing fetched.

    Maps of images [B, 1 or 3, H, W] in [-1, 1] at full, half and quarter size, six channels each: the
    three colours, horizontal and vertical differences of the grey image, and a constant one, without which
    a dark place and a bright one would have features of the same direction.
    """

    channels = (6,) * _SCALES
    edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[-1.0, 0.0, 1.0]] * 3) / 6
        edges = torch.stack([across, across.T]).unsqueeze(1)
        self.register_buffer("edges", edges, persistent=False)
        self.freeze()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the three maps, finest first; raises ``ValueError`` unless images are grey or RGB."""
        refuse_channels(images, "dummy")
        images = images.expand(-1, 3, -1, -1)
        maps = []
        for scale in range(_SCALES):
            images = F.avg_pool2d(images, 2, ceil_mode=True) if scale else images
            grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
            edges = F.conv2d(grey, self.edges.to(grey))
            maps.append(torch.cat([images, edges, torch.ones_like(grey[:, :, 1:-1, 1:-1])], 1))
        return tuple(maps)
