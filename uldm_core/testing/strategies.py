"""Hypothesis strategies for what components take: shapes, dtypes, images, latents, times.

Tensors are made from a shape, a pattern and a seed, so that a failing example is short to read and to repeat.
Values shrink towards one small, plain sample.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from hypothesis import strategies as st
from torch import Tensor

Shape = tuple[int, int, int, int]
Pattern = Literal["noise", "zeros", "low", "high", "checkerboard", "spike"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)


def seeds() -> st.SearchStrategy[int]:
    """Seeds of random generators."""
    return st.integers(0, 999)


def batch_sizes(low: int = 1, high: int = 4) -> st.SearchStrategy[int]:
    """How many samples a batch has, ``low`` to ``high``."""
    return st.integers(low, high)


def channel_counts() -> st.SearchStrategy[int]:
    """Channels of images: grey or RGB."""
    return st.sampled_from((1, 3))


def sides(low: int = 16, high: int = 32, multiple: int = 1) -> st.SearchStrategy[int]:
    """Heights and widths: multiples of ``multiple``, the first at or above ``low``, up to about ``high``."""
    first = -(-low // multiple)
    return st.integers(first, max(first, high // multiple)).map(lambda count: count * multiple)


@st.composite
def image_shapes(
    draw: st.DrawFn,
    channels: st.SearchStrategy[int] | None = None,
    heights: st.SearchStrategy[int] | None = None,
    widths: st.SearchStrategy[int] | None = None,
    batches: st.SearchStrategy[int] | None = None,
) -> Shape:
    """Shapes [B, C, H, W]; heights and widths are drawn apart."""
    return (
        draw(batch_sizes() if batches is None else batches),
        draw(channel_counts() if channels is None else channels),
        draw(sides() if heights is None else heights),
        draw(sides() if widths is None else widths),
    )


def latent_shapes(channels: int = 4, low: int = 1, high: int = 6) -> st.SearchStrategy[Shape]:
    """Shapes [B, channels, h, w] of latents, each side ``low`` to ``high``."""
    return image_shapes(st.just(channels), sides(low, high), sides(low, high))


def dtypes() -> st.SearchStrategy[torch.dtype]:
    """The dtypes that networks compute in."""
    return st.sampled_from((torch.float32, torch.bfloat16))


def memory_formats() -> st.SearchStrategy[torch.memory_format]:
    """Contiguous or channels_last."""
    return st.sampled_from((torch.contiguous_format, torch.channels_last))


def patterns() -> st.SearchStrategy[Pattern]:
    """What a tensor is filled with."""
    return st.sampled_from(PATTERNS)


@st.composite
def images(draw: st.DrawFn, shapes: st.SearchStrategy[Shape] | None = None) -> Tensor:
    """Images, float32 [B, C, H, W] in [-1, 1], of every pattern."""
    shape = draw(image_shapes() if shapes is None else shapes)
    return fill_images(shape, draw(patterns()), draw(seeds()))


@st.composite
def latents(draw: st.DrawFn, channels: int = 4, scale: float = 1.0) -> Tensor:
    """Latents, float32 [B, channels, h, w], normal with standard deviation ``scale``."""
    return scale * normal(draw(latent_shapes(channels)), draw(seeds()))


@st.composite
def timesteps(draw: st.DrawFn, count: int | None = None) -> Tensor:
    """Times, float32 [count] in [0, 1], both ends among them."""
    number = draw(batch_sizes()) if count is None else count
    times = st.floats(0, 1, width=32, allow_subnormal=False)
    return torch.tensor(draw(st.lists(times, min_size=number, max_size=number)))


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    """Return standard normal values, float32, that only the seed decides."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fill_images(shape: Shape, pattern: Pattern, seed: int) -> Tensor:
    """Return images in [-1, 1] filled with a pattern."""
    return fill(shape, pattern, seed).clamp(-1, 1)


def fill(shape: Shape, pattern: Pattern, seed: int, reach: float = 1.0) -> Tensor:
    """Return a tensor of a pattern; ``low`` is -reach, ``high`` is reach, noise has half that deviation."""
    if pattern == "noise":
        return normal(shape, seed) * reach / 2
    if pattern == "checkerboard":
        rows, columns = torch.arange(shape[2]).view(-1, 1), torch.arange(shape[3])
        return (reach * (1 - 2 * ((rows + columns) % 2).float())).expand(shape).clone()
    value = {"zeros": 0.0, "low": -reach, "high": reach, "spike": 0.0}[pattern]
    tensor = torch.full(shape, value)
    if pattern == "spike":
        tensor[..., shape[2] // 2, shape[3] // 2] = reach
    return tensor
