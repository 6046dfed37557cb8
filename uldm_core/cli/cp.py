"""``uldm cp``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from uldm_core.cli.common import FilePath, completing, plugin_option, recipes
from uldm_core.errors import MistakeError
from uldm_core.paths import copy


@click.command()
@click.argument("name", shell_complete=completing(recipes))
@click.argument("to", required=False, type=FilePath())
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@plugin_option
def cp(name: str, to: Path | None, force: bool) -> None:
    """Copy the shipped recipe NAME to the current folder, or TO a file or folder.

    `uldm ls recipes` lists them.
    """
    from uldm_core.recipe.shipped import find

    source = find(name)
    if not source.is_file():
        raise MistakeError(f"{source}: there is no such recipe", hint="uldm ls recipes lists them")
    target = to or Path(source.name)
    target = target / source.name if target.is_dir() else target
    if target.exists() and not force:
        raise MistakeError(f"{target} exists already", hint="give another name, or --force")
    if not target.parent.is_dir():
        raise MistakeError(f"there is no folder {target.parent}")
    copy(source, target)
    click.echo(f"wrote {target}; run it with: uldm run {shlex.quote(str(target))}")
