"""Where networks live."""

from __future__ import annotations

import torch
from torch import nn


def device_of(network: object) -> torch.device:
    """Return where a network's tensors live."""
    tensors = [*network.parameters(), *network.buffers()] if isinstance(network, nn.Module) else []
    return tensors[0].device if tensors else torch.get_default_device()
