"""Progress for a person at a terminal: the list of stages, alive there; plain lines in a file or pipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from uldm_core.engine.progress import Clock, Lines, Reporter, format_metrics, format_seconds

REFRESHED_PER_SECOND = 4
MARKS = {"waiting": "·", "running": "▸", "stopped": "■", "done": "✓"}
ASCII_MARKS = {"waiting": ".", "running": ">", "stopped": "!", "done": "+"}
STYLES = {"waiting": "dim", "running": "bold", "stopped": "yellow", "done": "green"}
WIDEST_BAR = 40
MARGIN = 3
"""Columns left free at the right: a terminal echoes ``^C`` there, and must not begin a line for it."""


@contextmanager
def reporter() -> Iterator[Reporter]:
    """Yield a reporter that suits standard error."""
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(lambda text: click.echo(text, err=True))
        return
    terminal = Terminal(console)
    try:
        yield terminal
    finally:
        terminal.close()


class Terminal(Reporter):
    """The stages of a run below each other, each with its state; messages are above them.

    A state is ``waiting``, ``running``, ``done``, or ``stopped`` where it was when all ended.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.marks = ASCII_MARKS if console.options.ascii_only else MARKS
        self.rows: dict[str, tuple[str, RenderableType]] = {}
        self.live = Live(
            console=console,
            get_renderable=self.rendered,
            refresh_per_second=REFRESHED_PER_SECOND,
            transient=True,
        )

    def stages(self, names: Sequence[str]) -> None:
        """Show the list; it stays when the run has ended."""
        self.rows = {name: ("waiting", Text("waiting", "dim")) for name in names}
        self.console.print()
        self.live.transient = False
        self.live.start()

    def started(self, stage: str, doing: str, total: int, done: int) -> None:
        """Show what the stage does."""
        self.stage, self.doing, self.total = stage, doing, total
        self.clock = Clock(done)
        self.advanced(done, {}, 0.0)
        self.live.start()

    def advanced(self, done: int, metrics: Mapping[str, float], rate: float) -> None:
        """Show how far the stage is."""
        self.done = done
        details = [self.doing, *([f"{rate:.0f} images/s"] if rate else [])]
        details += [format_metrics({name: value}) for name, value in metrics.items()]
        text = Text(", ".join(details), "dim")
        self.rows[self.stage] = "running", Group(self._bar(), text) if self.total else text

    def _bar(self) -> RenderableType:
        seconds = self.clock.left(self.done, self.total)
        left = f"{format_seconds(seconds)} left" if seconds else ""
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_column(max_width=WIDEST_BAR)
        line.add_row(ProgressBar(self.total, self.done), f"{self.done}/{self.total}", left)
        return line

    def finished(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Show how long the stage took, and its summary."""
        self.rows[stage] = "done", Text(f"{format_seconds(seconds)}  {format_metrics(summary)}".rstrip())

    def reused(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Show that the stage was done before."""
        text = f"done before, in {format_seconds(seconds)}  {format_metrics(summary)}"
        self.rows[stage] = "done", Text(text.rstrip())

    def message(self, text: str) -> None:
        """Print above the list; what comes when all is done, below it."""
        if not self.live.transient and all(state == "done" for state, _ in self.rows.values()):
            self.live.stop()
        self.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the list as it is, with what runs as stopped."""
        for name, (state, _) in self.rows.items():
            if state == "running":
                where = f"stopped at {self.done} of {self.total}" if self.total else "stopped"
                self.rows[name] = "stopped", Text(where)
        self.live.stop()

    def rendered(self) -> RenderableType:
        """Return the list."""
        table = Table.grid(padding=(0, 1))
        table.width = self.console.width - MARGIN
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, max_width=max(8, self.console.width // 4), overflow="ellipsis")
        table.add_column(ratio=1)
        for name, (state, shown) in list(self.rows.items()):
            table.add_row(Text(self.marks[state], STYLES[state]), Text(name, STYLES[state]), shown)
        return table
