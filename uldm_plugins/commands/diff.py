"""``uldm diff``."""

from __future__ import annotations

import json
from typing import Any

import click

from uldm_core.cli.common import completing, json_option, plugin_option, recipes
from uldm_core.errors import dotted


@click.command()
@click.argument("left", metavar="RUN_OR_RECIPE", shell_complete=completing(recipes))
@click.argument("right", metavar="RUN_OR_RECIPE", shell_complete=completing(recipes))
@json_option
@plugin_option
def diff(left: str, right: str, as_json: bool) -> None:
    """Show, option by option, what differs between two runs or recipes, defaults filled in."""
    from uldm_core.recipe.compare import differences

    found = differences(_resolved(left), _resolved(right))
    if as_json:
        rows = [{"key": dotted(one.key), "left": one.left, "right": one.right} for one in found]
        click.echo(json.dumps(rows, indent=2))
        return
    for difference in found:
        click.echo(str(difference))
    if not found:
        click.echo("no option differs", err=True)


def _resolved(path: str) -> dict[str, Any]:
    from uldm_core.recipe import Recipe

    return Recipe.load(path).resolve(data=False).to_dict()
