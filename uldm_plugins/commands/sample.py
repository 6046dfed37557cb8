"""``uldm sample``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uldm_core.cli.common import FilePath, plugin_option
from uldm_core.cli.run_options import Given, device_options, run_overrides
from uldm_plugins.commands.parameters import COUNT, SEED, FiniteRange, completing_names, run_argument

if TYPE_CHECKING:
    from torch import Tensor

    from uldm_core.engine.context import Context
    from uldm_core.engine.opened_run import TrainedRun
    from uldm_core.protocols import Condition
    from uldm_core.spec.component_spec import ComponentSpec
    from uldm_plugins.stages.sample import Sample

IMAGES, ROWS = 100, 8
MOST_ROWS = 100
MOST_NAMES = 20
TIMES, FRAMES = 12, 40
"""Times between noise and image, at most: on a picture, and in an animation."""
COLUMNS, ARC_FRAMES = 8, 20
"""Images on the arc between two noises: on a picture, and in an animation."""
HEIGHT, GIF_HEIGHT, MOST_HEIGHT = 64, 112, 160
"""Pixels that images of a picture and of an animation grow to, and that larger ones shrink to."""
ENDINGS = {"--out": (".npz", ".png"), "--trajectory": (".png", ".gif"), "--interpolate": (".png", ".gif")}


@click.command()
@run_argument
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=FilePath(), help="Images: an .npz, or a grid as .png.")
@click.option(
    "--trajectory",
    type=FilePath(),
    help="How images come about of noise: a .png, a row for each, or an animated .gif.",
)
@click.option(
    "--interpolate",
    type=FilePath(),
    help="What lies between two noises: a .png, a row for each pair, or an animated .gif.",
)
@click.option(
    "--count",
    type=COUNT,
    help=f"How many images, or pairs of them; default {IMAGES} for --out, else {ROWS}.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Which images.")
@click.option(
    "--sampler", metavar="NAME", shell_complete=completing_names("sampler"), help="Instead of the run's."
)
@click.option("--steps", type=click.IntRange(min=1), help="The sampler's option of that name.")
@click.option(
    "--guidance",
    "weight",
    type=FiniteRange(min=0),
    metavar="WEIGHT",
    help="Guidance with this weight, 1 for none; without guidance in the recipe, by what the run has.",
)
@click.option(
    "--class",
    "wanted",
    multiple=True,
    metavar="CLASS",
    help="Images of this class of the run's condition, its name or its number from 0; several take turns.",
)
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@device_options
@plugin_option
def sample(
    run: Path,
    options: tuple[str, ...],
    out: Path | None,
    trajectory: Path | None,
    interpolate: Path | None,
    count: int | None,
    seed: int,
    sampler: str | None,
    steps: int | None,
    weight: float | None,
    wanted: tuple[str, ...],
    force: bool,
    run_options: Given,
) -> None:
    """Draw images from RUN, a folder that `uldm run` made; the same seed gives the same bytes.

    What a stage `tune` of the run chose is used, unless options say otherwise.
    KEY=VALUE are options of the sampler, e.g. --sampler ddim eta=0.5; `uldm show sampler/ddim` lists them.
    Give one of --out, --trajectory and --interpolate.
    """
    from uldm_core import registry
    from uldm_core.engine.opened_run import TrainedRun
    from uldm_core.recipe.overrides import parse_options
    from uldm_core.spec.building import validate
    from uldm_plugins.commands.guidance import guide
    from uldm_plugins.commands.output import write_images

    count = _checked({"--out": out, "--trajectory": trajectory, "--interpolate": interpolate}, count, force)
    flags = run_overrides(run_options)
    trained = TrainedRun.open(run, overrides=flags)
    unfinished = bool(trained.unfinished)
    trained.require_trained("autoencoder", "denoiser")
    classes = _numbers(trained, wanted)
    name, stage = trained.stage("sample")
    choice = stage.take_tuned(trained.artifacts)
    guided_by = guide(stage, trained, _table(trained, name, "guidance")["use"], weight, unfinished)
    table = {"use": sampler} if sampler else _table(trained, name, "sampler")
    if choice and choice.steps and not sampler:
        table["steps"] = choice.steps
    declared = registry.describe("sampler", table["use"]).options
    written = parse_options(options, declared) | ({"steps": steps} if steps else {})
    resolved = validate(
        registry.default(), "sampler", {**table, **written}, {}, components=trained.resolved.components
    )
    stage.sampler, stage.classes = trained.store.build(resolved), classes
    with _drawing(trained, name, seed) as context:
        if out:
            write_images(stage.draw(context, count), out, stage.drawn_classes(context, count))
        elif trajectory:
            _save_trajectory(stage, context, count, trajectory, _drawn_with(resolved, guided_by, seed))
        elif interpolate:
            _save_arcs(stage, context, count, interpolate, _drawn_with(resolved, guided_by, seed))


def _checked(wanted: dict[str, Path | None], count: int | None, force: bool) -> int:
    """Return how many images or rows to draw; raise before any work is done for what cannot be."""
    from uldm_core import MistakeError
    from uldm_plugins.commands.output import check_output

    given = [(option, path) for option, path in wanted.items() if path is not None]
    if len(given) != 1:
        raise click.UsageError(f"give one of {', '.join(wanted)}")
    ((option, path),) = given
    check_output(path, ENDINGS[option], option)
    if path.exists() and not force:
        raise MistakeError(f"{option} {path}: exists already", hint="give another name, or --force")
    if option != "--out" and count and count > MOST_ROWS:
        raise MistakeError(f"--count {count}: {option} shows {MOST_ROWS} at most")
    return count or (IMAGES if option == "--out" else ROWS)


def _numbers(trained: TrainedRun, wanted: Sequence[str]) -> list[int]:
    """Return the numbers of classes; before the networks are loaded ``MistakeError`` if one is none."""
    from uldm_core import MistakeError

    if not wanted:
        return []
    if "condition" not in trained.resolved.components:
        raise MistakeError(
            f"--class {wanted[0]}: the run has no [condition], so its denoiser knows no classes",
            hint="leave it out, or train a denoiser with a condition, such as clusters",
        )
    condition = trained.component("condition")
    return [_number(name, condition.classes, _class_names(condition)) for name in wanted]


def _number(name: str, classes: int, names: Sequence[str]) -> int:
    """Return the number of a class by its name, or by the number where none is called so."""
    from uldm_core import MistakeError
    from uldm_core.errors import did_you_mean, listing

    if name in names:
        return names.index(name)
    is_number = name.isascii() and name.isdigit() and len(name) < 10
    if is_number and int(name) < classes:
        return int(name)
    near = "" if is_number else did_you_mean(name, names)
    some = [*names[:MOST_NAMES], *(["..."] if len(names) > MOST_NAMES else [])]
    hint = f"they are called {listing(some)}" if names else ""
    raise MistakeError(f"--class {name}: the run's condition has classes 0 to {classes - 1}{near}", hint=hint)


def _class_names(condition: Condition | None) -> Sequence[str]:
    """Return the names of a condition's classes, if it has names for them."""
    from uldm_core.protocols import NamesClasses

    return condition.class_names or () if isinstance(condition, NamesClasses) else ()


def _row_labels(stage: Sample, context: Context, what: str, count: int) -> list[str]:
    """Return the labels of rows, with the class of each where the run has classes."""
    labels = [f"{what} {number}" for number in range(1, count + 1)]
    classes = stage.drawn_classes(context, count)
    if classes is None:
        return labels
    names = _class_names(stage.condition)
    called = [names[number] if names else number for number in classes.tolist()]
    return [f"{label}, class {name}" for label, name in zip(labels, called, strict=True)]


def _table(trained: TrainedRun, stage: str, option: str) -> dict[str, Any]:
    """Return the table of a component that a stage of the run has for an option."""
    from uldm_core.spec.component_spec import Reference

    own = trained.resolved.stages[stage].options[option]
    table: dict[str, Any] = (
        trained.resolved.components[own.name] if isinstance(own, Reference) else own
    ).to_dict()
    return table


@contextmanager
def _drawing(trained: TrainedRun, stage: str, seed: int) -> Iterator[Context]:
    """Yield the context for drawing, with progress; a signal or a sampler's ``ValueError`` ends it."""
    from uldm_core import MistakeError
    from uldm_core.cli.progress import reporter
    from uldm_core.engine.signals import Interrupted, Stop

    try:
        with reporter() as notify, Stop().listening() as stop:
            yield trained.context(stage, seed, notify, stop)
    except Interrupted as error:
        click.echo(f"{error}: nothing is written", err=True)
        sys.exit(error.exit_code)
    except ValueError as error:  # of a sampler, to the noise scheduler that it meets
        raise MistakeError(
            f"sampler: {error}", hint="give it other options, or choose another, such as --sampler heun"
        ) from error


def _drawn_with(sampler: ComponentSpec, guided_by: str, seed: int) -> str:
    """Describe what images were drawn with."""
    steps = f" in {sampler.options['steps']} steps" if "steps" in sampler.options else ""
    return f"{sampler.use}{steps}, {guided_by}, seed {seed}"


def _save_trajectory(stage: Sample, context: Context, count: int, path: Path, drawn_with: str) -> None:
    """Draw how images come about of noise."""
    from uldm_plugins.commands.output import counted
    from uldm_plugins.pictures.animations import save_animation
    from uldm_plugins.pictures.tables import save_table
    from uldm_plugins.stages.path import RecordedSampler

    animated = path.suffix == ".gif"
    recorded = RecordedSampler(stage.sampler, count, FRAMES if animated else TIMES)
    stage.draw(context, count, recorded)
    times, frames = stage.frames(recorded, context)
    if animated:
        labels = [f"time {time:.2f}: {_phase(time)}" for time in times.tolist()]
        save_animation(frames, labels, path, height=_height(frames, GIF_HEIGHT))
    else:
        save_table(
            frames.unbind(1),
            path,
            row_labels=_row_labels(stage, context, "image", count),
            column_labels=[f"{time:.2f}" for time in times.tolist()],
            height=_height(frames, HEIGHT),
            title=f"From noise to images: {drawn_with}\n"
            "the latents, decoded, at times from 1 (noise) to 0 (image)",
        )
    click.echo(f"{path}: {counted(count, 'image')} at {len(times)} times", err=True)


def _height(frames: Tensor, least: int) -> int:
    """Return how high images are shown: as high as they are, within bounds."""
    return max(least, min(frames.shape[-2], MOST_HEIGHT))


def _phase(time: float) -> str:
    return "noise" if time == 1 else "image" if time == 0 else "on the way"


def _save_arcs(stage: Sample, context: Context, pairs: int, path: Path, drawn_with: str) -> None:
    """Draw what lies between pairs of noises."""
    import torch

    from uldm_plugins.commands.output import counted
    from uldm_plugins.pictures.animations import save_animation
    from uldm_plugins.pictures.tables import save_table

    animated = path.suffix == ".gif"
    steps = ARC_FRAMES if animated else COLUMNS
    frames = stage.interpolate(context, pairs, steps)
    labels = [f"{share:.0%}" for share in torch.linspace(0, 1, steps).tolist()]
    if animated:
        save_animation(
            frames,
            [f"{label} of the way" for label in labels],
            path,
            height=_height(frames, GIF_HEIGHT),
            back=True,
        )
    else:
        save_table(
            frames.unbind(1),
            path,
            row_labels=_row_labels(stage, context, "pair", pairs),
            column_labels=labels,
            height=_height(frames, HEIGHT),
            title=f"Between two noises: {drawn_with}\nimages of what lies from one (0%) to the other (100%)",
        )
    click.echo(f"{path}: {counted(pairs, 'pair')}, {steps} images each", err=True)
