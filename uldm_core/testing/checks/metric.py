"""The contract of metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from uldm_core.testing.case import Case
from uldm_core.testing.contract import Contract, Skip, expect

contract = Contract(exercise=lambda case, metric: _measure(metric, _images(case), _images(case, 1)))
COUNT, SIDE = 40, 28
SAME = 1e-4


def _images(case: Case, salt: int = 0) -> Tensor:
    """Return uint8 images [COUNT, 1, SIDE, SIDE]: blobs of several sizes, with noise."""
    coarse = case.normal(COUNT, 1, 7, 7, salt=salt).repeat_interleave(4, 2).repeat_interleave(4, 3)
    noise = case.normal(COUNT, 1, SIDE, SIDE, salt=salt + 100)
    return ((coarse + 0.2 * noise) * 60 + 100).clamp(0, 255).to(torch.uint8)


def _measure(metric: Any, fake: Tensor, real: Tensor, sizes: tuple[int, ...] = (COUNT,)) -> dict[str, float]:
    metric.reset()
    for batch in real.split(list(sizes)):
        metric.update(batch, real=True)
    for batch in fake.split(list(sizes)):
        metric.update(batch, real=False)
    values: dict[str, float] = metric.compute()
    return values


def _same(one: Mapping[str, float], other: Mapping[str, float], otherwise: str) -> None:
    for name, value in one.items():
        close = math.isclose(value, other[name], rel_tol=SAME, abs_tol=SAME)
        expect(close, f"{otherwise}: {name} is {value:.6g} and {other[name]:.6g}")


@contract.check
def named_floats(case: Case) -> None:
    """``compute`` gives finite floats by name, the same when asked twice; ``description`` says of what."""
    metric = case.build()
    values = _measure(metric, _images(case), _images(case, 1))
    expect(values, "it gives no number")
    for name, value in values.items():
        expect(isinstance(name, str) and isinstance(value, float), f"{name!r} is {value!r}, not a float")
        expect(math.isfinite(value), f"{name} is {value}")
    _same(metric.compute(), values, "computing twice gives two values")
    expect(isinstance(metric.description, Mapping) and metric.description, "its description says nothing")


@contract.check
def cut_independent(case: Case) -> None:
    """How the images are cut into batches does not matter, a batch of one included."""
    metric, fake, real = case.build(), _images(case), _images(case, 1)
    wanted = _measure(metric, fake, real)
    for sizes in ((1, 14, 25), (25, 14, 1), (20, 20)):
        _same(_measure(metric, fake, real, sizes), wanted, f"cut into {sizes}")


@contract.check
def order_independent(case: Case) -> None:
    """The order of the images, and whether real or fake ones come first, does not matter."""
    metric, fake, real = case.build(), _images(case), _images(case, 1)
    wanted = _measure(metric, fake, real)
    _same(_measure(metric, fake.flip(0), real.flip(0)), wanted, "in another order")
    metric.reset()
    metric.update(fake, real=False)
    metric.update(real, real=True)
    _same(metric.compute(), wanted, "with the fake ones first")


@contract.check
def every_image_counts(case: Case) -> None:
    """Every batch counts: half the images replaced, first half or second, changes the numbers."""
    metric, real = case.build(), _images(case)
    half = COUNT // 2
    for odd in (torch.cat([real[:half], 255 - real[half:]]), torch.cat([255 - real[:half], real[half:]])):
        one, other = _measure(metric, odd, real, (half, half)), _measure(metric, real, real)
        _same(one, _measure(metric, odd, real), "in two halves")
        expect(one != other or not metric.compares, "other images give the same numbers")


@contract.check
def perfect_match_best(case: Case) -> None:
    """The real images themselves score best, noise worse. (Lower is better unless ``higher_is_better``.)"""
    metric, real = case.build(), _images(case)
    if not metric.compares:
        raise Skip("it does not compare with real images")
    sign = -1 if getattr(metric, "higher_is_better", False) else 1
    noise = torch.randint(256, real.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    match, others = (
        _measure(metric, real, real),
        [_measure(metric, fake, real) for fake in (_images(case, 1), noise)],
    )
    for name, value in match.items():
        for other in others:
            expect(
                sign * value <= sign * other[name] - 1e-6,
                f"{name}: a match scores {value:.4g}, others {other[name]:.4g}",
            )


@contract.check
def reset_forgets(case: Case) -> None:
    """``reset`` forgets everything, ``reset(keep_real=True)`` all but the real images."""
    metric, fake, real = case.build(), _images(case), _images(case, 1)
    wanted = _measure(case.build(), fake, real)
    _measure(metric, _images(case, 2), _images(case, 3))
    _same(_measure(metric, fake, real), wanted, "after reset()")
    _measure(metric, _images(case, 2), real)
    metric.reset(keep_real=True)
    metric.update(fake, real=False)
    _same(metric.compute(), wanted, "after reset(keep_real=True)")


@contract.check
def images_untouched(case: Case) -> None:
    """It does not write into the images it is given."""
    metric, fake, real = case.build(), _images(case), _images(case, 1)
    kept = fake.clone(), real.clone()
    _measure(metric, fake, real)
    expect(torch.equal(fake, kept[0]) and torch.equal(real, kept[1]), "it writes into the images")
