"""The contract of discriminators."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from uldm_core.protocols import Discriminator
from uldm_core.testing import strategies
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import Broken, expect, expect_finite
from uldm_core.testing.images import channels_of
from uldm_core.testing.tensors import as_module, set_mode

LOOKS = 6
"""Random images in which a patch's edge is looked for."""
TEACHING = 40
"""Steps in which real and fake images of two shades must be separated."""


def _smallest(discriminator: Discriminator) -> int:
    """Return the smallest side of images that it must take: its receptive field, 16 at least."""
    return max(16, int(discriminator.receptive_field))


def _images(case: Case, discriminator: Discriminator) -> tuple[Tensor]:
    low = _smallest(discriminator)
    sides = strategies.sides(low, low + 10)
    shape = case.draw(strategies.image_shapes(st.just(_channels(case, discriminator)), sides, sides), "shape")
    return (case.images(shape),)


def _channels(case: Case, discriminator: Discriminator) -> int:
    side = 2 * _smallest(discriminator)
    return channels_of(case, discriminator, discriminator, side, side)


contract = Contract(options={"in_channels": strategies.channel_counts()}, inputs=_images)


def _built(case: Case) -> tuple[Discriminator, Tensor]:
    """Build a discriminator in eval mode, and draw images for it."""
    discriminator = set_mode(case.copy(), training=False)
    return discriminator, *_images(case, discriminator)


@contract.check
def logit_shape(case: Case) -> None:
    """Images from the receptive field up, of any shape, give finite logits [B, 1, h, w], one a patch."""
    discriminator, images = _built(case)
    height = images.shape[2]
    wide = images[:1].repeat(1, 1, 1, 2 * height)[..., : 2 * height + 1]
    for given in (images, wide, wide.transpose(2, 3)):
        logits = discriminator(given)
        good = logits.ndim == 4 and logits.shape[:2] == (len(given), 1)
        if good and given is not images:
            good = (logits.shape[2] < logits.shape[3]) == (given is wide) and logits.shape[2] != logits.shape[
                3
            ]
        expect(good, f"logits of images {list(given.shape)} have the shape {list(logits.shape)}")
        expect_finite(logits, "a logit")


@contract.check
def receptive_field_true(case: Case) -> None:
    """``receptive_field`` is how far the gradient of one logit reaches, in pixels from end to end."""
    discriminator, _ = _built(case)
    claimed = discriminator.receptive_field
    expect(isinstance(claimed, int), f"receptive_field is {claimed!r}, no whole number")
    side, measured = max(48, 2 * claimed), 0
    for seed in range(LOOKS):  # of one image a ReLU or a maximum may hide the patch's edge
        seen = _seen(case, discriminator, side, _middle, seed)
        measured = max(measured, _span(seen.any(0).any(0)), _span(seen.any(0).any(1)))
        if measured >= claimed:
            break
    expect(measured == claimed, f"receptive_field is {claimed}, a logit sees {measured} pixels")


def _seen(
    case: Case, discriminator: Discriminator, side: int, pick: Callable[[Tensor], Tensor], seed: int = 0
) -> Tensor:
    """Return which pixels of a random image [C, H, W] the gradient of the picked logits reaches."""
    generator = torch.Generator().manual_seed(seed + 1)
    shape = (1, _channels(case, discriminator), side, side)
    images = torch.rand(shape, generator=generator, dtype=torch.float64).mul_(2).sub_(1)
    pick(as_module(discriminator).double()(images.requires_grad_())).backward()
    return (torch.zeros(shape) if images.grad is None else images.grad)[0] != 0


def _middle(logits: Tensor) -> Tensor:
    return logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2]


def _span(touched: Tensor) -> int:
    """Return how far it is from the first that is touched to the last, both counted."""
    places = touched.nonzero().flatten()
    return int(places[-1] - places[0]) + 1 if len(places) else 0


@contract.check
def sees_every_pixel(case: Case) -> None:
    """Every channel, row and column of pixels reaches a logit, but for a border: nothing hides in a hole."""
    discriminator, _ = _built(case)
    field = int(discriminator.receptive_field)
    side = max(48, 2 * field + 16)
    seen = _seen(case, discriminator, side, _weighted)
    for channel, reached in enumerate(seen.flatten(1).any(1).tolist()):
        expect(reached, f"channel {channel} of the images reaches no logit")
    for what, reached in (("row", seen.any(0).any(1)), ("column", seen.any(0).any(0))):
        missed = (~reached[field // 2 : side - field]).nonzero().flatten() + field // 2
        expect(not len(missed), f"{what}s {missed[:4].tolist()} of {side} pixels reach no logit")


def _weighted(logits: Tensor) -> Tensor:
    weights = strategies.normal(tuple(logits.shape), 3).to(logits)
    return (logits * weights).sum()


@contract.check
def logits_in_place(case: Case) -> None:
    """A logit belongs to the patch at its place: logits can be laid over the image, and are no other's."""
    discriminator, _ = _built(case)
    side = max(48, 2 * int(discriminator.receptive_field))
    (y, x), (same_y, right), (below, same_x) = (
        _middle_of(_seen(case, discriminator, side, pick)) for pick in (_first, _end_of_row, _end_of_column)
    )
    rows = right >= x and abs(same_y - y) <= 1 + 0.1 * abs(right - x)
    columns = below >= y and abs(same_x - x) <= 1 + 0.1 * abs(below - y)
    expect(rows, "the logits of a row are not side by side")
    expect(columns, "the logits of a column are not one below another")


def _first(logits: Tensor) -> Tensor:
    return logits[0, 0, 0, 0]


def _end_of_row(logits: Tensor) -> Tensor:
    return logits[0, 0, 0, -1]


def _end_of_column(logits: Tensor) -> Tensor:
    return logits[0, 0, -1, 0]


def _middle_of(seen: Tensor) -> tuple[float, float]:
    """Return the mean row and column of the pixels seen."""
    rows, columns = seen.any(0).nonzero(as_tuple=True)
    if not len(rows):
        raise Broken("a logit in the corner sees no pixel")
    return rows.double().mean().item(), columns.double().mean().item()


@contract.check
def passes_gradients_to_images(case: Case) -> None:
    """The generator's step: the logits' gradient reaches any images, and no frozen parameter."""
    discriminator, images = _built(case)
    set_mode(discriminator, training=True)
    parameters = list(discriminator.parameters()) if isinstance(discriminator, nn.Module) else []
    for parameter in parameters:
        parameter.requires_grad_(False)
    for shade in (0.0, -0.8, 0.8):
        given = (images * (1 - abs(shade)) + shade).requires_grad_()
        logits = discriminator(torch.cat([given, given.flip(-1)]))
        expect(logits.requires_grad, "the logits have no gradient")
        (-logits.mean()).backward()
        reached = given.grad is not None and bool(given.grad.abs().sum() > 0)
        expect(reached, f"no gradient reaches images of about {shade:g}")
    left = sum(parameter.grad is not None for parameter in parameters)
    expect(not left, f"the generator's step leaves a gradient in {left} of its parameters")


@contract.check
def separates_real_and_fake(case: Case) -> None:
    """Taught on data that are easy to separate, its logits are above 0 for real and below for fake images."""
    discriminator = set_mode(case.copy(), training=True)
    parameters = as_module(discriminator).parameters()
    side, channels = _smallest(discriminator) + 4, _channels(case, discriminator)
    noise = case.normal(8, channels, side, side)
    real, fake = (0.1 * noise[:4] + 0.5).clamp(-1, 1), (0.4 * noise[4:] - 0.5).clamp(-1, 1)
    optimizer = torch.optim.Adam(parameters, 2e-3)
    for _ in range(TEACHING):
        above, below = discriminator(real), discriminator(fake)
        if above.mean() > 0 > below.mean():
            return
        optimizer.zero_grad()
        ((1 - above).relu().mean() + (1 + below).relu().mean()).backward()
        optimizer.step()
    raise Broken(
        f"after {TEACHING} steps the mean logit of real images is {above.mean().item():.3g}, "
        f"of fake ones {below.mean().item():.3g}: they must come to lie above and below 0"
    )
