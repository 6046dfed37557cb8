"""``uldm ls``."""

from __future__ import annotations

import json
from typing import Any

import click

from uldm_core import registry
from uldm_core.cli.common import plugin_option
from uldm_core.component import Component


@click.command(short_help="List the registered components.")
@click.argument("kind", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@plugin_option
def ls(kind: str | None, as_json: bool) -> None:
    """List the registered components, of one KIND or of all, without importing any."""
    rows = [_row(component) for component in registry.default().components(kind)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    columns = ("kind", "name", "distribution", "summary")
    widths = [
        max(len(row[column]) for row in rows or [dict.fromkeys(columns, "")]) for column in columns[:-1]
    ]
    for row in rows:
        cells = [row[column].ljust(width) for column, width in zip(columns, widths)]
        absent = "" if row["installed"] else f" (pip install {row['requires']})"
        click.echo("  ".join([*cells, row["summary"]]).rstrip() + absent)


def _row(component: Component) -> dict[str, Any]:
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
