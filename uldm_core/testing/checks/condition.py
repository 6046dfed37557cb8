"""The contract of conditions."""

from __future__ import annotations

import torch
from attrs import frozen
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from uldm_core.protocols import Condition, FitsImages
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import Skip, expect
from uldm_core.testing.tensors import copy_of_state

LATENTS = ((2, 4), (4, 4), (4, 8), (3, 8), (1, 8))
IMAGES = ((1, 28), (3, 32), (1, 32), (3, 64))
"""Channels and sides that are tried: a backbone may take some only."""
DRAWS = 20_000
BATCH = 8

contract = Contract(
    options={"classes": st.sampled_from((3, 2, 5))},
    exercise=lambda case, condition: _exercise(case, condition),
)


@frozen
class _TrainingSet:
    """Latents, or images, in an order of their own, with labels; more than half are of one class.

    Args:
        values: float [N, C, H, W].
        labels: int64 [N].
        cuts: the sizes of the batches.
    """

    values: Tensor
    labels: Tensor
    cuts: tuple[int, ...]

    @property
    def batches(self) -> list[Tensor]:
        """The values a batch at a time; can be read several times."""
        return list(self.values.split(self.cuts))

    def cut(self, *sizes: int) -> _TrainingSet:
        """Return the same in batches of other sizes."""
        return _TrainingSet(self.values, self.labels, sizes)

    def first(self, count: int) -> _TrainingSet:
        """Return the first images, in one batch."""
        return _TrainingSet(self.values[:count], self.labels[:count], (count,))

    def __len__(self) -> int:
        return len(self.values)


def _training_set(case: Case, condition: Condition, salt: int = 0) -> _TrainingSet:
    """Return as many kinds of images as there are classes."""
    images = isinstance(condition, FitsImages) and condition.fits_images

    def works(shape: tuple[int, int]) -> None:
        given = _of_shape(case, condition.classes, *shape, salt)
        case.build().fit(given.batches, given.labels)

    found = case.subject.found(
        f"training set of {'images' if images else 'latents'}", IMAGES if images else LATENTS, works
    )
    return _of_shape(case, condition.classes, *found, salt)


def _of_shape(case: Case, classes: int, channels: int, side: int, salt: int) -> _TrainingSet:
    many = classes + 6  # of the first class
    labels = torch.cat([torch.zeros(many, dtype=torch.int64), torch.arange(classes)])
    labels = (labels[case.normal(len(labels), salt=salt).cpu().argsort()] + salt) % classes
    kinds = case.normal(classes, channels, side, side, salt=salt + 1)
    spread = 0.05 * case.normal(len(labels), channels, side, side, salt=salt + 2)
    values = (0.4 * (kinds[labels.to(kinds.device)] + spread)).clamp(-1, 1)
    cuts = tuple(len(part) for part in labels.split(BATCH))
    return _TrainingSet(values, labels, cuts)


def _fitted(case: Case) -> tuple[Condition, _TrainingSet]:
    """Build a condition that is fitted to a training set, and return both."""
    condition = case.build()
    given = _training_set(case, condition)
    condition.fit(given.batches, given.labels)
    return condition, given


def _classes(condition: Condition, given: _TrainingSet) -> Tensor:
    """Return the class of each image."""
    return condition.of(torch.arange(len(given)))


def _draw(condition: Condition, n: int, seed: int = 0) -> Tensor:
    return condition.draw(n, torch.Generator().manual_seed(seed))


def _exercise(case: Case, condition: Condition) -> list[Tensor]:
    """Fit it, ask for the classes of images, and draw some."""
    given = _training_set(case, condition)
    condition.fit(given.batches, given.labels)
    return [_classes(condition, given), _draw(condition, 7)]


@contract.check
def class_of_each_image(case: Case) -> None:
    """Every image of the training set has a class, int64, from 0 to ``classes`` - 1."""
    condition, given = _fitted(case)
    classes = _classes(condition, given)
    expect(isinstance(condition.classes, int) and condition.classes > 0, "classes is no positive integer")
    dtype = str(classes.dtype).removeprefix("torch.")
    expect(dtype == "int64", f"the classes are {dtype}: no embedding takes them")
    expect(classes.shape == (len(given),), f"of {len(given)} images it gives {list(classes.shape)} classes")
    low, high = int(classes.min()), int(classes.max())
    expect(low >= 0 and high < condition.classes, f"classes are from {low} to {high}, of {condition.classes}")


@contract.check
def order_of_indices(case: Case) -> None:
    """An image has the same class in whatever order images are asked for, and asked for twice in a batch."""
    condition, given = _fitted(case)
    classes = _classes(condition, given)
    shuffled = case.normal(len(given), salt=5).argsort()
    for indices in (shuffled, torch.tensor([3, 3, 0]), shuffled[:1]):
        expect(torch.equal(condition.of(indices), classes[indices]), "in another order images change class")


@contract.check
def fit_deterministic(case: Case) -> None:
    """The same training set gives the same classes, whatever torch's random state: a run can be repeated."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(_classes(*_fitted(case)))
    expect(torch.equal(*found), "fitted again, to the same images, it gives other classes")


@contract.check
def refits(case: Case) -> None:
    """Fitting again forgets what it was fitted to before."""
    condition, _ = _fitted(case)
    fresh = case.build()
    others = _training_set(case, fresh, salt=11)
    for each in (condition, fresh):
        each.fit(others.batches, others.labels)
    same = torch.equal(_classes(condition, others), _classes(fresh, others))
    expect(same and torch.equal(_draw(condition, 64), _draw(fresh, 64)), "a second fit remembers the first")


@contract.check
def any_batches(case: Case) -> None:
    """Each image has a class however the training set is cut into batches, be it of one image."""
    condition, given = _fitted(case)
    for cuts in ((len(given),), (len(given) - 1, 1), (2, len(given) - 2)):
        cut = given.cut(*cuts)
        condition.fit(cut.batches, cut.labels)
        try:
            count = len(_classes(condition, cut))
        except IndexError:
            count = 0
        expect(
            count == len(given), f"in batches of {' and '.join(map(str, cuts))} not every image has a class"
        )


@contract.check
def draws_by_frequency(case: Case) -> None:
    """Classes are drawn as often as the training set has them, so that all samples together are like it."""
    condition, given = _fitted(case)
    drawn_classes = _draw(condition, DRAWS)
    beyond = int(drawn_classes.max())
    expect(beyond < condition.classes, f"class {beyond} is drawn, of {condition.classes}")
    shares, drawn = (
        torch.bincount(classes.long(), minlength=condition.classes).double() / len(classes)
        for classes in (_classes(condition, given), drawn_classes)
    )
    chance = 2 * (condition.classes / DRAWS) ** 0.5  # about five times what chance makes of it
    gap = (shares - drawn).abs().sum().item() / 2
    most = int((shares - drawn).abs().argmax())
    expect(
        gap < chance,
        f"class {most} is {shares[most]:.1%} of the training set and {drawn[most]:.1%} of what is drawn",
    )


@contract.check
def draws_in_kind(case: Case) -> None:
    """What is drawn is int64 [n] on the CPU, for no image as well."""
    condition, _ = _fitted(case)
    for n in (0, 1, 5):
        drawn = _draw(condition, n)
        found = f"{str(drawn.dtype).removeprefix('torch.')} {list(drawn.shape)} on the {drawn.device.type}"
        expect(found == f"int64 [{n}] on the cpu", f"of {n} images it draws {found}")


@contract.check
def generator_decides(case: Case) -> None:
    """The generator alone decides what is drawn, and goes on: what is drawn next is something else."""
    condition, given = _fitted(case)
    torch.manual_seed(1)
    first = _draw(condition, 64)
    torch.manual_seed(2)
    expect(torch.equal(first, _draw(condition, 64)), "the same generator draws other classes")
    if len(_classes(condition, given).unique()) == 1:
        raise Skip("all images are of one class")
    generator = torch.Generator().manual_seed(0)
    condition.draw(64, generator)
    expect(not torch.equal(first, condition.draw(64, generator)), "asked twice, it draws the same classes")


@contract.check
def fit_saved(case: Case) -> None:
    """The fit travels with the state as safetensors: a denoiser knows no other classes."""
    condition, given = _fitted(case)
    state = condition.state_dict()
    expect(
        state and all(isinstance(value, Tensor) for value in state.values()),
        "its state is not a dict of tensors: a run would lose what it was fitted to",
    )
    fresh = case.build(seed=2)
    fresh.load_state_dict(load(save({name: t.contiguous() for name, t in copy_of_state(condition).items()})))
    same = torch.equal(_classes(fresh, given), _classes(condition, given))
    expect(same and torch.equal(_draw(fresh, 64), _draw(condition, 64)), "loaded, it gives other classes")


@contract.check
def inputs_left_alone(case: Case) -> None:
    """It writes into no latents, labels or indices, and what it returned is nobody's memory."""
    condition = case.build()
    given = _training_set(case, condition)
    kept = given.values.clone(), given.labels.clone()
    condition.fit(given.batches, given.labels)
    indices = torch.arange(len(given))
    classes = condition.of(indices)
    same = torch.equal(given.values, kept[0]) and torch.equal(given.labels, kept[1])
    expect(same and torch.equal(indices, torch.arange(len(given))), "it writes into what it is given")
    wanted = classes.clone()
    classes.fill_(0)
    _draw(condition, 5).fill_(0)
    given.labels.fill_(0)
    expect(
        torch.equal(_classes(condition, given), wanted),
        "writing into what it gave or got changes its classes",
    )


@contract.check
def labels_missing(case: Case) -> None:
    """Without labels it is fitted, or raises ``ValueError``: not every dataset has some."""
    condition = case.build()
    given = _training_set(case, condition)
    try:
        condition.fit(given.batches, None)
    except ValueError:
        return
    expect(len(_classes(condition, given)) == len(given), "without labels not every image has a class")


@contract.check
def labels_out_of_range(case: Case) -> None:
    """A label of no class raises a ``ValueError`` that says ``classes``: no denoiser has a row for it."""
    condition, given = _fitted(case)
    before = _classes(condition, given)
    turned = given.labels.flip(0)
    condition.fit(given.batches, turned)
    if torch.equal(before, _classes(condition, given)):
        raise Skip("it does not go by labels")
    for label in (-1, condition.classes):
        turned[1] = label
        message = ""
        try:
            condition.fit(given.batches, turned)
        except ValueError as error:
            message = str(error)
        expect(message, f"label {label} of {condition.classes} classes is taken")
        expect("classes" in message, f"label {label}: the error does not say classes, but {message!r}")


@contract.check
def few_images(case: Case) -> None:
    """Fewer images than classes get classes of theirs, or a ``ValueError`` that says ``classes``."""
    condition = case.build()
    given = _training_set(case, condition).first(1)
    try:
        condition.fit(given.batches, given.labels)
    except ValueError as error:
        expect("classes" in str(error), f"of one image: the error does not say classes, but {error}")
        return
    expect(0 <= int(_classes(condition, given)) < condition.classes, "one image is of no class")
