"""What a recipe for a folder of images consists of: pure rules, from what is known of folder and computer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from attrs import field, frozen

from uldm_plugins.own_images import tables
from uldm_plugins.own_images.facts import MOST, Computer, FolderSummary, Request, Size
from uldm_plugins.own_images.tables import LATENT_CHANNELS, Table

MULTIPLE = 8
"""Sides are multiples of so many pixels."""
SMALLEST, LARGEST_CPU, LARGEST_GPU = 16, 64, 128
"""Sides, unless others are asked for."""
NARROWEST, WIDEST = 0.5, 2.0
"""Width by height, likewise."""
FINEST_LATENT = 16
"""Rows and columns of latents, about, at most, for a processor."""


@frozen
class Choice:
    """A recipe but for the numbers of steps, and why it is as it is.

    Args:
        tables: of the recipe, by name; those of stages as ``stages.NAME``, without ``steps``.
        why: a sentence or two on each table, by its name.
        size: height and width of the images.
        latents: channels, height and width.
        instead: lines that could follow a table, by its name.
    """

    tables: Mapping[str, Table]
    why: Mapping[str, str]
    size: Size
    latents: tuple[int, int, int]
    instead: Mapping[str, Sequence[str]] = field(factory=dict)

    @property
    def clusters(self) -> int:
        """How many the denoiser is conditioned on; 0 without a condition."""
        return int(self.tables.get("condition", {}).get("classes", 0))

    @property
    def channels(self) -> int:
        """Of the images."""
        return int(self.tables["dataset"]["channels"])

    @property
    def tuned(self) -> int:
        """How many weights of the guidance are tried; 0 if none is."""
        return len(self.tables.get("stages.tune", {}).get("weights", ()))

    @property
    def adversarial(self) -> bool:
        """Whether a discriminator is trained."""
        return "discriminator" in self.tables


def choose(folder: FolderSummary, computer: Computer, request: Request) -> Choice:
    """Return the recipe for a folder: the same for the same facts."""
    size = request.size or chosen_size(folder, computer)
    levels = chosen_levels(size, computer)
    latents = (LATENT_CHANNELS, -(-size[0] // 2**levels), -(-size[1] // 2**levels))
    dataset = tables.dataset(folder, request, size)
    autoencoder = tables.autoencoder(folder, computer, size, levels)
    tune = tables.tune(size, dataset.table)
    found = {
        "dataset": dataset,
        "augmentation": tables.augmentation(folder),
        "autoencoder": autoencoder,
        "discriminator": tables.discriminator(computer, size),
        "condition": tables.condition(folder),
        "denoiser": tables.denoiser(folder, computer, latents),
        "guidance": tables.guidance(bool(tune.table)),
        "sampler": tables.sampler(),
        "noise_scheduler": tables.noise_scheduler(),
        "timestep_weighting": tables.timestep_weighting(),
        "stages.first": tables.first(computer, size, dataset.table),
        "stages.second": tables.second(folder, computer),
        "stages.tune": tune,
        "stages.samples": tables.samples(),
        "stages.scores": tables.scores(folder, computer, size, dataset.table, autoencoder.table),
    }
    used = {name: part for name, part in found.items() if part.table}
    return Choice(
        {name: part.table for name, part in used.items()},
        {name: part.why for name, part in used.items() if part.why},
        size,
        latents,
        {name: part.instead for name, part in used.items() if part.instead},
    )


def chosen_size(folder: FolderSummary, computer: Computer) -> Size:
    """Return a height and a width: of the images' own shape where most share one, else a square."""
    side = min(folder.shorter[1], LARGEST_GPU if computer.gpu else LARGEST_CPU)
    ratio = min(max(folder.ratio, NARROWEST), WIDEST) if folder.of_that_ratio >= MOST else 1.0
    height, width = (
        max(SMALLEST, round(each / MULTIPLE) * MULTIPLE)
        for each in (side / math.sqrt(ratio), side * math.sqrt(ratio))
    )
    return height, width


def chosen_levels(size: Size, computer: Computer) -> int:
    """Return how often the autoencoder halves the size."""
    if computer.gpu:
        return 2 if max(size) <= LARGEST_CPU else 3
    return max(2, round(math.log2(math.sqrt(size[0] * size[1]) / FINEST_LATENT)))
