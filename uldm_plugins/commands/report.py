"""``uldm report``."""

from __future__ import annotations

from pathlib import Path

import click
from attrs import evolve

from uldm_core.cli.common import run_argument, show_problems


@click.command(short_help="Write a run's report.html anew.")
@run_argument
def report(run: Path) -> None:
    """Write RUN/report.html anew, from what the run's folder holds, and print where it lies.

    Every run writes its own, and `uldm evaluate` adds to it; this is for a run of an older version.
    """
    from uldm_core.run_folder.folder import RunFolder
    from uldm_plugins.report.page import write_report

    _ = RunFolder(run).recipe
    click.echo(write_report(run, lambda problem: show_problems([evolve(problem, warning=True)])))
