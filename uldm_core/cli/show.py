"""``uldm show``."""

from __future__ import annotations

import json

import click

from uldm_core.cli.common import completing, components, json_option, plugin_option


@click.command()
@click.argument("path", metavar="KIND/NAME", shell_complete=completing(components))
@json_option
@plugin_option
def show(path: str, as_json: bool) -> None:
    """Show a component: what it is, its source, its options with types and defaults, and an example."""
    from uldm_core.cli.page import as_text, page_of

    page = page_of(path)
    click.echo(json.dumps(page, indent=2) if as_json else as_text(page))
