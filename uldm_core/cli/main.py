"""The ``uldm`` program: commands that are imported when they are called, errors without tracebacks."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from logging import ERROR
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import click

from uldm_core.cli import console
from uldm_core.errors import MistakeError, UldmError

if TYPE_CHECKING:
    from uldm_core.registry.plugins import Command

CORE = {
    "run": "Run a recipe: every stage that is not done yet.",
    "validate": "Find everything that is wrong with a recipe.",
    "ls": "List the registered components, or the shipped recipes.",
    "check": "Hold a component to the contract of its kind.",
}
"""The core's commands with their summaries, each in a file of its name; plugins bring others."""


class _NobodyReads(Exception):
    """Whoever read our output (``| head``) has read enough."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM came where nobody else takes note of it."""

    signum = signal.SIGTERM


class LazyGroup(click.Group):
    """Imports a command only when it is called, and lists them without importing any."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options that every command takes first, wherever they are."""
        ctx.obj = shlex.join(["uldm", *args])  # what was typed, for the commands that note it
        return super().parse_args(ctx, _options_of_all_first(args))

    def invoke(self, ctx: click.Context) -> object:
        """Do the command; click itself would exit with 1 for a broken pipe."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _NobodyReads from error
        except (UldmError, OSError, click.ClickException) as error:  # all that is shown in a line
            console.show_tracebacks(error, *(problem.cause for problem in getattr(error, "problems", ())))
            raise

    def brought(self) -> dict[str, Command]:
        """Return the commands of plugins; none has a name of the core's."""
        from uldm_core import registry

        return registry.default().commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, the core's first."""
        return [*CORE, *self.brought()]

    def get_command(self, ctx: click.Context | None, name: str) -> click.Command | None:
        """Import a command; of the core's, without asking the plugins."""
        if name in CORE:
            return _imported(f"uldm_core.cli.{name}:{name}", CORE[name])
        record = self.brought().get(name)
        return _imported(record.target, record.summary) if record else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their summaries."""
        brought = {name: record.summary for name, record in self.brought().items()}
        with formatter.section("Commands"):
            formatter.write_dl(list({**CORE, **brought}.items()))


def _imported(target: str, summary: str) -> click.Command:
    command: click.Command = resolve_name(target)
    command.short_help = summary  # which completion shows
    return command


def _options_of_all_first(args: Sequence[str]) -> list[str]:
    """Move the options that every command takes to the front: some decide which plugins are loaded."""
    first: list[str] = []
    rest: list[str] = []
    waiting = iter(args)
    for arg in waiting:
        if arg == "--":
            rest += [arg, *waiting]
        elif arg == "--block":
            first += [arg, *islice(waiting, 1)]
        elif arg in ("--strict", "--traceback") or arg.startswith("--block="):
            first.append(arg)
        else:
            rest.append(arg)
    return first + rest


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--strict", is_flag=True, help="Fail where a plugin is faulty (ULDM_STRICT=1).")
@click.option("--block", multiple=True, metavar="NAME", help="Leave a plugin out (ULDM_BLOCK). Repeatable.")
@click.option(
    "--traceback",
    is_flag=True,
    envvar="ULDM_TRACEBACK",
    help="Show where an error was raised, and its causes (ULDM_TRACEBACK=1).",
)
@click.version_option(package_name="uldm", prog_name="uldm")
@click.pass_context
def cli(context: click.Context, strict: bool, block: tuple[str, ...], traceback: bool) -> None:
    """Unconditional latent diffusion from registered components."""
    context.meta[console.TRACEBACK] = traceback
    if strict or block:
        context.with_resource(_plugins_loaded_anew(strict, block))


@contextmanager
def _plugins_loaded_anew(strict: bool, block: Sequence[str]) -> Iterator[None]:
    """Set in the environment which plugins there are, so that processes started from here agree."""
    from uldm_core import registry

    before = dict(os.environ)
    os.environ["ULDM_BLOCK"] = ",".join(filter(None, [os.environ.get("ULDM_BLOCK", ""), *block]))
    os.environ["ULDM_STRICT"] = "1" if strict else os.environ.get("ULDM_STRICT", "")
    registry.default.cache_clear()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        registry.default.cache_clear()


def main(arguments: list[str] | None = None) -> None:
    """Run and exit: 0 done, 1 failed, 2 a mistake, 75 out of time, 130 or 143 a signal, 141 unread."""
    console.prepare_streams()
    warnings.formatwarning = console.format_warning
    with _signals_raised(), console.logs_shown():
        sys.exit(_run(arguments))


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Have SIGTERM end the program as Ctrl-C does, with a word; a run listens to both once it has begun."""

    def terminate(signum: int, frame: object) -> None:
        raise _Terminated

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(arguments: list[str] | None) -> int:
    try:
        return _exit_code(arguments)
    except (_NobodyReads, BrokenPipeError):
        console.leave_broken_pipes()
        return console.UNREAD


def _exit_code(arguments: list[str] | None) -> int:
    """Do a command, show what kept it from being done, and return the exit code."""
    try:
        cli.main(arguments, standalone_mode=False)
        sys.stdout.flush()
        return 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        if isinstance(error.__cause__, EOFError):  # of a file that ends too early: click treats it as Ctrl-D
            raise error.__cause__ from None
        stopped = error if isinstance(error, KeyboardInterrupt) else error.__cause__
        stopped_by = signal.Signals(getattr(stopped, "signum", signal.SIGINT))
        click.echo(str(stopped or "") or f"stopped by {stopped_by.name} before it was done", err=True)
        return 128 + stopped_by
    except UldmError as error:
        click.echo(console.prefix(ERROR) if len(error.problems) == 1 else "", nl=False, err=True)
        console.show_problems(error.problems)
        return 2 if isinstance(error, MistakeError) else 1
    except BrokenPipeError:
        raise
    except Exception as error:
        return _exit_code_of(error)


def _exit_code_of(error: Exception) -> int:
    """Show what is no error of uldm's own, and return the exit code; raises one that nobody foresaw."""
    from uldm_core.engine.limits import is_out_of_memory

    code = getattr(error, "exit_code", None)  # engine.signals.Interrupted, without importing the engine
    if code is not None:
        click.echo(f"{error}: {getattr(error, 'then', '')}", err=True)
        return int(code)
    if is_out_of_memory(error):
        return _out_of_memory()
    if isinstance(error, OSError):
        what = error if error.filename is None else f"{error.filename}: {error.strerror}"
        click.echo(f"{console.prefix(ERROR)}{what}", err=True)
        return 1
    raise error


def _out_of_memory() -> int:
    """Say so, of what no stage was asked to do: the preflight, or another command."""
    lower = "lower what decides it (batch_size, the size of the images, the networks' channels, --count)"
    click.echo(f"{console.prefix(ERROR)}out of memory\n    {lower}, or end other programs", err=True)
    return 1


if __name__ == "__main__":
    main()
