"""Progress for a person at a terminal: a live bar there, plain lines in a file or pipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from uldm_core.engine.progress import Lines, Reporter, say_metrics, say_seconds


@contextmanager
def reporter() -> Iterator[Reporter]:
    """Yield a reporter that suits standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(lambda text: click.echo(text, err=True))
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[metrics]}", style="dim"),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as progress:
        yield _Terminal(progress)


class _Terminal:
    """One live line for the stage that runs; finished stages stay above it."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task: TaskID | None = None

    def started(self, stage: str, doing: str, total: int, done: int) -> None:
        self._drop()
        self.task = self.progress.add_task(
            f"{stage}: {doing}", total=total, completed=done, rate="", metrics=""
        )

    def advanced(self, done: int, metrics: Mapping[str, float], rate: float) -> None:
        if self.task is not None:
            speed = f"{rate:.0f} images/s" if rate else ""
            self.progress.update(self.task, completed=done, rate=speed, metrics=say_metrics(metrics))

    def finished(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        self._drop()
        self.message(f"[{stage}] done in {say_seconds(seconds)} {say_metrics(summary)}".rstrip())

    def message(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False)

    def _drop(self) -> None:
        if self.task is not None:
            self.progress.remove_task(self.task)
            self.task = None
