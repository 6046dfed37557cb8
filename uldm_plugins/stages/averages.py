"""Averages of a denoiser's weights that are kept while it is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uldm_core.protocols import Denoiser
from uldm_core.run_folder.files import write_tensors
from uldm_plugins.shared.ema import Decay, averaging, power_function

OF = "of"
"""The key of the hash of the weights that the training left in its denoiser."""
STDS = (0.03, 0.05, 0.1, 0.15)
"""The widths of the averages that ``ema = "post_hoc"`` keeps by default."""


def averages_to_keep(decay: float, std: float | None, stds: Sequence[float]) -> dict[str, Decay]:
    """Return the averages to keep, by name: ``ema_STD`` of each of several widths, or ``ema`` alone."""
    return {f"ema_{each}": power_function(each) for each in stds} or {"ema": averaging(decay, std)}


def write_averages(path: Path, averages: Mapping[str, Sequence[Tensor]], denoiser: Denoiser) -> None:
    """Write the parameters of averages, in their order, as ``NAME.NUMBER``; and whose they are, as ``OF``."""
    named = {
        f"{name}.{number}": parameter.cpu()
        for name, parameters in averages.items()
        for number, parameter in enumerate(parameters)
    }
    write_tensors(path, {**named, OF: digest_of_weights(denoiser)})


def digest_of_weights(denoiser: Denoiser) -> Tensor:
    """Return a hash of a denoiser's parameters, uint8 [32]."""
    found = hashlib.sha256()
    for parameter in denoiser.parameters():
        found.update(parameter.detach().float().cpu().contiguous().numpy().data)
    return torch.from_numpy(np.frombuffer(found.digest(), np.uint8).copy())
