"""The contract of metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from uldm_core.protocols import Metric
from uldm_core.testing import doubles, strategies
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import Skip, expect
from uldm_core.testing.images import check_refused

contract = Contract(
    options={"autoencoder": st.builds(doubles.TinyCodes)},
    exercise=lambda case, metric: _measure(metric, *_sets(case, metric)),
)
COUNT, SIDE = 40, 28
LIKELY = tuple(
    (count, channels, side)
    for count, side in ((COUNT, SIDE), (COUNT, 64), (12, 128), (12, 256), (160, SIDE), (640, SIDE), (160, 64))
    for channels in (1, 3)
)
SAME = 1e-4

Sizes = Sequence[int]
Values = Mapping[str, float]
Alteration = Callable[[Tensor], Tensor]


def _blobs(case: Case, count: int, channels: int, height: int, width: int, salt: int = 0) -> Tensor:
    """Return uint8 images [count, channels, height, width] on the CPU: blobs of several sizes, with noise."""
    seed = 1000 * salt + case.seed()
    coarse = strategies.normal((count, channels, 7, 7), seed)
    noise = strategies.normal((count, channels, height, width), seed + 500)
    smooth = F.interpolate(coarse, (height, width), mode="nearest")
    return ((smooth + 0.2 * noise) * 60 + 100).clamp(0, 255).to(torch.uint8)


def _taken(case: Case, metric: Metric) -> tuple[int, int, int]:
    """Return how many images the metric is given, of how many channels and which side: as few as it takes."""
    count, side = getattr(metric, "smallest_count", 1), getattr(metric, "smallest_size", 1)
    likely = [(max(count, n), channels, max(side, size)) for n, channels, size in LIKELY]

    def works(taken: tuple[int, int, int]) -> None:
        n, channels, size = taken
        _measure(metric, *(_blobs(case, n, channels, size, size, salt) for salt in (0, 1)))

    found: tuple[int, int, int] = case.subject.found("images", likely, works)
    return found


def _images(case: Case, metric: Metric, salt: int = 0, more: int = 0) -> Tensor:
    """Return as many images as the metric needs, and ``more``."""
    count, channels, side = _taken(case, metric)
    return _blobs(case, count + more, channels, side, side, salt)


def _sets(case: Case, metric: Metric) -> tuple[Tensor, Tensor]:
    """Return fake and real images."""
    return _images(case, metric), _images(case, metric, 1)


def _measure(
    metric: Metric, fake: Tensor, real: Tensor, *, fakes: Sizes = (), reals: Sizes = ()
) -> dict[str, float]:
    """Measure images, cut into batches of the sizes given."""
    metric.reset()
    for batch in real.split(list(reals or fakes) or len(real)):
        metric.update(batch, real=True)
    for batch in fake.split(list(fakes) or len(fake)):
        metric.update(batch, real=False)
    values: dict[str, float] = metric.compute()
    return values


def _same(one: Values, other: Values, otherwise: str) -> None:
    expect(one.keys() == other.keys(), f"{otherwise}: its numbers are {list(one)} and {list(other)}")
    for name, value in one.items():
        close = math.isclose(value, other[name], rel_tol=SAME, abs_tol=SAME)
        expect(close, f"{otherwise}: {name} is {value:.6g} and {other[name]:.6g}")


def _expect_floats(values: Values, of_what: str) -> None:
    for name, value in values.items():
        expect(isinstance(name, str) and isinstance(value, float), f"{name!r} is {value!r}, not a float")
        expect(math.isfinite(value), f"{name} is {value} of {of_what}")


def _compares(metric: Metric) -> None:
    if not metric.compares:
        raise Skip("it does not compare with real images")


def _unpaired(metric: Metric) -> None:
    if getattr(metric, "paired", False):
        raise Skip("it compares images in pairs")


def _noise_like(images: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, images.shape, dtype=torch.uint8, generator=generator)


ALTERATIONS: Sequence[Alteration] = (
    lambda images: 255 - images,
    _noise_like,
    lambda images: images // 4,
    lambda images: images.flip(-1).roll(3, -2),
)


def _expect_change(change: Callable[[Alteration], Values], wanted: Values, otherwise: str) -> None:
    """Expect one alteration at least to change a number: a metric may be blind to some, to negatives say."""
    expect(any(change(alteration) != wanted for alteration in ALTERATIONS), otherwise)


@contract.check
def named_floats(case: Case) -> None:
    """``compute`` gives finite floats by name, the same when asked twice; ``description`` says of what."""
    metric = case.build()
    values = _measure(metric, *_sets(case, metric))
    expect(values, "it gives no number")
    _expect_floats(values, "two sets of images")
    _same(metric.compute(), values, "computing twice gives two values")
    expect(isinstance(metric.description, Mapping) and metric.description, "its description says nothing")


@contract.check
def finite_of_any_images(case: Case) -> None:
    """Equal, blank and saturated images have finite numbers: logs and tables have no place for others.

    What cannot be measured of such images is refused with a ``ValueError``.
    """
    metric = case.build()
    real = _images(case, metric)
    black, white = torch.zeros_like(real), torch.full_like(real, 255)
    sets = {
        "the real images themselves": (real, real),
        "black images": (black, real),
        "black images, compared with black ones": (black, black),
        "images, compared with black ones": (real, black),
        "white images, compared with black ones": (white, black),
    }
    for of_what, (fake, against) in sets.items():
        try:
            values = _measure(metric, fake, against)
        except ValueError:
            continue
        _expect_floats(values, of_what)


@contract.check
def sizes_and_channels(case: Case) -> None:
    """Grey and RGB, odd and oblong images are measured, or refused with a ``ValueError``."""
    metric = case.build()
    count, channels, side = _taken(case, metric)
    names = _measure(metric, *_sets(case, metric)).keys()
    for shape in (
        (channels, side, side + 13),
        (channels, side + 9, side + 1),
        (4 - channels, side, side),
        (4 - channels, side + 12, side),
    ):
        try:
            values = _measure(metric, *(_blobs(case, count, *shape, salt) for salt in (0, 1)))
        except ValueError:
            continue
        expect(values.keys() == names, f"its numbers have other names for images of {list(shape)}")
        _expect_floats(values, f"images of {list(shape)}")


@contract.check
def small_images_refused(case: Case) -> None:
    """Images smaller than ``smallest_size``, where it declares one, are refused with a ``ValueError``."""
    metric = case.build()

    def measure(height: int, width: int) -> None:
        count, channels, _ = _taken(case, metric)
        _measure(metric, *(_blobs(case, count, channels, height, width, salt) for salt in (0, 1)))

    check_refused(getattr(metric, "smallest_size", None), measure)


@contract.check
def cut_independent(case: Case) -> None:
    """How the images are cut into batches does not matter, a batch of one included."""
    metric = case.build()
    fake, real = _sets(case, metric)
    wanted = _measure(metric, fake, real)
    count = len(fake)
    third = count // 3
    drawn = case.draw(st.integers(2, count - 2), "first batch")
    for sizes in (
        (1, third, count - 1 - third),
        (count - 1 - third, third, 1),
        (count // 2, count - count // 2),
        (drawn, count - drawn),
    ):
        _same(_measure(metric, fake, real, fakes=sizes), wanted, f"cut into {sizes}")
        turned = _measure(metric, fake, real, fakes=sizes, reals=sizes[::-1])
        _same(turned, wanted, f"cut into {sizes}, and backwards")


@contract.check
def order_independent(case: Case) -> None:
    """The order of the images, and whether real or fake ones come first, or by turns, does not matter.

    What draws parts of a set, seeded, may differ a little with the order of its images: one of its numbers
    at least by less than a tenth of how far noise is from a match.
    """
    metric = case.build()
    fake, real = _sets(case, metric)
    match, noise = _measure(metric, real, real), _measure(metric, _noise_like(real), real)
    allowed = {name: 0.1 * abs(noise[name] - match[name]) + 1e-6 for name in match}
    orders = [((fake, real), (fake.flip(0), real.flip(0)), "in another order")]
    if not getattr(metric, "paired", False):
        orders.append(((real, real), (real.flip(0), real), "with one side in another order (not paired)"))
    for one, other, what in orders:
        before, after = _measure(metric, *one), _measure(metric, *other)
        faults = [
            f"{what}: {name} is {value:.6g} and {after[name]:.6g}"
            for name, value in before.items()
            if abs(value - after[name]) > allowed[name]
        ]
        expect(len(faults) < (1 if _each(metric) else len(before)), "; ".join(faults))
    sizes = [len(batch) for batch in fake.split(7)]
    wanted = _measure(metric, fake, real, fakes=sizes)
    metric.reset()
    for batch in fake.split(sizes):
        metric.update(batch, real=False)
    for batch in real.split(sizes):
        metric.update(batch, real=True)
    _same(metric.compute(), wanted, "with the fake ones first")
    metric.reset()
    for mine, theirs in zip(fake.split(sizes), real.split(sizes)):
        metric.update(mine, real=False)
        metric.update(theirs, real=True)
    _same(metric.compute(), wanted, "with real and fake ones by turns")


@contract.check
def every_image_counts(case: Case) -> None:
    """The first image counts, and the last one, also where their number is odd: no batch is dropped."""
    metric = case.build()
    _compares(metric)
    real = _images(case, metric, more=3)
    wanted = _measure(metric, real, real)
    for name, place in (("first", 0), ("last", len(real) - 1)):

        def change(alteration: Alteration, place: int = place) -> Values:
            fake = real.clone()
            fake[place : place + 1] = alteration(fake[place : place + 1])
            return _measure(metric, fake, real)

        _expect_change(change, wanted, f"the {name} of {len(real)} images does not count")


@contract.check
def counts_may_differ(case: Case) -> None:
    """There may be more fake images than real ones, or fewer, and each counts: unless they are ``paired``."""
    metric = case.build()
    _unpaired(metric)
    _compares(metric)
    more = 15
    many = _images(case, metric, more=more)
    few, count = many[more:], len(many) - more
    surplus = many[count:]

    def measure(side: str, images: Tensor) -> Values:
        return _measure(metric, images, few) if side == "fake" else _measure(metric, few, images)

    for side in ("fake", "real"):
        wanted = measure(side, many)
        _expect_floats(wanted, f"{len(many)} {side} images and {len(few)} others")

        def change(alteration: Alteration, side: str = side) -> Values:
            return measure(side, torch.cat([many[:count], alteration(surplus)]))

        what = f"of {len(many)} {side} images against {len(few)} others, the last {more} do not count"
        _expect_change(change, wanted, what)


@contract.check
def whole_image_counts(case: Case) -> None:
    """All of an image counts: the right half of a wide one, the lower half of a high one, each channel."""
    metric = case.build()
    _compares(metric)
    count, taken, side = _taken(case, metric)
    for what, channels, height, width in _parts(taken, side):
        real = _blobs(case, count, channels, height, width)
        try:
            wanted = _measure(metric, real, real)
        except ValueError:  # it takes no such images
            continue

        def change(alteration: Alteration, real: Tensor = real, what: str = what) -> Values:
            fake = real.clone()
            part = _part(fake, what)
            part.copy_(alteration(part.clone()))
            return _measure(metric, fake, real)

        _expect_change(change, wanted, f"the {what} of images of {height}x{width} does not count")


def _parts(channels: int, side: int) -> Iterator[tuple[str, int, int, int]]:
    """Yield which part of images is altered, and their channels, height and width."""
    yield "right half", channels, side, 2 * side
    yield "lower half", channels, 2 * side, side
    for channel in ("first", "second", "third"):
        yield f"{channel} channel", 3, side, side


def _part(images: Tensor, what: str) -> Tensor:
    height, width = images.shape[-2:]
    parts = {
        "right half": images[..., width // 2 :],
        "lower half": images[..., height // 2 :, :],
        "first channel": images[:, 0:1],
        "second channel": images[:, 1:2],
        "third channel": images[:, 2:3],
    }
    return parts[what]


def _signs(metric: Metric, values: Values) -> dict[str, int]:
    """Return 1 for each number of which less is better, -1 for more; what has no direction is not there."""
    higher = getattr(metric, "higher_is_better", False)
    if isinstance(higher, Mapping):
        return {name: -1 if higher[name] else 1 for name in values if name in higher}
    return dict.fromkeys(values, -1 if higher else 1)


def _each(metric: Metric) -> bool:
    """Whether it says of each of its numbers which way is better; else one at least must be as it says."""
    return isinstance(getattr(metric, "higher_is_better", False), Mapping)


@contract.check
def perfect_match_best(case: Case) -> None:
    """The real images themselves score best, noise worse. (Lower is better unless ``higher_is_better``.)

    Of several numbers, one at least must show it; those that a mapping ``higher_is_better`` names, each.
    """
    metric = case.build()
    real = _images(case, metric)
    _compares(metric)
    match = _measure(metric, real, real)
    others = [_measure(metric, fake, real) for fake in (_images(case, metric, 1), _noise_like(real))]
    descriptions = {
        name: f"{name}: a match scores {match[name]:.4g}, others "
        + ", ".join(f"{other[name]:.4g}" for other in others)
        for name in match
    }
    right = {
        name: all(sign * match[name] <= sign * other[name] + 1e-9 for other in others)
        and any(sign * match[name] <= sign * other[name] - 1e-6 for other in others)
        for name, sign in _signs(metric, match).items()
    }
    best = all(right.values()) if _each(metric) else any(right.values())
    expect(best, "; ".join(descriptions[name] for name in right if not right[name]))


@contract.check
def nearer_is_better(case: Case) -> None:
    """A grey level off is better than noise, and sixteen off no better than one: bytes do not wrap round."""
    metric = case.build()
    real = _images(case, metric).clamp(20, 235)
    _compares(metric)
    match, noise = (_measure(metric, fake, real) for fake in (real, _noise_like(real)))
    near_and_middle = [
        [_measure(metric, (real.short() + up * n).to(torch.uint8), real) for n in (1, 16)] for up in (1, -1)
    ]
    faults = {}
    for name, sign in _signs(metric, match).items():
        far = sign * (noise[name] - match[name])
        for near, middle in near_and_middle if far > 0 else ():  # else it says nothing of likeness
            one, sixteen = (sign * (values[name] - match[name]) for values in (near, middle))
            if one > 1.05 * far or sixteen < 0.5 * one - 1e-5 * far:
                faults[name] = (
                    f"{name}: a match scores {match[name]:.4g}, noise {noise[name]:.4g}, images a grey level "
                    f"off {near[name]:.4g}, sixteen off {middle[name]:.4g}"
                )
    wrong = faults if _each(metric) else faults.keys() >= _signs(metric, match).keys()
    expect(not wrong, "; ".join(faults.values()))


@contract.check
def reset_forgets(case: Case) -> None:
    """``reset`` forgets everything, ``reset(keep_real=True)`` all but the real images, time and again."""
    metric = case.build()
    fake, real = _sets(case, metric)
    wanted = _measure(case.build(), fake, real)
    _measure(metric, _images(case, metric, 2), _images(case, metric, 3))
    _same(_measure(metric, fake, real), wanted, "after reset()")
    _measure(metric, _images(case, metric, 2), real)
    for again in ("", " once more"):
        metric.reset(keep_real=True)
        metric.update(fake, real=False)
        _same(metric.compute(), wanted, f"after reset(keep_real=True){again}")


@contract.check
def continues_after_compute(case: Case) -> None:
    """``compute`` ends nothing: fake images that come after it are counted with those before."""
    metric = case.build()
    fake = _images(case, metric, more=10)
    _unpaired(metric)
    real = _images(case, metric, 1)
    wanted = _measure(metric, fake, real, fakes=(len(real), 10), reals=(len(real),))
    _measure(metric, fake[:-10], real)
    metric.update(fake[-10:], real=False)
    _same(metric.compute(), wanted, "with a compute() in between")


@contract.check
def images_untouched(case: Case) -> None:
    """It does not write into the images it is given."""
    metric = case.build()
    fake, real = _sets(case, metric)
    kept = fake.clone(), real.clone()
    _measure(metric, fake, real)
    expect(torch.equal(fake, kept[0]) and torch.equal(real, kept[1]), "it writes into the images")


@contract.check
def real_images_not_needed(case: Case) -> None:
    """One that does not ``compare`` is never given real images, and if it is, they do not count."""
    metric = case.build()
    if metric.compares:
        raise Skip("it compares with real images")
    fake, real = _sets(case, metric)
    wanted = _measure(metric, fake, real)
    metric = case.build()
    metric.reset()
    metric.update(fake, real=False)
    _same(metric.compute(), wanted, "without real images")


@contract.check
def autoencoder_left_alone(case: Case) -> None:
    """The recipe's autoencoder is used in eval mode, and left in the mode that it was in: others train it."""
    metric = case.build()
    autoencoder = case.given().get("autoencoder")
    if autoencoder is None:
        raise Skip("it takes no autoencoder")
    wanted = _measure(metric, *_sets(case, metric))
    autoencoder.train(not autoencoder.training)
    trained = autoencoder.training
    other = case.build()
    _same(_measure(other, *_sets(case, metric)), wanted, "with an autoencoder in another mode")
    expect(autoencoder.training == trained, "it leaves the autoencoder in another mode")
