"""What was found, chosen and measured, in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from uldm_core.preflight.preflight import short
from uldm_plugins.own_images.choice import Choice
from uldm_plugins.own_images.facts import FEW, Computer, FolderSummary, Size
from uldm_plugins.own_images.schedule import Schedule

WIDTH = 100
_REASONS, _NAMES = 5, 6


def describe_folder(folder: FolderSummary) -> Iterator[str]:
    """Yield what a folder of images holds, a line each."""
    about = "" if folder.checked else "about "
    yield f"{about}{folder.count:,} images that can be used"
    yield from _left_out(folder)
    yield _shapes(folder)
    yield _colours(folder)
    if folder.repeated:
        yield f"{folder.repeated:,} are exact copies of others"
    if folder.similar:
        yield f"{_share(folder.similar)} of the images for testing look nearly like one for training"
    if folder.classes:
        some, more = ", ".join(folder.classes[:_NAMES]), ", ..." if len(folder.classes) > _NAMES else ""
        yield f"{len(folder.classes)} folders, which may be classes: {some}{more}"
    if folder.count < FEW:
        yield f"a small set: of fewer than {FEW:,} images a model soon repeats those that it was trained on"


def describe_choice(choice: Choice) -> Iterator[str]:
    """Yield why each table is as it is."""
    for name, why in choice.why.items():
        yield from wrap(f"{name.removeprefix('stages.')}: {why}", WIDTH, subsequent_indent="    ")


def head(
    images: str, command: str, choice: Choice, steps: Schedule, computer: Computer, takes: tuple[int, int]
) -> Iterator[str]:
    """Yield what a recipe makes, and what it takes.

    Args:
        images: the folder's name.
        command: that wrote the recipe.
        choice: what the recipe consists of.
        steps: of its stages.
        computer: that it was written for.
        takes: bytes of memory, and on disk.
    """
    yield f"Images like those in {images}, from a latent diffusion model that is trained on them alone."
    yield f"Written by: {command}"
    what = {
        "first": f"the autoencoder: {steps.first:,} steps of {_batch(choice, 'first')} images",
        "second": f"the denoiser: {steps.second:,} steps of {_batch(choice, 'second')} latents",
        "tune": f"{choice.tuned} weights of the guidance are tried, with {steps.tuned} images each",
        "samples": f"{steps.samples:,} images are drawn",
        "scores": "they are compared with images that were not trained on",
    }
    for stage, seconds in steps.seconds.items():
        yield f"  {stage:8} {_clock(seconds):>6}  {what[stage]}"
    yield f"{steps.minutes:.0f} minutes in all, {_where(computer)}."
    yield f"It takes about {short(takes[0], 'B')} of memory and {short(takes[1], 'B')} on disk."


def describe_other(choice: Choice, other: Choice, steps: Schedule) -> str:
    """Return what another choice changes, and how many steps of it fit."""
    parts = []
    if other.size != choice.size:
        parts.append(f"images of {_of_size(other.size)}")
    if other.latents != choice.latents:
        parts.append(f"latents of {_of_size(other.latents[1:])}")
    for table in ("autoencoder", "denoiser"):
        name = other.tables[table]["use"]
        if name != choice.tables[table]["use"]:
            parts.append(name)
    steps_of = (
        f"{number:,} steps of {_batch(other, stage)}"
        for stage, number in (("first", steps.first), ("second", steps.second))
    )
    parts.append(f"{' and '.join(steps_of)} in {steps.minutes:.0f} minutes")
    return ", ".join(parts)


def _batch(choice: Choice, stage: str) -> int:
    return int(choice.tables[f"stages.{stage}"]["batch_size"])


def _where(computer: Computer) -> str:
    if not computer.here:
        return "if a GPU does what a desktop's does in training: none is here to be measured"
    threads = "" if computer.gpu else f" with {computer.threads} threads"
    return f"by a few steps of each training on {computer.name}{threads}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def _of_size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _share(part: float) -> str:
    """Return a share in words: a part is never none or all."""
    if part in (0, 1):
        return "all" if part else "none"
    return f"{min(max(round(100 * part), 1), 99)} %"


def _left_out(folder: FolderSummary) -> Iterator[str]:
    often = sorted(folder.left_out.items(), key=lambda item: -item[1])
    yield from (f"left out: {count:,} ({reason})" for reason, count in often[:_REASONS])
    if others := sum(count for _, count in often[_REASONS:]):
        yield f"left out: {others:,} (for other reasons)"


def _shapes(folder: FolderSummary) -> str:
    smallest, usual, largest = folder.shorter
    if folder.of_that_ratio == 1 and smallest == largest:
        return f"each {folder.height} pixels high and {folder.width} wide"
    sides = f"{usual} pixels" if smallest == largest else f"{smallest} to {largest} pixels, mostly {usual}"
    shape = f"{_share(folder.of_that_ratio)} about {folder.ratio:.2f} times as wide as high"
    turned = f"{_share(folder.landscape)} landscape, {_share(folder.portrait)} portrait"
    return f"the shorter side is {sides}; {shape}; {turned}"


def _colours(folder: FolderSummary) -> str:
    colour = f"in colour, {_share(folder.grey)} of them grey" if folder.grey else "in colour"
    transparent = f"{_share(folder.transparent)} have transparent pixels" if folder.transparent else "opaque"
    return f"{'grey' if folder.grey == 1 else colour}; {transparent}"
