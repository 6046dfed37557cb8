"""What the program writes to standard error: problems, tracebacks, warnings and what is logged."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import click
from attrs import evolve

from uldm_core.errors import Problem, RunWarning

UNREAD = 128 + 13
"""The exit code of programs that SIGPIPE ends: nobody reads their output."""
TRACEBACK = "uldm.traceback"
"""The key of a context's ``meta`` under which stands whether ``--traceback`` was given."""
LOGGERS = ("uldm_core", "uldm_plugins")


def prepare_streams() -> None:
    """Let nothing that is printed fail for its letters: what an encoding lacks is escaped.

    A stream that is closed (``>&-``) becomes one that goes nowhere, before an opened file takes its number.
    """
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and name != "stdin":
            stream.reconfigure(errors="backslashreplace")


def leave_broken_pipes() -> None:
    """Send nowhere what is still to be printed, since nobody reads it."""
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def style(text: str, colour: str | None = None, *, bold: bool = False) -> str:
    """Return text for standard error, in colour on a terminal that may be coloured (``NO_COLOR``)."""
    plain = os.environ.get("NO_COLOR") or not sys.stderr.isatty()
    return text if plain or not text else click.style(text, fg=colour, bold=bold or None)


def prefix(level: int) -> str:
    """Return how a message of a level of ``logging`` begins."""
    if level >= logging.ERROR:
        return style("error: ", "red")
    return style("warning: ", "yellow") if level >= logging.WARNING else ""


def show_problems(problems: Iterable[Problem]) -> None:
    """Print problems, each at its place with its fix."""
    for problem in problems:
        place = style(f"{problem.where}: ", bold=True) if str(problem.where) else ""
        click.echo(f"{place}{prefix(logging.WARNING) if problem.warning else ''}{problem.what}", err=True)
        if problem.hint:
            click.echo(f"    {problem.hint}", err=True)


def show_warning(problem: Problem) -> None:
    """Print a problem as a warning: the command goes on."""
    show_problems([evolve(problem, warning=True)])


def show_tracebacks(*errors: BaseException | None) -> None:
    """Print the tracebacks of errors, causes included, if ``--traceback`` was given."""
    context = click.get_current_context(silent=True)
    if context is None or not context.meta.get(TRACEBACK):
        return
    from traceback import format_exception

    shown: set[BaseException] = set()
    for error in errors:
        if error is not None and error not in shown:
            click.echo("".join(format_exception(error)), err=True)
        while error is not None:
            shown.add(error)
            error = error.__cause__ or error.__context__


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return our own warnings as one line; leave the place on everybody else's."""
    from uldm_core.registry.plugins import PluginWarning

    place = "" if issubclass(category, (PluginWarning, RunWarning)) else f"{filename}:{lineno}: "
    return f"{prefix(logging.WARNING)}{place}{message}\n"


class _Handler(logging.Handler):
    """Shows records among the other messages; a running list of stages stays whole."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"{prefix(record.levelno)}{record.getMessage()}", err=True)


@contextmanager
def logs_shown() -> Iterator[None]:
    """Show what uldm and its components log, from INFO on, until the context ends."""
    handler = _Handler()
    levels = {logger: logger.level for logger in map(logging.getLogger, LOGGERS)}
    for logger in levels:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.removeHandler(handler)
            logger.setLevel(level)
