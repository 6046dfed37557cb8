"""What the program says, on streams that may be closed or of any encoding, and what is logged among it."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from uldm_core.cli.common import colours

UNREAD = 128 + 13
"""The exit code of programs that SIGPIPE ends: nobody reads their output."""
LOGGERS = ("uldm_core", "uldm_plugins")
WORDS = {logging.WARNING: ("warning: ", "yellow"), logging.ERROR: ("error: ", "red")}


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


def word(level: int) -> str:
    """Return how a message of a level of ``logging`` begins."""
    text, colour = next((WORDS[known] for known in sorted(WORDS, reverse=True) if level >= known), ("", ""))
    return click.style(text, fg=colour) if text and colours(sys.stderr) else text


class _Handler(logging.Handler):
    """Shows records on standard error, among the other messages; a running list of stages stays whole."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"{word(record.levelno)}{record.getMessage()}", err=True)


@contextmanager
def logs_shown() -> Iterator[None]:
    """Show what uldm and its components log, from INFO on, until the context ends."""
    handler = _Handler()
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before):
            logger.removeHandler(handler)
            logger.setLevel(level)
