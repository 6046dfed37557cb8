"""The contract of adversarial losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from uldm_core.testing.case import Case
from uldm_core.testing.contract import Contract, expect, expect_close, expect_finite

contract = Contract(exercise=lambda case, loss: _exercise(case, loss))


def _sides(loss: Any) -> dict[str, Callable[..., Tensor]]:
    return {"discriminator": loss.discriminator, "generator": lambda real, fake: loss.generator(fake)}


def _logits(case: Case) -> tuple[Tensor, Tensor]:
    shape = (case.batch(), 1, 2, 3)
    return case.normal(*shape), case.normal(*shape, salt=1)


def _exercise(case: Case, loss: Any) -> list[Tensor]:
    """Measure both sides on logits that have a graph behind them."""
    real, fake = (logits.requires_grad_().clone() for logits in _logits(case))
    return [side(real, fake) for side in _sides(loss).values()]


@contract.check
def scalars(case: Case) -> None:
    """Both sides are finite scalars with finite gradients, for undecided, certain and absurd logits."""
    for name, side in _sides(case.build()).items():
        for scale in (0.0, 1.0, 100.0):
            real, fake = (scale * logits for logits in _logits(case))
            fake.requires_grad_()
            value = side(real, fake)
            expect(value.ndim == 0, f"the {name}'s loss has the shape {list(value.shape)}")
            expect_finite(value, f"the {name}'s loss for logits of about {scale:g}")
            (gradient,) = torch.autograd.grad(value, fake, allow_unused=True)
            expect(gradient is not None, f"the {name}'s loss does not depend on fake logits")
            if gradient is not None:
                expect_finite(gradient, f"the {name}'s gradient for logits of about {scale:g}")


@contract.check
def discriminator_direction(case: Case) -> None:
    """The discriminator's loss falls as real logits rise and as fake ones fall."""
    loss = case.build()
    real = torch.full((case.batch(), 1, 2, 2), 0.5, requires_grad=True)
    fake = torch.full((case.batch(), 1, 2, 2), 0.5, requires_grad=True)
    up, down = torch.autograd.grad(loss.discriminator(real, fake), (real, fake), allow_unused=True)
    expect(up is not None and bool((up < 0).all()), "it does not fall as real logits rise from 0.5")
    expect(down is not None and bool((down > 0).all()), "it does not fall as fake logits fall from 0.5")


@contract.check
def generator_direction(case: Case) -> None:
    """The generator's loss falls as fake logits rise, and fastest where it loses: it does not saturate."""
    loss = case.build()
    slopes = []
    for value in (-2.0, 0.0):
        fake = torch.full((case.batch(), 1, 2, 2), value, requires_grad=True)
        (slope,) = torch.autograd.grad(loss.generator(fake), fake, allow_unused=True)
        expect(
            slope is not None and bool((slope < 0).all()),
            f"it does not fall as fake logits rise from {value:g}",
        )
        slopes.append(0.0 if slope is None else slope.sum().item())
    expect(slopes[0] <= slopes[1] * 0.99, "its gradient fades where the discriminator is sure: it saturates")


@contract.check
def averaged(case: Case) -> None:
    """Both sides are means over batch and patches: else their weight follows the size."""
    real, fake = _logits(case)
    for name, side in _sides(case.build()).items():
        more = side(real.repeat(3, 1, 2, 1), fake.repeat(3, 1, 2, 1))
        expect_close(more, side(real, fake), f"the {name}'s loss changes with the number of logits")


@contract.check
def real_and_fake_balanced(case: Case) -> None:
    """Real and fake count alike however many there are of each: each is averaged by itself."""
    loss = case.build()
    real, fake = _logits(case)
    more = loss.discriminator(real.repeat(4, 1, 1, 1), fake)
    expect_close(more, loss.discriminator(real, fake), "more copies of the real logits change the loss")
