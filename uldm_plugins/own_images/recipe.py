"""From a folder of images to the text of a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from uldm_core.preflight.preflight import short
from uldm_plugins.own_images.choice import Choice, choose
from uldm_plugins.own_images.describing import describe_choice, describe_folder, describe_other, head
from uldm_plugins.own_images.facts import Computer, FolderSummary, Request
from uldm_plugins.own_images.folder import MOST_CHECKED, Folder, look_at, read_all, some_images
from uldm_plugins.own_images.measure import PROGRAM, Costs, assumed, costs, measured, scaled, this_computer
from uldm_plugins.own_images.schedule import Schedule, Speed, schedule
from uldm_plugins.own_images.writing import recipe_text
from uldm_plugins.shared.files import Reading, shown

SOME = 256
"""Images that speed is measured on."""


@frozen
class Draft:
    """A recipe with its costs and steps."""

    choice: Choice
    cost: Costs
    speed: Speed
    steps: Schedule


def own_recipe(path: Path, images: Path, request: Request, gpu: bool, echo: Callable[[str], object]) -> str:
    """Return the recipe for a folder of images as text, and report what is found on the way.

    Args:
        path: where the recipe is going to be.
        images: the folder.
        request: what was asked for.
        gpu: whether it is for a GPU, be there one or not.
        echo: receives a line.

    Raises:
        MistakeError: the folder has too few images.
    """
    echo(f"looking at {shown(images)}")
    folder = look_at(images)
    computer = this_computer(path.parent)
    if gpu and not computer.gpu:
        computer = evolve(computer, gpu=True, here=False)
    choice = choose(folder.summary, computer, request)
    summary = folder.summary
    if len(folder.names) <= MOST_CHECKED:
        echo(f"reading {len(folder.names):,} files, which the run need not read again")
        summary = read_all(folder, dataset_options(choice))
    for line in describe_folder(summary):
        echo(f"  {line}")
    summary = evolve(summary, root=root_in_recipe(path, images))
    draft = _draft(summary, computer, request, folder, echo)
    for warning in too_much(memory_and_disk(summary, draft), computer):
        echo(f"warning: {warning}")
    echo("chosen:")
    for line in describe_choice(draft.choice):
        echo(f"  {line}")
    return text_of(path, summary, computer, request, draft)


def _draft(
    summary: FolderSummary,
    computer: Computer,
    request: Request,
    folder: Folder,
    echo: Callable[[str], object],
) -> Draft:
    """Return the recipe with its steps; the computer is measured, if it is here."""
    choice = choose(summary, computer, request)
    cost = costs(choice)
    if computer.here:
        echo(f"measuring {computer.name}: a few steps of each training")
        speed = measured(choice, some_images(folder, reading_of(choice), SOME))
    else:
        speed = assumed(cost)
    return Draft(choice, cost, speed, schedule(summary, choice, speed, request.minutes))


def text_of(path: Path, folder: FolderSummary, computer: Computer, request: Request, draft: Draft) -> str:
    """Return a draft as TOML, with what other options would change at its head."""
    command = f"uldm new recipe {path} --images {folder.root}"
    lines = [
        *head(
            shown(folder.root), command, draft.choice, draft.steps, computer, memory_and_disk(folder, draft)
        )
    ]
    lines += ["", "With other options:"]
    lines += [f"  {option:14} {what}" for option, what in _others(folder, computer, request, draft)]
    return recipe_text(draft.choice, draft.steps, lines)


def _others(
    folder: FolderSummary, computer: Computer, request: Request, draft: Draft
) -> Iterator[tuple[str, str]]:
    """Yield options, and what each would change."""
    minutes, (height, width) = request.minutes * 3, draft.choice.size
    sides = f"{2 * height}" if height == width else f"{2 * height}x{2 * width}"
    asked = {
        f"--minutes {minutes:g}": (evolve(request, minutes=minutes), computer),
        f"--size {sides}": (evolve(request, size=(2 * height, 2 * width)), computer),
    }
    if not computer.gpu:
        asked["--gpu"] = (request, evolve(computer, gpu=True, here=False))
    for option, (other, there) in asked.items():
        choice = choose(folder, there, other)
        cost = draft.cost if choice == draft.choice else costs(choice)
        near = scaled(draft.speed, draft.cost, cost)
        speed = near if there == computer else assumed(cost)
        steps = schedule(folder, choice, speed, other.minutes)
        yield option, describe_other(draft.choice, choice, steps)


def too_much(takes: tuple[int, int], computer: Computer) -> Iterator[str]:
    """Yield what a recipe takes more of than there is."""
    for what, need, there in zip(("memory", "disk"), takes, (computer.memory, computer.free_disk)):
        if need > there and (computer.here or what == "disk"):
            yield f"it takes about {short(need, 'B')} of {what}, of {short(there, 'B')}: lower --size"


def dataset_options(choice: Choice) -> dict[str, Any]:
    """Return the options of the recipe's dataset, but for the folder."""
    return {name: value for name, value in choice.tables["dataset"].items() if name not in ("use", "root")}


def reading_of(choice: Choice) -> Reading:
    """Return how the recipe's dataset reads files."""
    options = {**dataset_options(choice), "size": choice.size}
    return Reading(**options)


def root_in_recipe(path: Path, images: Path) -> Path:
    """Return the folder as the recipe names it: from its own place, if it lies beside or below the recipe."""
    folder, images = path.parent.resolve(), images.resolve()
    return images.relative_to(folder) if images.is_relative_to(folder) and images != folder else images


def memory_and_disk(folder: FolderSummary, draft: Draft) -> tuple[int, int]:
    """Return about how many bytes of memory a run takes at its most, and how many it leaves on disk."""
    values = draft.choice.channels * math.prod(draft.choice.size)
    latents = 4 * folder.count * math.prod(draft.choice.latents)
    compared = 4 * folder.count * values  # by ``nearest_neighbour``
    packed, samples = folder.count * values, draft.steps.samples * values
    memory = PROGRAM + max(draft.cost.memory + 2 * latents, compared)
    return memory, draft.cost.disk + packed + samples
