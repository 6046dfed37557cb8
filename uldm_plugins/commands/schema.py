"""``uldm schema``."""

from __future__ import annotations

import json

import click

from uldm_core.cli.common import plugin_option


@click.command()
@plugin_option
def schema() -> None:
    """Print a JSON Schema of recipes from what is installed, so that an editor can complete and check them.

    Write it beside a recipe whose first line is `#:schema ./uldm.schema.json`: uldm schema > uldm.schema.json
    """
    from uldm_core import registry
    from uldm_plugins.commands.json_schema import schema_of

    click.echo(json.dumps(schema_of(registry.default()), indent=2))
