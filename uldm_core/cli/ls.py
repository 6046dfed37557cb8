"""``uldm ls``."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence

import click

from uldm_core.cli.common import completing, json_option, plugin_option

Row = dict[str, "str | bool | None"]


def _kinds() -> list[str]:
    from uldm_core import registry

    return [*registry.default().kinds, "recipes"]


@click.command()
@click.argument("kind", required=False, metavar="[KIND|recipes]", shell_complete=completing(_kinds))
@json_option
@plugin_option
def ls(kind: str | None, as_json: bool) -> None:
    """List the registered components, of one KIND or of all, or the shipped recipes; none is imported."""
    rows = _recipes() if kind == "recipes" else _components(kind)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        columns = ("name",) if kind == "recipes" else ("kind", "name", "distribution")
        _show(rows, (*columns, "summary"))


def _show(rows: list[Row], columns: Sequence[str]) -> None:
    """Print rows in columns; no line is wider than the terminal."""
    widths = [max((len(str(row[column])) for row in rows), default=0) for column in columns]
    widest = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for row in rows:
        line = "  ".join(str(row[column]).ljust(width) for column, width in zip(columns, widths)).rstrip()
        line += "" if row.get("installed", True) else f" (pip install {row['requires']})"
        click.echo(line if len(line) <= widest else f"{line[: widest - 1]}…")


def _components(kind: str | None) -> list[Row]:
    from uldm_core import registry

    fields = ("kind", "name", "summary", "distribution", "version", "plugin", "requires", "installed")
    return [
        {name: getattr(component, name) for name in fields} | {"name": registry.default().name_of(component)}
        for component in registry.default().components(kind)
    ]


def _recipes() -> list[Row]:
    from uldm_core.recipe.shipped import names, shipped, summary

    paths = shipped()
    return [{"name": name, "summary": summary(paths[name]), "path": str(paths[name])} for name in names()]
