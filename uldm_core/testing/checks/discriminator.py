"""The contract of discriminators."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from uldm_core.testing import strategies
from uldm_core.testing.case import Case
from uldm_core.testing.contract import NOT_A_MODULE, Contract, Skip, expect, expect_finite
from uldm_core.testing.images import channels_of


def _smallest(discriminator: Any) -> int:
    """Return the smallest side of images that it must judge: its receptive field, 16 at least."""
    return max(16, int(discriminator.receptive_field))


def _images(case: Case, discriminator: Any) -> tuple[Tensor]:
    low = _smallest(discriminator)
    sides = strategies.sides(low, low + 10)
    shape = case.draw(strategies.image_shapes(st.just(_channels(case, discriminator)), sides, sides), "shape")
    return (case.images(shape),)


def _channels(case: Case, discriminator: Any) -> int:
    return channels_of(case, discriminator, discriminator, 2 * _smallest(discriminator))


contract = Contract(options={"in_channels": strategies.channel_counts()}, inputs=_images)


def _built(case: Case) -> tuple[Any, Tensor]:
    """Build a discriminator in eval mode, and draw images for it."""
    discriminator = _set_mode(case.build(), training=False)
    return discriminator, *_images(case, discriminator)


def _set_mode(discriminator: Any, *, training: bool) -> Any:
    return discriminator.train(training) if isinstance(discriminator, nn.Module) else discriminator


@contract.check
def logit_shape(case: Case) -> None:
    """Images from the receptive field up give finite logits [B, 1, h, w], one a patch."""
    discriminator, images = _built(case)
    logits = discriminator(images)
    good = logits.ndim == 4 and logits.shape[:2] == (len(images), 1)
    expect(good, f"logits of images {list(images.shape)} have the shape {list(logits.shape)}")
    expect_finite(logits, "a logit")


@contract.check
def receptive_field_true(case: Case) -> None:
    """``receptive_field`` is what the gradient of one logit reaches, in pixels, by measurement."""
    discriminator, _ = _built(case)
    claimed = discriminator.receptive_field
    side = max(48, 2 * claimed)
    measured = max(
        _reach(discriminator.double(), _channels(case, discriminator), side, seed) for seed in (1, 2)
    )
    expect(measured == claimed, f"receptive_field is {claimed}, a logit sees {measured} pixels")


def _reach(discriminator: Any, channels: int, side: int, seed: int) -> int:
    """Return how many pixels across the gradient of the middle logit covers."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(1, channels, side, side, generator=generator, dtype=torch.float64).mul_(2).sub_(1)
    logits = discriminator(images.requires_grad_())
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    seen = (torch.zeros(1) if images.grad is None else images.grad).abs().sum((0, 1)) > 0
    return max(int(seen.any(axis).sum()) for axis in (0, 1))


@contract.check
def judges_images(case: Case) -> None:
    """The generator's step: the verdict's gradient reaches the images, and no frozen parameter."""
    discriminator, images = _built(case)
    _set_mode(discriminator, training=True)
    parameters = list(discriminator.parameters()) if isinstance(discriminator, nn.Module) else []
    for parameter in parameters:
        parameter.requires_grad_(False)
    given = images.clone().requires_grad_()
    logits = discriminator(torch.cat([given, given.flip(-1)]))
    expect(logits.requires_grad, "the logits have no gradient")
    (-logits.mean()).backward()
    reached = given.grad is not None and bool(given.grad.abs().sum() > 0)
    expect(reached, "no gradient reaches the images")
    left = sum(parameter.grad is not None for parameter in parameters)
    expect(not left, f"the generator's step leaves a gradient in {left} of its parameters")


@contract.check
def tells_apart(case: Case) -> None:
    """A few steps on data that is easy to separate widen the gap between real and fake logits."""
    discriminator = _set_mode(case.build(), training=True)
    if not isinstance(discriminator, nn.Module):
        raise Skip(NOT_A_MODULE)
    side, channels = _smallest(discriminator) + 4, _channels(case, discriminator)
    noise = 0.3 * case.normal(8, channels, side, side)
    real, fake = noise[:4] + 0.5, noise[4:] - 0.5
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3)
    gaps = []
    for _ in range(8):
        gap = discriminator(real).mean() - discriminator(fake).mean()
        gaps.append(gap.item())
        optimizer.zero_grad()
        (-gap).backward()
        optimizer.step()
    expect(gaps[-1] > gaps[0] + 1e-3, f"in 8 steps the gap goes from {gaps[0]:.3g} to {gaps[-1]:.3g}")
