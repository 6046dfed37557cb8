"""A run's folder to one HTML file that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from uldm_core.errors import Problem
from uldm_core.paths import inside
from uldm_core.run_folder.files import write_text
from uldm_plugins.report.diagnostics import SILENCE, diagnose, moment
from uldm_plugins.report.run_reader import RunFiles, read_run
from uldm_plugins.report.sections import charts_of, command_of, components_of, sections_of

HERE = Path(__file__).parent
REFRESH_SECONDS = 30
NOTHING = "\N{EN DASH}"
STATES = {"done": "done", "running": "running", "stopped": "stopped", "failed": "failed", "": "unfinished"}


def write_report(path: Path, warn: Callable[[Problem], object] = lambda problem: None) -> Path:
    """Write ``report.html`` into a run's folder, whole or not at all, and return where it lies.

    Args:
        path: ``runs/<name>``.
        warn: called with each file that cannot be read; the page lists them as well.
    """
    written = inside(path, "report.html")
    write_text(written, report_of(path, warn=warn))
    return written


def report_of(
    path: Path, now: datetime | None = None, warn: Callable[[Problem], object] = lambda problem: None
) -> str:
    """Return the page of a run, from what its folder holds at this moment.

    Args:
        path: ``runs/<name>``; every file in it may be missing, damaged or old.
        now: the present time, to recognise a run that was killed.
        warn: called with each file that cannot be read; the page lists them as well.
    """
    run = read_run(path)
    sections = sections_of(run)
    found = diagnose(run, now or datetime.now().astimezone())
    updated = moment(run.state.updated)
    for problem in run.unreadable.problems.values():
        warn(problem)
    return (
        environment()
        .get_template("report.html")
        .render(
            run=run,
            state=state_of(run),
            sections=sections,
            diagnostics=found,
            figures=_figures(run, sections),
            components=components_of(run.recipe),
            command=command_of(run, path),
            data={
                "charts": charts_of(sections),
                "refresh": REFRESH_SECONDS if run.running else 0,
                "updated": updated.timestamp() if updated else 0,
                "silence": SILENCE.total_seconds(),
            },
        )
    )


def state_of(run: RunFiles) -> str:
    """Return the state of the run; of one that keeps no ``run.json``, by its stages."""
    done = bool(run.stages) and all(stage.state.done for stage in run.stages)
    return STATES.get(run.state.state, "unfinished") if run.state.state else "done" if done else "unfinished"


def _figures(run: RunFiles, sections: list[Any]) -> list[tuple[str, str, str]]:
    """Return the most important numbers: what, how much, beside what."""
    shown = {section.name: section.shows for section in sections}
    found = []
    if "metrics" in shown:
        found += [_headline(shown["metrics"]["tables"][0])]
    if "codebook" in shown:
        book = shown["codebook"]["books"][0]
        found += [("codes used", f"{book.used:,}", f"of {book.size:,}")]
    if "samples" in shown and shown["samples"]["total"]:
        found += [("samples drawn", f"{shown['samples']['total']:,}", "")]
    if seconds := sum(stage.state.seconds for stage in run.stages):
        found += [
            ("time worked", duration(seconds), str(run.environment.get("machine", "")).partition(",")[0])
        ]
    return [figure for figure in found if figure]


def _headline(table: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Return the first number that was measured of samples, beside its floor."""
    row, sets = table["rows"][0], table["sets"]
    values = {name: number(value) for name, value in zip(sets, row["values"]) if value is not None}
    beside = next((f"{name} {values[name]}" for name in ("floor", "originals") if name in values), "")
    return (f"{row['name']} of samples", values["samples"], beside) if "samples" in values else None


@cache
def environment() -> Environment:
    """Return the templates: whatever they are given is escaped, what they were not given is an error."""
    made = Environment(
        loader=PackageLoader("uldm_plugins.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(duration=duration, number=number, when=when)
    made.globals.update(
        style=_packaged("vendor/uplot/uPlot.min.css", "static/report.css"),
        script=_packaged("vendor/uplot/uPlot.iife.min.js", "static/report.js"),
    )
    return made


def _packaged(*names: str) -> Markup:
    """Return files of this package, which are not escaped."""
    return Markup("\n".join((HERE / name).read_text("utf-8") for name in names))


def duration(seconds: float) -> str:
    """Write a duration as a person would: 42 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def number(value: float | None) -> str:
    """Write a number to four digits, whole ones in full; nothing is a dash."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def when(text: str) -> str:
    """Write a moment for a person; what is none stays as it is."""
    found = moment(text)
    return f"{found.day} {found:%B %Y, %H:%M}" if found else text
