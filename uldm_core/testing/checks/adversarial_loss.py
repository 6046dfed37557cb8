"""The contract of adversarial losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from uldm_core.protocols import AdversarialLoss
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import expect, expect_close, expect_finite
from uldm_core.testing.tensors import set_mode

SURE = 40.0
"""A logit at which a sigmoid in float32 is 0 or 1."""

contract = Contract(
    inputs=lambda case, loss: _logits(case),
    call=lambda loss, real, fake: [side(real, fake) for side in _sides(loss).values()],
    exercise=lambda case, loss: _exercise(case, loss),
    per_sample=False,
    same_dtype=False,
)


def _built(case: Case) -> AdversarialLoss:
    """Build it, in eval mode if it has one: what follows the logits holds still."""
    loss: AdversarialLoss = case.build()
    return set_mode(loss, training=False)


def _sides(loss: AdversarialLoss) -> dict[str, Callable[..., Tensor]]:
    return {"discriminator": loss.discriminator, "generator": lambda real, fake: loss.generator(fake)}


def _logits(case: Case) -> tuple[Tensor, Tensor]:
    shape = (case.batch(), 1, 2, 3)
    return case.normal(*shape), case.normal(*shape, salt=1)


def _exercise(case: Case, loss: AdversarialLoss) -> list[Tensor]:
    """Measure both sides on logits that have a graph behind them."""
    real, fake = (logits.requires_grad_().clone() for logits in _logits(case))
    return [side(real, fake) for side in _sides(loss).values()]


@contract.check
def scalars(case: Case) -> None:
    """Both sides are finite scalars with finite gradients, for undecided, certain and absurd logits."""
    lone = case.normal(1, 1, 1, 1), case.normal(1, 1, 1, 1, salt=1)
    for name, side in _sides(_built(case)).items():
        for logits in (_logits(case), lone):
            for scale in (0.0, 1.0, 100.0):
                real, fake = (scale * x for x in logits)
                fake.requires_grad_()
                value = side(real, fake)
                expect(value.ndim == 0, f"the {name}'s loss has the shape {list(value.shape)}")
                expect_finite(value, f"the {name}'s loss for logits of about {scale:g}")
                (gradient,) = torch.autograd.grad(value, fake, allow_unused=True)
                expect(gradient is not None, f"the {name}'s loss does not depend on fake logits")
                if gradient is not None:
                    expect_finite(gradient, f"the {name}'s gradient for logits of about {scale:g}")


@contract.check
def logits_unchanged(case: Case) -> None:
    """It writes into no logits: both sides may be given the same ones."""
    loss = _built(case)
    for name, side in _sides(loss).items():
        given = _logits(case)
        kept = tuple(logits.clone() for logits in given)
        side(*given)
        untouched = all(torch.equal(now, before) for now, before in zip(given, kept))
        expect(untouched, f"the {name}'s side writes into its logits")


@contract.check
def low_precision_logits(case: Case) -> None:
    """Logits in bfloat16, as a network under autocast gives them, cost what they cost in float32."""
    low = tuple(logits.to(torch.bfloat16) for logits in _logits(case))
    for name, side in _sides(_built(case)).items():
        wanted, actual = side(*(logits.float() for logits in low)), side(*(logits.clone() for logits in low))
        expect_close(actual, wanted, f"the {name}'s loss of bfloat16 logits", rtol=0.02, atol=0.02)


@contract.check
def discriminator_direction(case: Case) -> None:
    """The discriminator's loss falls as real logits rise and as fake ones fall, also where all is wrong."""
    loss = _built(case)
    slopes = []
    for start, wrong in ((0.5, 0.5), (-SURE, SURE)):
        real, fake = _constant(case, start), _constant(case, wrong)
        up, down = torch.autograd.grad(loss.discriminator(real, fake), (real, fake), allow_unused=True)
        falls, rises = up is not None and bool((up < 0).all()), down is not None and bool((down > 0).all())
        expect(falls, f"it does not fall as real logits rise from {start:g}")
        expect(rises, f"it does not fall as fake logits fall from {wrong:g}")
        slopes.append([slope.abs().sum().item() for slope in (up, down)])
    kept = all(far >= 0.99 * near for far, near in zip(slopes[1], slopes[0]))
    expect(kept, f"its gradient fades where it is all wrong (logits of {SURE:g}): it cannot recover")


def _constant(case: Case, value: float) -> Tensor:
    return torch.full((case.batch(), 1, 2, 2), value, requires_grad=True)


@contract.check
def generator_direction(case: Case) -> None:
    """The generator's loss falls as fake logits rise, and fastest where it loses: it does not saturate."""
    loss = _built(case)
    slopes = []
    for value in (-SURE, -2.0, 0.0):
        fake = _constant(case, value)
        (slope,) = torch.autograd.grad(loss.generator(fake), fake, allow_unused=True)
        falls = slope is not None and bool((slope < 0).all())
        expect(falls, f"it does not fall as fake logits rise from {value:g}")
        slopes.append(slope.sum().item())
    steep = slopes[0] <= slopes[1] * 0.99 and slopes[1] <= slopes[2] * 0.99
    expect(steep, "its gradient fades where the discriminator is sure: it saturates")


@contract.check
def averaged(case: Case) -> None:
    """Both sides are means over batch and patches: else their weight follows the size."""
    real, fake = _logits(case)
    for name, side in _sides(_built(case)).items():
        more = side(real.repeat(3, 1, 2, 1), fake.repeat(3, 1, 2, 1))
        expect_close(more, side(real, fake), f"the {name}'s loss changes with the number of logits")


@contract.check
def real_and_fake_balanced(case: Case) -> None:
    """Real and fake count alike however many there are of each: each is averaged by itself."""
    loss = _built(case)
    real, fake = (torch.cat([logits, 0.5 * logits]) for logits in _logits(case))
    wanted = loss.discriminator(real.clone(), fake.clone())
    for more in ((real.repeat(4, 1, 1, 1), fake), (real, fake.repeat(3, 1, 2, 1))):
        expect_close(loss.discriminator(*more), wanted, "more copies of one side's logits change the loss")
