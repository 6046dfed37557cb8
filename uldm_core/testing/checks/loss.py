"""The contract of losses between a prediction and a target."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from hypothesis import strategies as st
from torch import Tensor

from uldm_core.protocols import Loss
from uldm_core.testing import strategies
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import Skip, expect, expect_close, expect_finite
from uldm_core.testing.images import accepted, check_refused
from uldm_core.testing.tensors import as_module, copy_of_state, set_mode

SHAPES = ((1, 32, 32), (3, 32, 32), (3, 28, 32), (1, 28, 28), (3, 37, 29), (1, 29, 41))
LARGER = tuple((channels, side, side + 4) for side in (64, 256) for channels in (1, 3))


def _shapes(case: Case, loss: Loss) -> list[tuple[int, int, int]]:
    """Return channels, height and width of images that the loss takes."""

    def call(*shape: int) -> None:
        loss(torch.zeros(1, *shape), torch.zeros(1, *shape))

    def found() -> Iterator[list[tuple[int, int, int]]]:
        smallest = getattr(loss, "smallest_size", 1)
        likely = [(c, max(smallest, height), max(smallest, width)) for c, height, width in SHAPES]
        try:
            yield accepted(call, likely)
        except ValueError:
            yield accepted(call, LARGER)

    taken: list[tuple[int, int, int]] = case.subject.found("shapes", found(), len)
    return taken


def _images(case: Case, loss: Loss) -> tuple[Tensor, Tensor]:
    shape = (case.batch(1, 2), *case.draw(st.sampled_from(_shapes(case, loss)), "shape"))
    return _pair(case, shape)


def _pair(case: Case, shape: strategies.Shape) -> tuple[Tensor, Tensor]:
    return case.images(shape), case.normal(*shape, salt=1).div(2).clamp(-1, 1)


contract = Contract(inputs=_images, per_sample=False, same_dtype=False)


def _built(case: Case) -> tuple[Loss, Tensor, Tensor]:
    loss = case.copy()
    return loss, *_images(case, loss)


def _distance(case: Case) -> tuple[Loss, Tensor, Tensor]:
    loss, prediction, target = _built(case)
    if not getattr(loss, "distance", True):
        raise Skip("it declares that it is no distance")
    return loss, prediction, target


def _gradient(loss: Loss, prediction: Tensor, target: Tensor) -> Tensor:
    given = prediction.clone().requires_grad_()
    value = loss(given, target)
    expect(value.requires_grad, "the loss has no gradient")
    (gradient,) = torch.autograd.grad(value, given, allow_unused=True)
    expect(gradient is not None, "no gradient reaches the prediction")
    return gradient


@contract.check
def scalar(case: Case) -> None:
    """It is one finite number of the images' dtype, for grey and RGB, square and odd images, blank ones too.

    Images that it cannot take are refused with a ``ValueError``.
    """
    loss = case.copy()
    for shape in _shapes(case, loss):
        prediction, target = _pair(case, (2, *shape))
        for first, second in ((prediction, target), (torch.ones_like(target), -torch.ones_like(target))):
            value = loss(first, second)
            expect(isinstance(value, Tensor) and value.ndim == 0, "it is no scalar tensor")
            expect_finite(value, f"the loss of images of {list(shape)}")
            expect(value.dtype == first.dtype, f"images are {first.dtype}, the loss is {value.dtype}")


@contract.check
def small_images_refused(case: Case) -> None:
    """Images smaller than ``smallest_size``, where it declares one, are refused with a ``ValueError``."""
    loss = case.copy()
    channels = _shapes(case, loss)[0][0]

    def call(height: int, width: int) -> None:
        loss(*_pair(case, (1, channels, height, width)))

    check_refused(getattr(loss, "smallest_size", None), call)


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
def finite_gradient_at_extremes(case: Case) -> None:
    """Its gradient is finite for black against white, and for blank images against others: no log(0)."""
    loss, prediction, _ = _built(case)
    black, grey, white = (torch.full_like(prediction, value) for value in (-1, 0, 1))
    for first, second in (
        (black, white),
        (white, black),
        (grey, white),
        (black, prediction),
        (prediction, white),
        (prediction, grey),
    ):
        expect_finite(_gradient(loss, first, second), "the gradient for blank images against others")


@contract.check
def whole_range(case: Case) -> None:
    """Dark images differ from each other, and bright ones: it takes [-1, 1], and clips neither half away."""
    loss, prediction, target = _built(case)
    for name, sign in (("dark", -1), ("bright", 1)):
        first, second = (sign * (0.1 + 0.9 * images.abs()) for images in (prediction, target))
        changes = abs(loss(first, second).item() - loss(second, second).item()) > 1e-7
        expect(changes, f"two {name} images are the same to it: images are in [-1, 1]")


@contract.check
def answers_as_in_eval_mode(case: Case) -> None:
    """A module, as it is built, answers as in eval mode: nobody sets the mode of a loss."""
    loss, prediction, target = _built(case)
    state = copy_of_state(as_module(loss))
    torch.manual_seed(5)
    value = loss(prediction, target)
    for name, tensor in copy_of_state(loss).items():
        expect(torch.equal(tensor, state[name]), f"{name} changes as it is used")
    evaluated = set_mode(loss, training=False)(prediction, target)
    expect_close(value, evaluated, "in eval mode it gives another value", rtol=1e-3)


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
def batch_between_its_images(case: Case) -> None:
    """A batch costs about what its images cost each: their differences do not cancel out, or add up."""
    loss, prediction, target = _distance(case)
    shape = (3, *prediction.shape[1:])
    prediction, target = case.normal(*shape, salt=2).div(2), case.normal(*shape, salt=3).div(2)
    prediction, target = (images.clamp(-1, 1) for images in (prediction, target))
    places = (torch.full((3,), place) for place in range(3))
    alone = [loss(prediction[copies], target[copies]).item() for copies in places]
    together = loss(prediction, target).item()
    within = 0.75 * min(alone) - 1e-6 <= together <= 1.33 * max(alone) + 1e-6
    range_of = f"{min(alone):.4g} to {max(alone):.4g}"
    expect(within, f"a batch of images that cost {range_of} each costs {together:.4g}")


@contract.check
def whole_image_counts(case: Case) -> None:
    """All of an image counts: each half of wide and of high ones, and each channel."""
    loss = case.copy()
    last = {shape[0]: shape for shape in _shapes(case, loss)}
    for channels, height, width in last.values():
        size = (2 * height, width) if height > width else (height, 2 * width)
        target = case.images((1, channels, *size))
        try:
            wanted = loss(target, target).item()
        except ValueError:
            continue
        for what, part in _parts(target):
            prediction = target.clone()
            other = case.normal(*target.shape, salt=4).clamp(-1, 1)
            prediction[part] = other[part]
            changes = abs(loss(prediction, target).item() - wanted) > 1e-7
            expect(changes, f"the {what} of images of {channels}x{size[0]}x{size[1]} does not count")


def _parts(images: Tensor) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """Yield parts of images and where they are."""
    channels, height, width = images.shape[1:]
    everything = slice(None)
    for which, start in (("first", 0), ("second", 1)):
        rows = slice(start * (height // 2), (start + 1) * (height // 2))
        columns = slice(start * (width // 2), (start + 1) * (width // 2))
        yield f"{which} half of the rows", (everything, everything, rows)
        yield f"{which} half of the columns", (everything, everything, everything, columns)
    for channel in range(channels if channels > 1 else 0):
        yield f"channel {channel}", (everything, slice(channel, channel + 1))


@contract.check
def any_layout(case: Case) -> None:
    """Memory formats and strides of images do not matter: no ``view`` that trusts them."""
    loss = case.copy()
    prediction, target = _pair(case, (2, *max(_shapes(case, loss))))  # a single channel has one layout only
    wanted = loss(prediction, target)
    for laid_out in (_channels_last, _turned):
        for first, second in ((laid_out(prediction), target), (prediction, laid_out(target))):
            expect_close(loss(first, second), wanted, "other strides change the loss", rtol=1e-3)


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _turned(images: Tensor) -> Tensor:
    return images.transpose(-1, -2).contiguous().transpose(-1, -2)


@contract.check
def averaged_over_places(case: Case) -> None:
    """An image tiled three times each way costs about what it costs: else its weight follows the size."""
    loss, prediction, target = _built(case)
    one = loss(prediction, target).item()
    nine = loss(prediction.repeat(1, 1, 3, 3), target.repeat(1, 1, 3, 3)).item()
    about = 0.4 * abs(one) - 1e-6 <= abs(nine) <= 2.5 * abs(one) + 1e-6
    expect(about, f"the image costs {one:.3g}, tiled three times each way {nine:.3g}")


@contract.check
def target_untouched(case: Case) -> None:
    """It does not write into prediction or target."""
    loss, prediction, target = _built(case)
    kept = prediction.clone(), target.clone()
    loss(prediction, target)
    same = torch.equal(prediction, kept[0]) and torch.equal(target, kept[1])
    expect(same, "it writes into its input")
