"""``uldm doctor``."""

from __future__ import annotations

import platform
from importlib.metadata import version

import click

from uldm_core import registry
from uldm_core.plugins import Plugin

LIBRARIES = ("uldm", "torch", "torchvision", "safetensors", "numpy")


@click.command(short_help="Show versions, devices and plugins.")
def doctor() -> None:
    """Show versions, devices and the state of every plugin, with the traceback of a broken one."""
    plugins = registry.default().plugins  # before torch is imported, so that one who imports it is found out
    click.echo(f"python {platform.python_version()} on {platform.platform()}")
    for library in LIBRARIES:
        click.echo(f"{library} {version(library)}")
    _show_machine()
    for plugin in plugins.values():
        click.echo(_say(plugin))
        if plugin.error:
            click.echo("".join(f"    {line}\n" for line in plugin.error.splitlines()), nl=False)
            click.echo(f"    mend: {plugin.mend}")


def _show_machine() -> None:
    from uldm_core.engine.machine import choose_machine
    from uldm_core.recipe import RunOptions

    click.echo(f"machine: {choose_machine(RunOptions())}")


def _say(plugin: Plugin) -> str:
    brings = f"{len(plugin.components)} components, {len(plugin.commands)} commands"
    state = "skipped" if plugin.skipped else brings
    return f"{plugin}: {state}, imported in {plugin.seconds:.2f} s"
