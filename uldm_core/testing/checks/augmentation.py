"""The contract of augmentations: each image by its own parameters, and by nothing else."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from uldm_core.protocols import Augmentation, HasVariants
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import Skip, expect, expect_finite

contract = Contract(exercise=lambda case, augmentation: _exercise(case, augmentation))
SHAPES = ((3, 12, 9), (3, 8, 8), (4, 9, 12), (1, 10, 10), (2, 8, 12), (1, 28, 28), (3, 32, 32))
"""Channels, heights and widths that are tried; it may refuse some."""
DRAWS = 512


def _exercise(case: Case, augmentation: Augmentation) -> list[Tensor]:
    """Draw parameters, and change images by them."""
    parameters = _drawn(case, augmentation, 4).to(case.device)
    shape = _takes(case, augmentation)
    return [parameters, augmentation(_images(case, 4, shape).to(case.device), parameters)]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _drawn(case: Case, augmentation: Augmentation, count: int) -> Tensor:
    return augmentation.draw(count, _generator(case.seed()))


def _images(case: Case, count: int, shape: tuple[int, int, int]) -> Tensor:
    """Return images of noise, uint8."""
    return torch.randint(256, (count, *shape), generator=_generator(case.seed() + 1), dtype=torch.uint8)


def _takes(case: Case, augmentation: Augmentation) -> tuple[int, int, int]:
    """Return a shape of images that it takes."""

    def works(shape: tuple[int, int, int]) -> None:
        augmentation(torch.zeros(2, *shape, dtype=torch.uint8), torch.zeros(2, augmentation.parameters))

    found: tuple[int, int, int] = case.subject.found("images", SHAPES, works)
    return found


def _changed(case: Case, count: int = 6) -> tuple[Augmentation, Tensor, Tensor]:
    """Return the augmentation, images and parameters for them: half change most, half least."""
    augmentation: Augmentation = case.build()
    drawn = _drawn(case, augmentation, DRAWS)
    ranked = drawn[drawn.abs().amax(1).argsort(descending=True, stable=True)]
    chosen = torch.cat([ranked[: count // 2], ranked[-(count // 2) :]])
    order = case.draw(st.permutations(range(count)), "order")
    return augmentation, _images(case, count, _takes(case, augmentation)), chosen[order]


@contract.check
def declares_itself(case: Case) -> None:
    """It has one parameter at least, and says whether it leaks: by this the denoiser is built."""
    augmentation = case.build()
    count, leaks = augmentation.parameters, augmentation.leaks
    expect(isinstance(count, int) and count > 0, f"parameters is {count!r}, not a number above 0")
    expect(isinstance(leaks, bool), f"leaks is {leaks!r}, neither true nor false")


@contract.check
def nothing_at_zero(case: Case) -> None:
    """Parameters of 0 leave an image as it is, bit for bit: samples are drawn as of such."""
    augmentation = case.build()
    shape = _takes(case, augmentation)
    images = torch.cat([_images(case, 3, shape), torch.full((1, *shape), 255, dtype=torch.uint8)])
    same = augmentation(images, torch.zeros(len(images), augmentation.parameters))
    expect(torch.equal(same, images), "parameters of 0 change images")


@contract.check
def images_kept_in_kind(case: Case) -> None:
    """Images keep their shape, dtype and device, whatever their strides are."""
    augmentation, images, parameters = _changed(case)
    wanted = augmentation(images, parameters)
    for what in ("shape", "dtype", "device"):
        was, now = getattr(images, what), getattr(wanted, what)
        expect(was == now, f"images of {what} {was} come back with {what} {now}")
    strided = images.to(memory_format=torch.channels_last)
    expect(torch.equal(augmentation(strided, parameters), wanted), "strides change what it does")


@contract.check
def image_by_image(case: Case) -> None:
    """An image is changed by its own parameters only, whatever is changed beside it."""
    augmentation, images, parameters = _changed(case)
    together = augmentation(images, parameters)
    for place in range(len(images)):
        one = augmentation(images[[place]], parameters[[place]])[0]
        expect(torch.equal(together[place], one), f"image {place} changes with what is changed beside it")
    again = augmentation(images.flip(0), parameters.flip(0)).flip(0)
    expect(torch.equal(again, together), "the order of a batch changes its images")


@contract.check
def given_left_alone(case: Case) -> None:
    """It writes into neither images nor parameters: both are used again."""
    augmentation, images, parameters = _changed(case)
    kept = images.clone(), parameters.clone()
    augmentation(images, parameters).fill_(7)
    expect(torch.equal(images, kept[0]), "it writes into the images that it is given, or gives them away")
    expect(torch.equal(parameters, kept[1]), "it writes into the parameters that it is given")


@contract.check
def every_parameter_counts(case: Case) -> None:
    """Each parameter that it draws changes some image: else the denoiser is given what says nothing."""
    augmentation = case.build()
    drawn, images = _drawn(case, augmentation, DRAWS), _images(case, 8, _takes(case, augmentation))
    for column in range(augmentation.parameters):
        parameters = drawn[drawn[:, column].abs().topk(len(images)).indices]
        without = parameters.clone()
        without[:, column] = 0
        expect(
            not torch.equal(augmentation(images, without), augmentation(images, parameters)),
            f"parameter {column} changes none of {len(images)} images",
        )


@contract.check
def draws_by_the_generator(case: Case) -> None:
    """Parameters are finite floats [n, parameters], which the generator decides, and that alone."""
    augmentation = case.build()
    drawn = _drawn(case, augmentation, DRAWS)
    wanted = (DRAWS, augmentation.parameters)
    expect(drawn.shape == wanted, f"it draws {list(drawn.shape)}, not {list(wanted)}")
    expect(drawn.is_floating_point(), f"parameters are {drawn.dtype}")
    expect_finite(drawn, "a parameter")
    expect(torch.equal(_drawn(case, case.build(), DRAWS), drawn), "the same generator draws others")
    generator = _generator(case.seed())
    first, second = (augmentation.draw(DRAWS, generator) for _ in range(2))
    expect(not torch.equal(first, second), "drawn again, the same come: it does not use the generator")
    other = augmentation.draw(DRAWS, _generator(case.seed() + 1))
    expect(not torch.equal(other, drawn), "another seed draws the same")


@contract.check
def draws_images_as_they_are(case: Case) -> None:
    """If it does not leak, a share of what it draws is all 0: samples are drawn as of such images."""
    augmentation = case.build()
    if augmentation.leaks:
        raise Skip("it leaks")
    drawn = _drawn(case, augmentation, DRAWS)
    count = int((drawn == 0).all(1).sum())
    expect(count >= DRAWS // 100, f"of {DRAWS} images {count} are left as they are")


@contract.check
def variants_are_what_it_draws(case: Case) -> None:
    """``variants`` are all that it draws, each as often, and the first is all 0."""
    augmentation: Augmentation = case.build()
    variants = augmentation.variants if isinstance(augmentation, HasVariants) else None
    if variants is None:
        raise Skip("it has no variants")
    expect(not bool(variants[0].any()), f"the first of its variants is {variants[0].tolist()}, not all 0")
    expect(len(variants.unique(dim=0)) == len(variants), "it has a variant twice")
    drawn = _drawn(case, augmentation, 100 * len(variants))
    same = (drawn[:, None] == variants[None]).all(2)
    expect(bool(same.any(1).all()), "it draws what is none of its variants")
    counts = same.sum(0)
    fewest, most = int(counts.min()), int(counts.max())
    expect(fewest > 50 and most < 150, f"of 100 times each, a variant is drawn {fewest} to {most} times")
