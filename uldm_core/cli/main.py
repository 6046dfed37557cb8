"""The ``uldm`` program: commands that are imported when they are called, errors without tracebacks."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from typing import TextIO

import click

from uldm_core import registry
from uldm_core.errors import MistakeError, UldmError
from uldm_core.plugins import Command, PluginWarning

CORE_COMMANDS = (
    Command("run", "uldm_core.cli.run:run", "Run a recipe: every stage that is not done yet."),
    Command("ls", "uldm_core.cli.ls:ls", "List the registered components."),
    Command("doctor", "uldm_core.cli.doctor:doctor", "Show versions, devices and the state of every plugin."),
)


class LazyGroup(click.Group):
    """Imports a command only when it is called, and lists them without importing any."""

    def records(self) -> dict[str, Command]:
        """Return the core's commands and those of plugins; the core's names cannot be taken."""
        core = {command.name: command for command in CORE_COMMANDS}
        return {**core, **{n: c for n, c in registry.default().commands.items() if n not in core}}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(self.records())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        record = self.records().get(name)
        if record is None:
            return None
        module, _, attribute = record.target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their summaries."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, record.summary) for name, record in self.records().items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="uldm", prog_name="uldm")
def cli() -> None:
    """Unconditional latent diffusion from registered components."""


def main(arguments: list[str] | None = None) -> None:
    """Run the program and exit: 0 done, 1 failed, 2 a mistake, 130 and 143 after a signal."""
    warnings.showwarning = _show_warning
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        cli.main(arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except UldmError as error:
        click.echo(f"error: {error}" if len(error.problems) == 1 else str(error), err=True)
        return 2 if isinstance(error, MistakeError) else 1
    except OSError as error:
        click.echo(f"error: {error}", err=True)
        return 1
    except Exception as error:
        signum = getattr(error, "signum", None)  # engine.signals.Interrupted, without importing the engine
        if signum is None:
            raise
        click.echo(f"{error}: the state is saved; the same command goes on from here", err=True)
        return 128 + int(signum)
    return 0


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show our own warnings as one line; leave the place on everybody else's."""
    place = "" if issubclass(category, PluginWarning) else f"{filename}:{lineno}: "
    click.echo(f"warning: {place}{message}", err=True)


if __name__ == "__main__":
    main()
