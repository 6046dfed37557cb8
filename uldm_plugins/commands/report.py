"""``uldm report``."""

from __future__ import annotations

from pathlib import Path

import click

from uldm_core.cli.console import show_warning
from uldm_plugins.commands.parameters import run_argument


@click.command()
@run_argument
def report(run: Path) -> None:
    """Write RUN/report.html anew, from what the run's folder holds, and print where it lies.

    Every run writes its own, and `uldm evaluate` adds to it; this is for a run of an older version.
    """
    from uldm_core.run_folder.folder import RunFolder
    from uldm_plugins.report.page import write_report

    _ = RunFolder(run).recipe
    click.echo(write_report(run, show_warning))
