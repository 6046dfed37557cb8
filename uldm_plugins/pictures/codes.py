"""A quantizer's codes as colours."""

from __future__ import annotations

import matplotlib
import torch
import torch.nn.functional as F
from torch import Tensor

from uldm_core.shapes import height_and_width

COLOURS = "plasma"
"""Its colours differ in lightness, so they stay apart in grey print and for every kind of colour vision."""
_GOLDEN = (5**0.5 - 1) / 2


def code_map(indices: Tensor, size: int | tuple[int, int], codebook_size: int) -> Tensor:
    """Draw which code is where: each code a colour, its place a square without smoothing.

    Args:
        indices: codes in [0, codebook_size), [N, h, w], or [N, Q, h, w] with several codes a place.
        size: height and width of a map in pixels, those of the images as a rule; one number for a square.
        codebook_size: how many codes there are; with the code it decides the colour.

    Returns:
        uint8 [N, 3, H, W]; the maps of several codes a place are side by side, [N, 3, H, Q W].

    Raises:
        ValueError: a code that the codebook does not have.
    """
    codes = indices.long().cpu()
    codes = codes if codes.ndim == 4 else codes.unsqueeze(1)
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < codebook_size:
        raise ValueError(f"codes from {int(codes.min())} to {int(codes.max())}, of {codebook_size}")
    colours = code_colours(codebook_size)[codes]  # [N, Q, h, w, 3]
    maps = colours.permute(0, 1, 4, 2, 3).flatten(0, 1)
    scaled = F.interpolate(maps, height_and_width(size), mode="nearest-exact")
    return torch.cat(scaled.unflatten(0, codes.shape[:2]).unbind(1), dim=3)


def code_colours(codebook_size: int) -> Tensor:
    """Return the colour of each code, uint8 [codebook_size, 3]; of up to 256 codes, no two have the same.

    A code's number means nothing, so neighbours in number get colours far apart: steps of the golden ratio.
    """
    steps = torch.arange(codebook_size, dtype=torch.float64) * _GOLDEN % 1
    places = steps.argsort().argsort() * 255 // max(codebook_size - 1, 1)
    colours = matplotlib.colormaps[COLOURS](places.numpy(), bytes=True)
    return torch.from_numpy(colours[:, :3].copy())
