"""The contract of denoisers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from uldm_core.errors import UldmError
from uldm_core.protocols import Denoiser
from uldm_core.shapes import height_and_width
from uldm_core.testing import strategies
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import NotApplicable, Skip, expect, expect_close, expect_finite

LIKELY = [(channels, side) for side in (8, 4, 7, 5, 16, 2, 28, 32) for channels in (4, 3, 1, 2, 8, 16)]
SIZES = (4, 5, (4, 6))
"""Sizes that it may refuse to be built for: its patches or levels may not fit."""
TIMES = (0.0, 20.0, 500.0, 501.0, 980.0, 1000.0)
CLASSES = 3
PARAMETERS = 2
EDM_TIMES = (-1.55, -0.8, -0.1, 0.5, 1.1)
"""ln(sigma) / 4 of Karras's noise levels, the conditioning of his denoisers."""


def _inputs(case: Case, denoiser: Denoiser) -> tuple[Tensor, ...]:
    """Draw latents and times; classes [B] and parameters of an augmentation [B, P], if it takes them."""
    latents, time = _latents_and_time(case, denoiser)
    given, count = case.given(), len(time)
    beside = []
    if classes := given.get("classes", 0):
        drawn = case.draw(st.lists(st.integers(0, classes), min_size=count, max_size=count), "condition")
        beside.append(torch.tensor(drawn))
    if parameters := given.get("augmentation", 0):
        beside.append(case.normal(count, parameters, salt=4))
    return latents, time, *beside


def _latents_and_time(case: Case, denoiser: Denoiser) -> tuple[Tensor, Tensor]:
    channels, side, others = _takes(case, denoiser)
    heights = strategies.sides(4, 9) if others == "any" else st.just(side)
    widths = {"any": heights, "double": st.sampled_from((side, 2 * side)), "none": st.just(side)}[others]
    shape = case.draw(strategies.image_shapes(st.just(channels), heights, widths), "shape")
    t = case.draw(strategies.timesteps(shape[0]), "t")
    return case.normal(*shape), 100 + 900 * t  # not 0, of which parts are 0 too


def _takes(case: Case, denoiser: Denoiser) -> tuple[int, int, str]:
    """Return the channels and side of latents that it takes, and which other sides it takes as well."""
    channels = case.given().get("channels") or getattr(denoiser, "channels", None)
    side = case.given().get("size") or getattr(denoiser, "size", None)
    likely = [(c, int(side or s)) for c, s in LIKELY if c == (channels or c)]
    candidates = likely or [(int(channels or 0), int(side or 8))]

    def works(shape: tuple[int, int]) -> None:
        with torch.no_grad():
            denoiser(torch.zeros(2, shape[0], shape[1], shape[1]), torch.tensor([1.0, 500.0]))

    found = case.subject.found(f"latents of {channels} {side}", candidates, works)
    return *found, "none" if side else _takes_others(case, denoiser, *found)


def _takes_others(case: Case, denoiser: Denoiser, channels: int, side: int) -> str:
    """Return ``any``, ``double`` (it halves the sides, and takes no odd ones) or ``none``."""
    others = {"any": (side + 1, side - 1), "double": (side, 2 * side)}

    def works(which: str) -> None:
        if which in others:
            with torch.no_grad():
                denoiser(torch.zeros(1, channels, *others[which]), torch.ones(1))

    return str(case.subject.found(f"other sides than {side}", (*others, "none"), works))


def _call(denoiser: Denoiser, latents: Tensor, time: Tensor, *beside: Tensor) -> list[Tensor]:
    """Call it by the time alone, and with the classes [B] and parameters [B, P] that there are beside it.

    Checks that scale inputs have made fractions of classes.
    """
    condition = next((given.long() for given in beside if given.ndim == 1), None)
    augmentation = tuple(given for given in beside if given.ndim == 2)
    calls = [
        (),
        *([(condition,)] if condition is not None else []),
        *([(condition, *augmentation)] if augmentation else []),
    ]
    return [denoiser(latents, time, *given) for given in calls]


def _in_full(denoiser: Denoiser, latents: Tensor, time: Tensor, *beside: Tensor) -> list[Tensor]:
    """Call it for latents, times and classes of every sort: experts take part in some of them only."""
    times = (torch.full_like(time, t) for t in (0.0, 125.0, 375.0, 625.0, 875.0, 1000.0))
    every = zip((time, *times), (1.0, -1.0, 0.3, 3.0, -0.3, -3.0, 1.0), strict=True)
    known = _known_classes(denoiser, latents, time) if beside else 1
    return [
        each
        for shift, (t, scale) in enumerate(every)
        for each in _call(
            denoiser,
            latents * scale,
            t,
            *((given.long() + shift) % known if given.ndim == 1 else given for given in beside),
        )
    ]


def _known_classes(denoiser: Denoiser, latents: Tensor, time: Tensor) -> int:
    """Return how many classes it takes, "no class" among them: unknown ones it refuses."""
    for index in (3, 2, 1):
        try:
            with torch.no_grad():
                denoiser(latents, time, torch.full((len(latents),), index))
        except Exception:  # of this class or what comes of it
            continue
        return index + 1
    return 1


contract = Contract(
    options={
        "channels": st.sampled_from((2, 4)),
        "size": st.just(8),
        "classes": st.sampled_from((3, 2, 1)),
        "augmentation": st.sampled_from((2, 1)),
    },
    inputs=_inputs,
    call=_call,
    in_full=_in_full,
)


def _examples(case: Case) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
    """Yield denoisers, latents and conditioning: as drawn; in two samples of odd, oblong and small sides."""
    denoiser = case.module().eval()
    yield denoiser, *_latents_and_time(case, denoiser)
    channels, side, others = _takes(case, denoiser)
    oblong = {"any": [(7, 5), (4, 6)], "double": [(side, 2 * side)], "none": [(side, side)]}
    for sides in oblong[others]:
        yield denoiser, *_two(case, channels, *sides)
    for size in SIZES if case.subject.inferred("size") else ():
        try:
            other = case.module(size=size).eval()
        except Exception:  # not of this size
            continue
        yield other, *_two(case, channels, *height_and_width(size))


def _two(case: Case, channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    return case.normal(2, channels, height, width), torch.tensor([300.0, 700.0])


@contract.check
def latents_shape(case: Case) -> None:
    """The prediction is finite and has the latents' shape, odd sides included."""
    for denoiser, latents, conditioning in _examples(case):
        prediction = denoiser(latents, conditioning)
        expect(prediction.shape == latents.shape, f"{list(latents.shape)} becomes {list(prediction.shape)}")
        expect_finite(prediction, "the prediction")


@contract.check
def distinguishes_times(case: Case) -> None:
    """The prediction depends on the time, in every sample on its own, and not only near one end.

    The noise scheduler decides the conditioning: 1,000 steps, or the logarithm of the noise, which is small
    and falls below 0. A denoiser that knows steps only must fail at the others, not take them all for one.
    """
    denoiser = case.module().eval()
    latents, _ = _latents_and_time(case, denoiser)
    _expect_apart(denoiser, latents, TIMES)
    try:
        with torch.no_grad():
            denoiser(latents, torch.full((len(latents),), EDM_TIMES[0]))
    except Exception:  # it knows steps only, and says so
        return
    _expect_apart(denoiser, latents, EDM_TIMES)


def _expect_apart(denoiser: nn.Module, latents: Tensor, times: tuple[float, ...]) -> None:
    with torch.no_grad():
        answers = [denoiser(latents, torch.full((len(latents),), t)) for t in times]
    for (early, late), pair in zip(pairwise(answers), pairwise(times), strict=True):
        gaps = (early - late).abs().amax((1, 2, 3))
        expect(
            bool((gaps > 1e-7).all()),
            f"at {pair[0]:g} and at {pair[1]:g} the prediction is the same",
        )


@contract.check
def every_latent_counts(case: Case) -> None:
    """Every value of the latents influences the prediction: no channel or border is cut off."""
    for denoiser, latents, conditioning in _examples(case):
        given = latents.clone().requires_grad_()
        prediction = denoiser(given, conditioning)
        (prediction * case.normal(*prediction.shape, salt=1)).sum().backward()
        expect(given.grad is not None, "the prediction does not depend on the latents")
        reached = torch.zeros(1) if given.grad is None else given.grad.abs().sum(0) > 0
        expect(
            bool(reached.all()),
            f"{int((~reached).sum())} of {reached.numel()} latent values have no influence",
        )


@contract.check
def predicts_everywhere(case: Case) -> None:
    """Every value of the prediction follows from the latents and their places: no border is constant."""
    for denoiser, latents, conditioning in _examples(case):
        others = case.normal(*latents.shape, salt=2)
        with torch.no_grad():
            straight, turned = denoiser(latents, conditioning), denoiser(latents.flip(3), conditioning)
        gap = (straight - turned).abs().max().item()
        expect(gap > 1e-5 * straight.abs().max().item(), "turned round, the latents give the same prediction")
        with torch.no_grad():
            gaps = [
                (denoiser(scale * latents, conditioning) - denoiser(others, conditioning)).abs().amax(0)
                for scale in (1.0, -2.0)
            ]
        moved = torch.stack(gaps).amax(0) > 0
        expect(
            bool(moved.all()),
            f"latents {list(latents.shape)}: {int((~moved).sum())} of {moved.numel()} predicted values are "
            "the same for others",
        )


@contract.check
def learns(case: Case) -> None:
    """A few steps on one batch lower its error."""
    denoiser = case.module().train()
    latents, conditioning = _latents_and_time(case, denoiser)
    x, t = (torch.cat([one, one]) for one in (latents, conditioning))
    target = 0.5 * x - 0.3
    optimizer = torch.optim.Adam(denoiser.parameters(), 1e-3)
    errors = []
    for _ in range(12):
        error = (denoiser(x, t) - target).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    expect(
        min(errors[-3:]) < errors[0], f"after 12 steps the error is {errors[-1]:.3g}, it was {errors[0]:.3g}"
    )


def _with_classes(case: Case, classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a denoiser of so many classes, with latents and times for it."""
    if not case.subject.inferred("classes"):
        raise NotApplicable("it has no option classes")
    denoiser = case.module(classes=classes).eval()
    return denoiser, *_latents_and_time(case, denoiser)


def _of_class(denoiser: nn.Module, latents: Tensor, time: Tensor, index: int) -> Tensor:
    with torch.no_grad():
        prediction: Tensor = denoiser(latents, time, torch.full((len(time),), index))
    return prediction


@contract.check
def distinguishes_classes(case: Case) -> None:
    """The prediction depends on the class, in every sample, and on there being one."""
    denoiser, latents, time = _with_classes(case, CLASSES)
    answers = [_of_class(denoiser, latents, time, index) for index in range(CLASSES + 1)]
    for first, second in combinations(range(CLASSES + 1), 2):
        gaps = (answers[first] - answers[second]).abs().amax((1, 2, 3))
        names = [f"class {index}" if index < CLASSES else "no class" for index in (first, second)]
        expect(bool((gaps > 1e-7).all()), f"of {' and '.join(names)} the prediction is the same")


@contract.check
def none_is_no_class(case: Case) -> None:
    """Without a condition it predicts what it does for the index beyond the classes: both mean "no class"."""
    denoiser, latents, time = _with_classes(case, CLASSES)
    wanted = _of_class(denoiser, latents, time, CLASSES)
    for name, arguments in (("no condition", ()), ("None", (None,))):
        with torch.no_grad():
            actual = denoiser(latents, time, *arguments)
        expect_close(actual, wanted, f"of {name} it predicts otherwise than of index {CLASSES}")


@contract.check
def refuses_unknown_classes(case: Case) -> None:
    """An index beyond "no class", or below 0, raises an error: it would be taken for another class."""
    denoiser, latents, time = _with_classes(case, CLASSES)
    for index in (CLASSES + 1, -1):
        expect(_refuses(denoiser, latents, time, index), f"of {CLASSES} classes it takes index {index}")


@contract.check
def takes_none_without_classes(case: Case) -> None:
    """Built without classes it raises an error when it is given one, which would have no effect unnoticed."""
    try:
        denoiser, latents, time = _with_classes(case, 0)
    except UldmError:
        raise Skip("it cannot be built without classes") from None
    expect(_refuses(denoiser, latents, time, 1), "built without classes it takes class 1")


def _refuses(denoiser: nn.Module, latents: Tensor, time: Tensor, index: int) -> bool:
    try:
        _of_class(denoiser, latents, time, index)
    except Exception:
        return True
    return False


def _with_augmentation(case: Case, parameters: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a denoiser of so many parameters of an augmentation, with latents and times for it."""
    if not case.subject.inferred("augmentation"):
        raise NotApplicable("it has no option augmentation")
    denoiser = case.module(augmentation=parameters).eval()
    return denoiser, *_latents_and_time(case, denoiser)


def _of_parameters(denoiser: nn.Module, latents: Tensor, time: Tensor, *parameters: float) -> Tensor:
    with torch.no_grad():
        given = torch.tensor([parameters]).expand(len(time), -1)
        prediction: Tensor = denoiser(latents, time, None, given)
    return prediction


@contract.check
def distinguishes_augmentations(case: Case) -> None:
    """The prediction depends on each parameter of an augmentation, in every sample, and on its sign."""
    denoiser, latents, time = _with_augmentation(case, PARAMETERS)
    values = ((0.0, 0.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
    answers = [_of_parameters(denoiser, latents, time, *given) for given in values]
    for first, second in combinations(range(len(values)), 2):
        gaps = (answers[first] - answers[second]).abs().amax((1, 2, 3))
        names = f"of parameters {values[first]} and {values[second]}"
        expect(bool((gaps > 1e-7).all()), f"{names} the prediction is the same")


@contract.check
def none_is_no_augmentation(case: Case) -> None:
    """Without parameters it predicts what it does for zeros: both mean an image as it is."""
    denoiser, latents, time = _with_augmentation(case, PARAMETERS)
    wanted = _of_parameters(denoiser, latents, time, *PARAMETERS * (0.0,))
    with torch.no_grad():
        for name, arguments in (("no parameters", ()), ("None", (None, None))):
            actual = denoiser(latents, time, *arguments)
            expect_close(actual, wanted, f"of {name} it predicts otherwise than of zeros")


@contract.check
def refuses_other_parameters(case: Case) -> None:
    """Parameters that it was not made for raise an error: they would have no effect, or that of others."""
    for made in (PARAMETERS, 0):
        try:
            denoiser, latents, time = _with_augmentation(case, made)
        except UldmError:  # it cannot be built without
            continue
        for given in (PARAMETERS + 1, 1):
            what = f"made for {made} parameters of an augmentation it takes {given}"
            expect(_refuses_parameters(denoiser, latents, time, given), what)


def _refuses_parameters(denoiser: nn.Module, latents: Tensor, time: Tensor, count: int) -> bool:
    try:
        _of_parameters(denoiser, latents, time, *count * (0.5,))
    except Exception:
        return True
    return False
