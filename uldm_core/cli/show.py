"""``uldm show``."""

from __future__ import annotations

import json

import click

from uldm_core.cli.common import complete_component, json_option, plugin_option


@click.command(short_help="Show what a component is and takes.")
@click.argument("path", metavar="KIND/NAME", shell_complete=complete_component)
@json_option
@plugin_option
def show(path: str, as_json: bool) -> None:
    """Show a component: what it is, its source, its options with types and defaults, and an example."""
    from uldm_core.cli.page import page_of, written

    page = page_of(path)
    click.echo(json.dumps(page, indent=2) if as_json else written(page))
