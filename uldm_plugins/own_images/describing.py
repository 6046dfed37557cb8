"""What was found, chosen and measured, in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from uldm_core.preflight.preflight import short
from uldm_plugins.own_images.choice import MOST, Choice
from uldm_plugins.own_images.facts import FEW, Computer, FolderSummary, Request, Size
from uldm_plugins.own_images.schedule import Schedule

_REASONS = 5
_SOME = 6


def describe_folder(folder: FolderSummary) -> Iterator[str]:
    """Yield what a folder of images holds, a line each."""
    about = "about " if folder.checked < folder.count else ""
    yield f"{about}{folder.count:,} images that can be used"
    often = sorted(folder.left_out.items(), key=lambda item: -item[1])
    yield from (f"left out: {count:,} files: {reason}" for reason, count in often[:_REASONS])
    if others := sum(count for _, count in often[_REASONS:]):
        yield f"left out: {others:,} files for other reasons"
    yield _shapes(folder)
    yield f"{_colours(folder)}; {_share(folder.transparent)} have transparent pixels"
    if folder.repeated:
        yield f"{folder.repeated:,} are exact copies of others"
    if folder.similar:
        yield f"{_share(folder.similar)} of the images kept for testing look nearly like one that is trained on"
    if folder.class_folders:
        names = ", ".join(list(folder.class_folders)[:_SOME])
        more = ", ..." if len(folder.class_folders) > _SOME else ""
        yield f"{len(folder.class_folders)} folders that may be classes: {names}{more}"
    if folder.count < FEW:
        yield f"that is a small set: below {FEW:,} images a model soon repeats those it was trained on"


def describe_choice(choice: Choice) -> Iterator[str]:
    """Yield what was chosen and why, a line for each table that has a reason."""
    for name, why in choice.why.items():
        if why:
            yield f"{name.removeprefix('stages.')}: {why}"


def head(
    title: str, command: str, choice: Choice, steps: Schedule, computer: Computer, takes: tuple[int, int]
) -> Iterator[str]:
    """Yield what the recipe makes and what it takes.

    Args:
        title: of the folder.
        command: that wrote it.
        choice: what it consists of.
        steps: of its stages.
        computer: what it was written for.
        takes: bytes of memory, and on disk.
    """
    yield f"Images like those in {title}, from a latent diffusion model that is trained on them alone."
    yield f"Written by: {command}"
    what = {
        "first": f"the autoencoder: {steps.first:,} steps of {_batch(choice, 'first')} images",
        "second": f"the denoiser: {steps.second:,} steps of {_batch(choice, 'second')} latents",
        "samples": f"{steps.samples:,} images are drawn",
        "scores": "they are compared with images that were not trained on",
    }
    for stage, seconds in steps.seconds.items():
        yield f"  {stage:8} {_clock(seconds):>6}  {what[stage]}"
    yield f"{steps.minutes:.0f} minutes in all on {_where(computer, steps)}."
    yield f"It takes {short(takes[0], 'B')} of memory and {short(takes[1], 'B')} on disk."


def describe_other(choice: Choice, other: Choice, steps: Schedule) -> str:
    """Return what another choice changes, on one line."""
    parts = []
    if other.size != choice.size:
        parts.append(f"images of {_of_size(other.size)}")
    if other.latents != choice.latents:
        parts.append("latents of {}x{}x{}".format(*other.latents))
    for table in ("autoencoder", "denoiser"):
        if other.tables[table]["use"] != choice.tables[table]["use"]:
            parts.append(f"{table} {other.tables[table]['use']}")
    batches = f" of {_batch(other, 'first')}" if _batch(other, "first") != _batch(choice, "first") else ""
    parts.append(f"{steps.first:,} steps{batches} and {steps.second:,} in {steps.minutes:.0f} minutes")
    return ", ".join(parts)


def _batch(choice: Choice, stage: str) -> int:
    return int(choice.tables[f"stages.{stage}"]["batch_size"])


def _where(computer: Computer, steps: Schedule) -> str:
    if not computer.here:
        return "a desktop's GPU: assumed, not measured"
    threads = "" if computer.gpu else f", {computer.threads} threads"
    return f"this computer ({computer.name}{threads}), as a few steps of each training took when this was written"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def _of_size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _share(part: float) -> str:
    return {0.0: "none", 1.0: "all"}.get(part) or f"{max(1, min(99, round(100 * part)))} %"


def _shapes(folder: FolderSummary) -> str:
    smallest, usual, largest = folder.shorter
    sides = f"{usual} pixels" if smallest == largest else f"{smallest} to {largest} pixels, mostly about {usual}"
    if folder.of_that_ratio == 1 and smallest == largest:
        return f"each {folder.height} pixels high and {folder.width} wide"
    shape = f"{_share(folder.of_that_ratio)} have about the shape {folder.width}x{folder.height}"
    turned = f"{_share(folder.landscape)} landscape, {_share(folder.portrait)} portrait"
    return f"the shorter side is {sides}; {shape} (width x height); {turned}"


def _colours(folder: FolderSummary) -> str:
    if folder.grey == 1:
        return "all grey"
    return "in colour" if folder.grey == 0 else f"in colour, {_share(folder.grey)} grey"
