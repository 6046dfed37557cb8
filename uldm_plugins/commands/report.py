"""``uldm report``."""

from __future__ import annotations

from pathlib import Path

import click

from uldm_core.cli.common import run_argument
from uldm_core.errors import MistakeError


@click.command(short_help="Write a run's report.html anew.")
@run_argument
def report(run: Path) -> None:
    """Write RUN/report.html anew, from what the run's folder holds, and print where it lies.

    Every run writes its own, and `uldm evaluate` adds to it; this is for a run of an older version.
    """
    if not (run / "recipe.toml").is_file():
        raise MistakeError(
            f"{run} is not a run: it has no recipe.toml", hint="make one with: uldm run RECIPE"
        )
    from uldm_plugins.report.page import write_report

    click.echo(write_report(run))
