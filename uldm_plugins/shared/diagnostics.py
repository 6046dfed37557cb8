"""What goes wrong in a training, told from the values it logs: while it runs, and in the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike, NDArray

LEAST_USED_SHARE = 0.25
"""A codebook of which fewer codes are used has collapsed."""
LEAST_PERPLEXITY_SHARE = 0.05
"""So has one whose codes are used as unevenly as if fewer than this share of them were used alike."""
FEW_CODES = 64
"""Of a codebook that is smaller, uneven use tells nothing."""
WINNING = 0.1
"""A discriminator wins whose loss is below this times that of one that cannot distinguish."""
LOSING = 0.99
"""It cannot distinguish if its loss is above this times that."""
RISEN = 1.5
"""A reconstruction error rises that ends above this times its lowest."""
FALLEN = 0.98
"""A loss has fallen that ends below this times where it began."""

HELD_OUT_RISEN, TRAINED_FALLEN = 1.05, 0.98
"""A denoiser memorises whose loss on held-out images ends above the first times its lowest, and whose loss on
trained ones ends below the second times what it was then."""
BEYOND_NOISE = 8
"""The former has risen by more standard errors than these, told from how values jump from one to the next."""
LEAST_MEASURED = 10
"""Of fewer values nothing is said."""

MOST_COPIES = 0.05
"""Samples copy of which a larger share is as near to the training images as 0.01 of the test images are."""


@frozen
class Diagnostic:
    """One thing that deserves attention.

    Args:
        level: ``bad`` spoils the result, ``worry`` may do so, ``note`` is good to know.
        what: was found.
        fix: what to do.
        section: the part of the report's page that shows it.
    """

    level: Literal["bad", "worry", "note"]
    what: str
    fix: str
    section: str = ""


def copies_diagnostics(results: Mapping[str, Mapping[str, float]]) -> Iterator[Diagnostic]:
    """Yield whether samples copy training images, from an evaluation's numbers of each set of images."""
    share = results.get("samples", results.get("images", {})).get("copies", 0.0)
    if share > MOST_COPIES:
        yield Diagnostic(
            "bad",
            f"{share:.1%} of the samples are as near to a training image as only 1% of the test images are: "
            "the model repeats images that it was trained on.",
            "More data, fewer steps or a smaller denoiser keep a model from memorising.",
            "nearest",
        )


def memorisation_diagnostics(
    steps: Sequence[int] | NDArray[np.integer], held_out: ArrayLike, trained: ArrayLike, *, kept: bool
) -> Iterator[Diagnostic]:
    """Yield whether a denoiser memorises, from its losses on images; too few to judge yield nothing.

    Args:
        steps: after which they were measured.
        held_out: the losses on images that it is not trained on.
        trained: those on images that it is trained on.
        kept: whether the weights that were best on the former are kept.
    """
    lowest = _rises_alone(np.asarray(held_out, float), np.asarray(trained, float))
    if lowest is None:
        return
    fixes = ["stop earlier", *([] if kept else ['checkpoint = "best"']), "augmentation", "dropout"]
    yield Diagnostic(
        "note" if kept else "worry",
        f"the loss on held-out images has risen since step {steps[lowest]:,} while that on trained images "
        "fell: it memorises" + ("; the weights that were best are kept" if kept else ""),
        f"{', '.join(fixes).capitalize()} or a smaller denoiser help; so do more images.",
        "curves",
    )


def _rises_alone(held_out: NDArray[np.float64], trained: NDArray[np.float64]) -> int | None:
    """Return where the held-out loss was lowest, if it has risen since, and the other one fallen.

    Means over a few values are compared, the last ones with the lowest.
    """
    count = len(held_out)
    width = max(3, count // 7)
    if count < LEAST_MEASURED or not np.isfinite([held_out, trained]).all():
        return None
    window, both = np.full(width, 1 / width), (held_out, trained)
    low, low_trained = (np.convolve(values, window, "valid") for values in both)
    place = int(low.argmin())
    jumps = [np.median(abs(np.diff(values, 2))) for values in both]  # which the first fall does not move
    error = 1.48 * float(max(jumps)) / np.sqrt(6 * width)
    risen = low[-1] > HELD_OUT_RISEN * low[place] and low[-1] - low[place] > BEYOND_NOISE * error
    fallen = low_trained[-1] < TRAINED_FALLEN * low_trained[place]
    apart = place + width <= count - width
    return int(held_out.argmin()) if risen and fallen and apart else None


def autoencoder_diagnostics(
    curves: Mapping[str, ArrayLike], chance: float | None = None, rising: bool = True
) -> Iterator[Diagnostic]:
    """Yield what goes wrong with an autoencoder, from what its training logs.

    Args:
        curves: values by name, in their order; ``discriminator``, ``distance`` and ``code_use`` count.
        chance: the loss of a discriminator that cannot distinguish; by default its first one.
        rising: whether a distance that rises is wrong; it is not if a loss starts late.
    """
    values = {name: np.asarray(curve, float) for name, curve in curves.items()}
    none = np.empty(0)
    yield from _balance(values.get("discriminator", none), chance)
    yield from _collapsing(values.get("code_use", none))
    if rising:
        yield from _rising(values.get("distance", none))


def _balance(loss: NDArray[np.float64], chance: float | None) -> Iterator[Diagnostic]:
    """Compare a discriminator's loss with that of one that cannot distinguish."""
    if len(loss) < 8:
        return
    chance = float(abs(loss[:2]).mean()) if chance is None else chance
    if chance <= 0:  # of a loss that is not a GAN's
        return
    last = loss[-(len(loss) // 4) :].mean()
    if last < WINNING * chance:
        what = "the discriminator wins: its loss is nearly 0, and the autoencoder learns little from it"
        fix = (
            "Lower its learning rate (discriminator_optimizer.lr), or let it start later (adversarial.start)."
        )
        yield Diagnostic("worry", what, fix)
    elif last > LOSING * chance:
        what = "the discriminator cannot distinguish reconstructions from images"
        fix = "Fine if they are good already; else raise its learning rate or give it more steps."
        yield Diagnostic("note", what, fix)


def _collapsing(use: NDArray[np.float64]) -> Iterator[Diagnostic]:
    """Judge the shares of the codes that two previews used: the first images of a training use few."""
    if len(use) >= 2 and max(use[-2:]) < LEAST_PERPLEXITY_SHARE:
        what = f"the codebook collapses: its codes are used as evenly as {use[-1]:.1%} of them would be"
        yield Diagnostic("worry", what, COLLAPSED_FIX)


def _rising(distance: NDArray[np.float64]) -> Iterator[Diagnostic]:
    """Compare the last tenth of a reconstruction error with the lowest tenth."""
    if len(distance) < 20:
        return
    tenths = [part.mean() for part in np.array_split(distance, 10)]
    if min(tenths[-2:]) > RISEN * min(tenths):
        what = f"the reconstruction error rises: it is {tenths[-1] / min(tenths):.1f} times its lowest"
        fix = "Lower the learning rate (optimizer.lr) or the discriminator's share (adversarial.weight)."
        yield Diagnostic("worry", what, fix)


COLLAPSED_FIX = "Make it smaller, revive dead codes sooner (revive_below), or use quantizer fsq or sim_vq."


def collapsed(used: int, size: int, perplexity: float) -> bool:
    """Whether a codebook has collapsed.

    Args:
        used: how many of its codes are.
        size: how many it has.
        perplexity: how many codes, used alike, are as even.
    """
    uneven = size >= FEW_CODES and perplexity < LEAST_PERPLEXITY_SHARE * size
    return used < LEAST_USED_SHARE * size or uneven


def falls(values: Sequence[float] | NDArray[np.floating]) -> bool:
    """Whether values end lower than they began; too few to judge count as falling."""
    tenth = len(values) // 10
    return tenth < 2 or float(np.mean(values[-tenth:])) < FALLEN * float(np.mean(values[:tenth]))
