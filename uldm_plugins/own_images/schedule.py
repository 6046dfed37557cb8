"""How many steps fit into so many minutes, from what a step takes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from attrs import frozen

from uldm_plugins.own_images.choice import Choice
from uldm_plugins.own_images.facts import FolderSummary

AUTOENCODER_SHARE = 1 / 4
"""Of the time of both trainings."""
WARM_UP = 0.5
"""The share of the autoencoder's steps before its discriminator starts."""
SAMPLES = (1000, 500, 250, 100)
TUNED = (400, 200, 100)
"""Samples for each weight of the guidance."""
SAMPLING_SHARE = 0.1
"""Of all the time, at most, for drawing samples and measuring them; for trying weights as well."""
CALLS = 38
"""Of the denoiser for a sample: Heun's method in 10 steps, with guidance."""
FORWARD = 1 / 3
"""A pass forward, as a share of a training step."""
START_SECONDS = 5.0
"""Of each stage, before its first step."""
LLOYD = 20
"""Iterations of k-means."""
FEWEST_STEPS = 10


@frozen
class Speed:
    """What takes how long.

    Args:
        autoencoder: seconds of a step, before the discriminator starts.
        adversarial: seconds of a step from then on.
        denoiser: seconds of a step.
        products: floating-point operations a second, of products of large matrices.
        precision: the recipe's: ``auto``, or ``float32`` where bfloat16 is slower.
        measured: whether it was measured; else it is assumed from the networks' FLOPs.
    """

    autoencoder: float
    adversarial: float
    denoiser: float
    products: float = 5e10
    precision: str = "auto"
    measured: bool = True


@frozen
class Schedule:
    """Steps of both trainings, and how many samples are drawn.

    Args:
        first: steps of the autoencoder.
        start: the step from which its discriminator counts.
        second: steps of the denoiser.
        samples: how many are drawn.
        tuned: how many are drawn for each weight of the guidance.
        seconds: that each stage takes, by its name.
        precision: the recipe's; see ``Speed``.
        measured: whether it follows from what was measured.
    """

    first: int
    start: int
    second: int
    samples: int
    tuned: int
    seconds: Mapping[str, float]
    precision: str = "auto"
    measured: bool = True

    @property
    def minutes(self) -> float:
        """Of all stages."""
        return sum(self.seconds.values()) / 60


def schedule(folder: FolderSummary, choice: Choice, speed: Speed, minutes: float) -> Schedule:
    """Return the steps that fit: of the autoencoder in a quarter of the time, of the denoiser in the rest."""
    seconds = 60 * minutes
    samples, drawing, scoring = _samples(folder, choice, speed, seconds)
    tuned, tuning = _tuned(choice, speed, seconds)
    reading, preparing = folder.count * folder.read_seconds, _preparing(folder, choice, speed)
    fixed = reading + preparing + tuning + drawing + scoring + 2 * START_SECONDS
    training = max(seconds - fixed, seconds / 3)
    step = (speed.autoencoder + speed.adversarial) / 2 if choice.adversarial else speed.autoencoder
    first = rounded(AUTOENCODER_SHARE * training / step)
    second = rounded((1 - AUTOENCODER_SHARE) * training / speed.denoiser)
    took = {
        "first": reading + START_SECONDS + first * step,
        "second": preparing + START_SECONDS + second * speed.denoiser,
        **({"tune": tuning} if choice.tuned else {}),
        "samples": drawing,
        "scores": scoring,
    }
    start = max(1, int(WARM_UP * first))
    return Schedule(first, start, second, samples, tuned, took, speed.precision, speed.measured)


def rounded(steps: float) -> int:
    """Return a number of steps of two digits, at least a few."""
    if steps < FEWEST_STEPS:
        return FEWEST_STEPS
    unit = 10 ** (int(math.log10(steps)) - 1)
    return int(steps // unit * unit)


def _preparing(folder: FolderSummary, choice: Choice, speed: Speed) -> float:
    """Return the seconds of encoding all images, and of finding clusters of them."""
    values = math.prod(choice.latents)
    encoding = folder.count * _decoding(choice, speed)
    return encoding + folder.count * choice.clusters * values * 2 * (LLOYD + 1) / speed.products


def _decoding(choice: Choice, speed: Speed) -> float:
    """Return the seconds of an image in encoder or decoder."""
    return FORWARD * speed.autoencoder / choice.tables["stages.first"]["batch_size"] / 2


def _tuned(choice: Choice, speed: Speed, seconds: float) -> tuple[int, float]:
    """Return how many samples are drawn for each weight, and the seconds of it all; 0 if none is tried."""
    found, tuning = TUNED[-1], 0.0
    for found in TUNED if choice.tuned else ():
        tuning = START_SECONDS + choice.tuned * found * _drawing(choice, speed)
        if tuning <= SAMPLING_SHARE * seconds:
            break
    return found, tuning


def _drawing(choice: Choice, speed: Speed) -> float:
    """Return the seconds of a sample."""
    call = FORWARD * speed.denoiser / choice.tables["stages.second"]["batch_size"]
    return CALLS * call + _decoding(choice, speed)


def _samples(folder: FolderSummary, choice: Choice, speed: Speed, seconds: float) -> tuple[int, float, float]:
    """Return how many samples are drawn, and the seconds of drawing and of measuring them."""
    values = choice.tables["dataset"]["channels"] * math.prod(choice.size)
    comparing = 2 * 2 * folder.count * values / speed.products  # samples, and the floor
    drawing = scoring = 0.0
    samples = SAMPLES[-1]
    for samples in SAMPLES:
        drawing = START_SECONDS + samples * _drawing(choice, speed)
        tested = 0.1 * folder.count * 2 * _decoding(choice, speed)
        scoring = START_SECONDS + tested + samples * comparing
        if drawing + scoring <= SAMPLING_SHARE * seconds:
            break
    return samples, drawing, scoring
