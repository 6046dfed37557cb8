"""What a recipe for a folder of images consists of: pure rules, from what is known of folder and computer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen

from uldm_plugins.own_images.facts import FEW, Computer, FolderSummary, Request, Size

Table = dict[str, Any]
Reasoned = tuple[Table, str]
"""A table of the recipe, and why it is so."""

MULTIPLE = 8
"""Sides are multiples of so many pixels."""
SMALLEST, LARGEST_CPU, LARGEST_GPU = 16, 64, 128
FINEST_LATENT = 16
"""A processor gets latents of at most so many rows and columns."""
LATENT_CHANNELS = 4
MOST_VALUES = 1536
"""Of a latent for the MLP, whose first and last layers grow with them."""
IMAGES_A_CLUSTER, MOST_CLUSTERS = 150, 400
MOST = 0.7
"""A share that counts as most of the images."""


@frozen
class Choice:
    """A recipe but for the numbers of steps, and why it is as it is.

    Args:
        tables: of the recipe, by name; those of stages as ``stages.NAME``, without ``steps``.
        why: a sentence or two on each table, by its name.
        size: height and width of the images.
        latents: channels, height and width.
        other: lines that may be put into a table in place of its own, by the table's name.
    """

    tables: Mapping[str, Table]
    why: Mapping[str, str]
    size: Size
    latents: tuple[int, int, int]
    other: Mapping[str, Sequence[str]] = field(factory=dict)

    @property
    def clusters(self) -> int:
        """How many the denoiser is conditioned on; 0 without a condition."""
        return int(self.tables.get("condition", {}).get("classes", 0))

    @property
    def channels(self) -> int:
        """Of the images."""
        return int(self.tables["dataset"]["channels"])

    @property
    def adversarial(self) -> bool:
        """Whether a discriminator is trained."""
        return "discriminator" in self.tables


def choose(folder: FolderSummary, computer: Computer, request: Request) -> Choice:
    """Return the recipe for a folder: the same for the same facts."""
    size = request.size or chosen_size(folder, computer)
    levels = chosen_levels(size, computer)
    latents = (LATENT_CHANNELS, *(-(-side // 2**levels) for side in size))
    found = {
        "dataset": _dataset(folder, request, size),
        "autoencoder": _autoencoder(folder, computer, size, levels),
        "discriminator": _discriminator(computer, size),
        "condition": _condition(folder),
        "denoiser": _denoiser(computer, latents),
        "guidance": _guidance(),
        "noise_scheduler": ({"use": "flow"}, "Straight paths from noise to latents."),
        "timestep_weighting": ({"use": "logit_normal"}, "The middle of the way is the hardest part."),
        "stages.first": _first(computer, size),
        "stages.second": _second(folder, computer),
        "stages.samples": _samples(),
        "stages.scores": _scores(computer, size, levels),
    }
    found = {name: reasoned for name, reasoned in found.items() if reasoned[0]}
    tables = {name: table for name, (table, _) in found.items()}
    return Choice(tables, {name: why for name, (_, why) in found.items()}, size, latents)


def chosen_size(folder: FolderSummary, computer: Computer) -> Size:
    """Return a height and a width: of the images' own shape where most share one, else a square."""
    side = min(folder.shorter[1], LARGEST_GPU if computer.gpu else LARGEST_CPU)
    ratio = min(max(folder.ratio, 0.5), 2.0) if folder.of_that_ratio >= MOST else 1.0
    sides = side / math.sqrt(ratio), side * math.sqrt(ratio)
    height, width = (max(SMALLEST, round(each / MULTIPLE) * MULTIPLE) for each in sides)
    return height, width


def chosen_levels(size: Size, computer: Computer) -> int:
    """Return how often the autoencoder halves the size."""
    if computer.gpu:
        return 2 if max(size) <= LARGEST_CPU else 3
    return max(2, math.ceil(math.log2(max(size) / FINEST_LATENT)))


def written(size: Size) -> int | list[int]:
    """Return a size as a recipe has it: one number for a square."""
    return size[0] if size[0] == size[1] else list(size)


def _dataset(folder: FolderSummary, request: Request, size: Size) -> Reasoned:
    channels = request.channels or (1 if folder.grey == 1 and folder.sampled else 3)
    table = {"use": "image_folder", "root": str(folder.root), "size": written(size), "channels": channels}
    return table, ""


def _autoencoder(folder: FolderSummary, computer: Computer, size: Size, levels: int) -> Reasoned:
    fits = all(side % 2**levels == 0 for side in size)
    if computer.gpu and fits:
        widths = [128, 256, 256, 512][: levels + 1]
        kl = {"use": "autoencoder_kl", "block_out_channels": widths, "norm_num_groups": 32}
        return kl, "Latents of a Gaussian each, as in Stable Diffusion: a GPU is fast enough for this one."
    places = folder.count * math.prod(-(-side // 2**levels) for side in size)
    codes = 2 ** max(6, min(11, int(math.log2(places / 64))))
    narrow, wide = (
        [min(first << level, most) for level in range(levels)] for first, most in ((32, 128), (48, 192))
    )
    quantizer = {"use": "vq_ema", "codebook_size": codes, "dim": LATENT_CHANNELS, "decay": 0.99}
    table = {"use": "vqvae_fast", "quantizer": quantizer, "encoder_channels": narrow}
    return {**table, "decoder_channels": wide}, (
        f"Each side becomes {2**levels} times smaller, and each place one of {codes:,} codes of "
        f"{LATENT_CHANNELS} numbers. Quick on a processor."
    )


def _discriminator(computer: Computer, size: Size) -> Reasoned:
    if min(size) < SMALLEST:
        return {}, ""
    table = {"use": "patchgan", "channels": [64, 128, 256] if computer.gpu else [32, 64, 128]}
    return table, "Keeps reconstructions sharp: it learns to tell them from images, patch by patch."


def _condition(folder: FolderSummary) -> Reasoned:
    classes = min(folder.count // IMAGES_A_CLUSTER, MOST_CLUSTERS)
    if classes < 2:
        return {}, ""
    return {"use": "clusters", "classes": classes}, (
        f"Groups of similar images, about {folder.count // classes} each, found without labels: the denoiser "
        "is given the group, which makes its task easier. Samples get groups as often as they occur."
    )


def _denoiser(computer: Computer, latents: tuple[int, int, int]) -> Reasoned:
    values = math.prod(latents)
    if computer.gpu:
        patch = 2 if latents[1] * latents[2] > 256 else 1
        table = {"use": "dit", "patch_size": patch, "hidden_size": 384, "depth": 12, "num_heads": 6}
        return table, "A diffusion transformer."
    if values <= MOST_VALUES:
        width = 640 if values <= 256 else 1024
        return {"use": "mlp", "width": width, "hidden": 2 * width}, (
            f"The {values:,} numbers of a latent are few enough for matrix products over all of them at once, "
            "the fastest that a processor does."
        )
    return {"use": "dit"}, f"The {values:,} numbers of a latent are too many for `mlp`."


def _guidance() -> Reasoned:
    return {"use": "auto", "weight": 1.5}, (
        "Samples are led away from an early state of the denoiser, whose mistakes are the same, only larger."
    )


def _first(computer: Computer, size: Size) -> Reasoned:
    table: Table = {"use": "train_autoencoder", "batch_size": 64 if computer.gpu else 32}
    table["losses"] = [{"use": "l1", "weight": 0.5}, {"use": "l2"}]
    if min(size) >= SMALLEST:
        table["adversarial"] = {"use": "hinge", "weight": 0.002}
    lr = 3e-4 if computer.gpu else 2e-3
    table["optimizer"] = {"use": "adamw", "lr": lr, "weight_decay": 1e-4}
    return table, ""


def _second(folder: FolderSummary, computer: Computer) -> Reasoned:
    table: Table = {"use": "train_diffusion", "batch_size": 256}
    table["optimizer"] = {"use": "adamw", "lr": 3e-4 if computer.gpu else 1e-3}
    table["lr_schedule"] = {"use": "cosine", "warmup": 50}
    return table, ""


def _samples() -> Reasoned:
    return {"use": "sample", "sampler": {"use": "heun", "steps": 10, "shift": 0.7}}, ""


def _scores(computer: Computer, size: Size, levels: int) -> Reasoned:
    return {"use": "evaluate"}, ""
