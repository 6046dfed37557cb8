"""The contract of losses between a prediction and a target."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from uldm_core.testing import strategies
from uldm_core.testing.case import Case
from uldm_core.testing.contract import Contract, Skip, expect, expect_close, expect_finite

SIDES = st.sampled_from((32, 28))


def _images(case: Case, loss: Any) -> tuple[Tensor, Tensor]:
    channels = strategies.channel_counts()
    shape = case.draw(strategies.image_shapes(channels, SIDES, SIDES, strategies.batch_sizes(1, 2)), "shape")
    return case.images(shape), case.normal(*shape, salt=1).div(2).clamp(-1, 1)


contract = Contract(inputs=_images, per_sample=False, same_dtype=False)


def _built(case: Case) -> tuple[Any, Tensor, Tensor]:
    loss = case.build()
    return loss, *_images(case, loss)


def _distance(case: Case) -> tuple[Any, Tensor, Tensor]:
    loss, prediction, target = _built(case)
    if not getattr(loss, "distance", True):
        raise Skip("it declares that it is no distance")
    return loss, prediction, target


def _gradient(loss: Any, prediction: Tensor, target: Tensor) -> Tensor:
    given = prediction.clone().requires_grad_()
    value = loss(given, target)
    expect(value.requires_grad, "the loss has no gradient")
    (gradient,) = torch.autograd.grad(value, given, allow_unused=True)
    expect(gradient is not None, "no gradient reaches the prediction")
    return gradient


@contract.check
def scalar(case: Case) -> None:
    """It is one finite number, for grey and RGB images, blank ones too."""
    loss, prediction, target = _built(case)
    for first, second in ((prediction, target), (torch.ones_like(target), -torch.ones_like(target))):
        value = loss(first, second)
        expect(isinstance(value, Tensor) and value.ndim == 0, "it is no scalar tensor")
        expect_finite(value, "the loss")


@contract.check
def gradient_reaches_prediction(case: Case) -> None:
    """Its gradient reaches the prediction, finite and not zero: without it, it only measures."""
    loss, prediction, target = _built(case)
    gradient = _gradient(loss, prediction, target)
    expect_finite(gradient, "the gradient")
    for sample in gradient:
        expect(bool(sample.abs().sum() > 0), "the gradient of a whole image is zero")


@contract.check
def gradient_descends(case: Case) -> None:
    """A small step against the gradient lowers it: the gradient is the loss's own."""
    loss, prediction, target = _built(case)
    gradient = _gradient(loss, prediction, target)
    before = loss(prediction, target).item()
    length = gradient.norm().clamp(min=1e-12)
    trials = (loss(prediction - step * gradient / length, target).item() for step in (0.3, 0.1, 0.03))
    expect(min(trials) < before, "no small step against the gradient lowers the loss")


@contract.check
def finite_gradient_at_equality(case: Case) -> None:
    """Its gradient is finite where prediction and target are equal, blank images too: no sqrt(0)."""
    loss, prediction, _ = _built(case)
    blank = torch.zeros_like(prediction)
    for images in (prediction, blank, blank - 1):
        expect_finite(_gradient(loss, images, images.clone()), "the gradient at equality")


@contract.check
def zero_at_equality(case: Case) -> None:
    """A distance of an image to itself is zero."""
    loss, prediction, _ = _distance(case)
    value = loss(prediction, prediction.clone()).item()
    expect(abs(value) <= 1e-5, f"the distance of an image to itself is {value:.3g}")


@contract.check
def positive_elsewhere(case: Case) -> None:
    """A distance of two different images is above zero."""
    loss, prediction, target = _distance(case)
    for first, second in ((prediction, target), (target, prediction)):
        value = loss(first, second).item()
        expect(value > 1e-6, f"the distance of two different images is {value:.3g}")


@contract.check
def symmetric(case: Case) -> None:
    """Where it declares ``symmetric = True``, prediction and target may change places."""
    loss, prediction, target = _built(case)
    if not getattr(loss, "symmetric", False):
        raise Skip("it does not declare that it is symmetric")
    expect_close(loss(target, prediction), loss(prediction, target), "it is not symmetric", rtol=1e-3)


@contract.check
def averaged_over_batch(case: Case) -> None:
    """A batch of copies costs what one image costs: else its weight follows the batch size."""
    loss, prediction, target = _built(case)
    one = loss(prediction[:1], target[:1])
    copies = loss(prediction[:1].repeat(3, 1, 1, 1), target[:1].repeat(3, 1, 1, 1))
    expect_close(copies, one, "three copies of an image cost something else than the image", rtol=1e-3)


@contract.check
def averaged_over_places(case: Case) -> None:
    """An image tiled twice each way costs about what it costs: else its weight follows the size."""
    loss, prediction, target = _built(case)
    one = loss(prediction, target).item()
    four = loss(prediction.repeat(1, 1, 2, 2), target.repeat(1, 1, 2, 2)).item()
    expect(abs(four) <= 2.5 * abs(one) + 1e-6, f"the image costs {one:.3g}, tiled twice each way {four:.3g}")


@contract.check
def target_untouched(case: Case) -> None:
    """It does not write into prediction or target."""
    loss, prediction, target = _built(case)
    kept = prediction.clone(), target.clone()
    loss(prediction, target)
    same = torch.equal(prediction, kept[0]) and torch.equal(target, kept[1])
    expect(same, "it writes into its input")
