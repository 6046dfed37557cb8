"""``uldm run``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uldm_core.cli.common import FilePath, overrides_argument, plugin_option, recipe_argument
from uldm_core.cli.console import show_problems
from uldm_core.cli.run_options import Given, run_options, run_overrides

if TYPE_CHECKING:
    from uldm_core.recipe import ResolvedRecipe


@click.command()
@recipe_argument
@overrides_argument
@click.option("--until", metavar="STAGE", help="Stop after this stage.")
@click.option(
    "--out",
    type=FilePath(),
    help="The run's folder; default RECIPE if that is one, else runs/<recipe's name>.",
)
@click.option("--dry-run", is_flag=True, help="Print sizes, costs and what each stage would do; do nothing.")
@click.option(
    "--exact",
    is_flag=True,
    help="Refuse to resume a training where its bits will differ: on other hardware, say.",
)
@click.option(
    "--accept-data",
    is_flag=True,
    help="Keep what was trained on images of which some have changed since; the run's folder notes it.",
)
@run_options("device", "precision", "threads", "compile")
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop after so long, with the state saved; exit code 75 unless it is done.",
)
@plugin_option
@click.pass_obj
def run(
    command: str | None,
    recipe: str,
    overrides: tuple[str, ...],
    until: str | None,
    out: Path | None,
    dry_run: bool,
    exact: bool,
    accept_data: bool,
    max_minutes: float | None,
    run_options: Given,
) -> None:
    """Run RECIPE: every stage that is not done yet, in order.

    RECIPE is a TOML file, a run's folder or the name of a shipped recipe. KEY=VALUE overrides any key, e.g.
    stages.first.steps=100 or denoiser.use=dit.
    """
    from uldm_core.engine.signals import Stop

    if max_minutes is not None and not max_minutes > 0:
        raise click.BadParameter("nan is not in the range x>0.", param_hint="'--max-minutes'")
    stop = Stop() if max_minutes is None else Stop.after(max_minutes)
    with stop.listening():  # from the first moment
        from uldm_core.recipe import Recipe
        from uldm_core.run_folder.lock import lock_folder
        from uldm_core.run_folder.place import folder_of

        with stop.interrupting():
            loaded = Recipe.load(recipe, (*overrides, *run_overrides(run_options)))
            if dry_run:
                _dry_run(loaded.resolve(), out, accept_data)
                return
        folder = folder_of(loaded, out)
        with lock_folder(folder, command or "") as lock:  # before torch is imported, which takes seconds
            with stop.interrupting():
                resolved = loaded.resolve()
                show_problems(resolved.warnings)

                from uldm_core.cli.progress import reporter
                from uldm_core.engine.run import run as run_recipe

            with _report_named(folder), reporter() as notify:
                run_recipe(
                    resolved,
                    until=until,
                    reporter=notify,
                    stop=stop,
                    command=command or "",
                    exact=exact,
                    accept_data=accept_data,
                    lock=lock,
                )


@contextmanager
def _report_named(folder: Path) -> Iterator[None]:
    """Print in the end where the run's report lies; of a run that fails, only if it has written one."""

    def written() -> int:
        return path.stat().st_mtime_ns if path.is_file() else 0

    path = folder / "report.html"
    before = written()
    try:
        yield
        before = 0
    finally:
        if written() > before:
            click.echo(f"report: {path}", err=True)


def _dry_run(resolved: ResolvedRecipe, out: Path | None, accept_data: bool) -> None:
    """Print the table of sizes and costs, and what would become of each stage."""
    from uldm_core.engine.requirements import device_here, require_data, requirements
    from uldm_core.preflight.forecast import forecast, not_reused
    from uldm_core.preflight.preflight import checked
    from uldm_core.run_folder.data import Data
    from uldm_core.run_folder.folder import RunFolder
    from uldm_core.run_folder.place import folder_of
    from uldm_core.spec.building import ComponentStore

    show_problems(resolved.warnings)
    folder = folder_of(resolved, out)
    found = checked(resolved, folder=RunFolder(folder))
    show_problems(found.problems)
    click.echo(f"{found.table()}\n")
    data = Data(ComponentStore(resolved.components))
    todo, lines = list(resolved.stages), ["what each stage would do is known once the dataset is fetched"]
    if not require_data(resolved, found).absent:
        would = forecast(resolved, folder, data, accept_data)
        todo, lines = not_reused(would), [str(line) for line in would]
    needed = requirements(resolved, found, todo, device_here(resolved.run), data).require()
    show_problems(needed.problems)
    click.echo("\n".join([*needed.fetched, *lines]))
