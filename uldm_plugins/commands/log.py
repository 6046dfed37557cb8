"""``uldm log``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uldm_core.cli.common import json_option
from uldm_plugins.commands.parameters import run_argument

if TYPE_CHECKING:
    from uldm_core.run_folder.events import Event

FOLLOW_SECONDS = 0.5


@click.command()
@run_argument
@click.option(
    "--follow",
    is_flag=True,
    help="Wait for what happens, until the run has ended; exit code 1 if it was killed.",
)
@json_option
def log(run: Path, follow: bool, as_json: bool) -> None:
    """Show what happened to RUN: started, resumed, stages, checkpoints, warnings, and how it ended."""
    from uldm_core.paths import inside, refused
    from uldm_core.run_folder.events import FILE

    if run.is_file():
        raise refused(run, "a file, not a run's folder")
    path = inside(run, FILE)
    if not path.is_file() and not (follow and run.is_dir()):
        raise refused(path, "missing", f"{run} is no run, or one of an earlier version, which kept none")
    for event in _events(run, path, follow):
        click.echo(json.dumps(_table(event)) if as_json else _line(event))


def _events(run: Path, path: Path, follow: bool) -> Iterator[Event]:
    """Yield the events of a log; those to come as well, until the run has ended or nobody writes any more."""
    from uldm_core.run_folder.events import BEGINS, ENDS, read_events
    from uldm_core.run_folder.lock import is_locked

    end, ended = 0, False
    while True:
        alive = is_locked(run)  # before the log is read: what a run wrote at last is read once more
        events, damaged, end = read_events(path, end)
        if damaged:
            click.echo(f"warning: {path}: {damaged} lines are damaged, and left out", err=True)
        for event in events:
            ended = event.name in ENDS or (ended and event.name not in BEGINS)
            yield event
        if not follow:
            if not end:
                click.echo(
                    f"{path}: no events: the run has just begun, or lost them; see uldm doctor", err=True
                )
            return
        if not alive:
            if not ended:
                click.echo("nobody writes any more: the run was killed, or has not begun", err=True)
                click.get_current_context().exit(1)
            return
        time.sleep(FOLLOW_SECONDS)


def _table(event: Event) -> dict[str, object]:
    return {"time": event.time, "event": event.name, **event.values}


def _line(event: Event) -> str:
    from uldm_plugins.report.history import entry_of

    entry = entry_of(event)
    stage = f"{entry.stage}: " if entry.stage else ""
    return f"{entry.time}  {entry.name:<10}  {stage}{entry.text}".rstrip(" :")
