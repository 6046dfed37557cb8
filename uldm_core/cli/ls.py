"""``uldm ls``."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from uldm_core.cli.common import complete_kind, json_option, plugin_option

if TYPE_CHECKING:
    from uldm_core.registry.component import Component

COMPONENT_COLUMNS = ("kind", "name", "distribution", "summary")
RECIPE_COLUMNS = ("name", "summary")


@click.command(short_help="List the registered components, or the shipped recipes.")
@click.argument("kind", required=False, metavar="[KIND|recipes]", shell_complete=complete_kind)
@json_option
@plugin_option
def ls(kind: str | None, as_json: bool) -> None:
    """List the registered components, of one KIND or of all, or the shipped recipes; none is imported."""
    from uldm_core import registry

    columns = RECIPE_COLUMNS if kind == "recipes" else COMPONENT_COLUMNS
    if kind == "recipes":
        rows = _recipes()
    else:
        rows = [_component(component) for component in registry.default().components(kind)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        _show(rows, columns)


def _show(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Print rows in columns; no line is wider than the terminal."""
    widths = [max((len(row[column]) for row in rows), default=0) for column in columns[:-1]]
    widest = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for row in rows:
        cells = [row[column].ljust(width) for column, width in zip(columns, widths)]
        absent = "" if row.get("installed", True) else f" (pip install {row['requires']})"
        line = "  ".join([*cells, row[columns[-1]]]).rstrip() + absent
        click.echo(line if len(line) <= widest else f"{line[: widest - 1]}…")


def _component(component: Component) -> dict[str, Any]:
    from uldm_core import registry

    return {
        "kind": component.kind,
        "name": registry.default().name_of(component),
        "summary": component.summary,
        "distribution": component.distribution,
        "version": component.version,
        "plugin": component.plugin,
        "requires": component.requires,
        "installed": component.installed,
    }


def _recipes() -> list[dict[str, Any]]:
    from uldm_core.recipe.shipped import names, shipped, summary

    paths = shipped()
    return [{"name": name, "summary": summary(paths[name]), "path": str(paths[name])} for name in names()]
