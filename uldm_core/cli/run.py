"""``uldm run``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uldm_core.cli.common import (
    FilePath,
    device_option,
    overrides_argument,
    plugin_option,
    precision_option,
    recipe_argument,
    run_overrides,
    show_problems,
    threads_option,
)

if TYPE_CHECKING:
    from uldm_core.recipe import ResolvedRecipe


@click.command(short_help="Run a recipe.")
@recipe_argument
@overrides_argument
@click.option("--until", metavar="STAGE", help="Stop after this stage.")
@click.option(
    "--out",
    type=FilePath(path_type=Path),
    help="The run's folder; default RECIPE if that is one, else runs/<recipe's name>.",
)
@click.option("--dry-run", is_flag=True, help="Print sizes, costs and what each stage would do; do nothing.")
@device_option
@precision_option
@threads_option
@click.option("--compile/--no-compile", default=None, help="Compile networks with torch.compile.")
@plugin_option
@click.pass_obj
def run(
    command: str | None,
    recipe: str,
    overrides: tuple[str, ...],
    until: str | None,
    out: Path | None,
    dry_run: bool,
    device: str | None,
    precision: str | None,
    threads: int | None,
    compile: bool | None,
) -> None:
    """Run RECIPE: every stage that is not done yet, in order.

    RECIPE is a TOML file, a run's folder or the name of a shipped recipe. KEY=VALUE overrides any key, e.g.
    stages.first.steps=100 or denoiser.use=dit.
    """
    from uldm_core.recipe import Recipe

    flags = run_overrides(device=device, precision=precision, threads=threads, compile=compile)
    resolved = Recipe.load(recipe, (*overrides, *flags)).resolve()
    show_problems(resolved.warnings)
    if dry_run:
        _rehearse(resolved, out)
        return

    from uldm_core.cli.progress import reporter
    from uldm_core.engine.run import folder_of
    from uldm_core.engine.run import run as run_plan
    from uldm_core.engine.signals import Stop

    with _pointing_at_the_report(folder_of(resolved, out)), reporter() as notify, Stop().listening() as stop:
        run_plan(resolved, out=out, until=until, reporter=notify, stop=stop, command=command or "")


@contextmanager
def _pointing_at_the_report(folder: Path) -> Iterator[None]:
    """Print where the report is, however the run ended: one that was written, or that is still up to date."""
    path = folder / "report.html"
    before, done = _age(path), False
    try:
        yield
        done = True
    finally:
        if _age(path) != before or (done and before):
            click.echo(f"report: {path}", err=True)


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


def _rehearse(resolved: ResolvedRecipe, out: Path | None) -> None:
    """Print the table of sizes and costs, and what would become of each stage."""
    from uldm_core.engine.run import folder_of
    from uldm_core.preflight.forecast import forecast
    from uldm_core.preflight.preflight import checked
    from uldm_core.run_folder.folder import RunFolder

    found = checked(resolved, folder=RunFolder(folder_of(resolved, out)))
    show_problems(found.problems)
    click.echo(found.table())
    click.echo()
    for line in forecast(resolved, folder_of(resolved, out)):
        click.echo(str(line))
