"""``uldm compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import evolve

from uldm_core.cli.common import FilePath, completing, plugin_option, runs
from uldm_core.cli.console import show_warning
from uldm_core.cli.run_options import Given, device_options, run_overrides
from uldm_core.errors import MistakeError
from uldm_plugins.commands.parameters import SEED

if TYPE_CHECKING:
    from uldm_plugins.report.comparison import Drawn

NOISE = "compare"
"""All runs draw as if their stage had this name: the stage is a part of what a seed means."""


@click.command()
@click.argument("runs", nargs=-1, metavar="RUN RUN...", type=FilePath(), shell_complete=completing(runs))
@click.option(
    "--out",
    type=FilePath(),
    default="compare.html",
    show_default=True,
    help="The page to write.",
)
@click.option(
    "--count",
    type=click.IntRange(0, 1000),
    default=32,
    show_default=True,
    help="How many samples to draw from each; 0 for none.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Which samples.")
@device_options
@plugin_option
def compare(
    runs: tuple[Path, ...],
    out: Path,
    count: int,
    seed: int,
    run_options: Given,
) -> None:
    """Write a page that lays two or more RUNs side by side: options, metrics, curves, and samples.

    Samples are drawn anew, from the same noise in every run; a run that is not trained yet is shown without.
    """
    _check(runs, out)
    from uldm_core.run_folder.files import write_text
    from uldm_plugins.report.comparison import Drawn, comparison_of

    flags = run_overrides(run_options)
    drawn = [_draw(run, count, seed, flags) if count else Drawn() for run in runs]
    page = comparison_of(runs, drawn, show_warning)
    write_text(out, page)
    click.echo(out)


def _check(runs: tuple[Path, ...], out: Path) -> None:
    """Raise ``MistakeError`` before any work is done."""
    if len(runs) < 2:
        raise MistakeError("two runs or more can be compared", hint="uldm compare runs/one runs/other")
    from uldm_core.run_folder.folder import RunFolder

    for run in runs:
        _ = RunFolder(run).recipe
    if out.is_dir() or not out.parent.is_dir():
        raise MistakeError(
            f"--out {out}: {'is a folder' if out.is_dir() else f'there is no folder {out.parent}'}"
        )


def _draw(run: Path, count: int, seed: int, flags: tuple[str, ...]) -> Drawn:
    """Draw samples from a run, or return why there are none."""
    from uldm_core.cli.progress import reporter
    from uldm_core.engine.opened_run import TrainedRun
    from uldm_core.engine.signals import Stop
    from uldm_plugins.commands.guidance import leave_out_early
    from uldm_plugins.report.comparison import Drawn

    try:
        trained = TrainedRun.open(run, overrides=flags)
        unfinished = bool(trained.unfinished)
        trained.require_trained("autoencoder", "denoiser")
        _, stage = trained.stage("sample")
        stage.take_tuned(trained.artifacts)
        if unfinished:
            leave_out_early(stage, trained)
        stage.batch_size = count  # a part of what a seed means as well
        with reporter() as notify, Stop().listening() as stop:
            images = stage.draw(trained.context(NOISE, seed, notify, stop), count)
    except MistakeError as error:
        problem = evolve(error.problems[0], hint="")
        return Drawn(why_not=str(problem))
    return Drawn(images.permute(0, 2, 3, 1).contiguous().numpy())
