"""``uldm diagram``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uldm_core.cli.common import FilePath, json_option, overrides_argument, plugin_option, recipe_argument
from uldm_core.errors import MistakeError

if TYPE_CHECKING:
    from uldm_core.recipe import ResolvedRecipe


@click.command()
@recipe_argument
@overrides_argument
@click.option("--out", type=FilePath(), help="A picture: .svg, .png or .pdf.")
@click.option("--format", "form", type=click.Choice(["mermaid", "dot"]), help="Of the text; default mermaid.")
@json_option
@plugin_option
def diagram(
    recipe: str, overrides: tuple[str, ...], out: Path | None, form: str | None, as_json: bool
) -> None:
    """Draw RECIPE: how its components feed its stages, and with --out what its networks look like inside.

    Without --out, the graph is printed as Mermaid text, which GitHub, GitLab and many editors draw, or as dot
    for Graphviz. --json prints the levels and blocks of the networks. Nothing is trained or loaded.
    """
    from uldm_core.recipe import Recipe

    if sum(map(bool, (out, form, as_json))) > 1:
        raise MistakeError("--out, --format and --json exclude each other", hint="give one of them")
    resolved = Recipe.load(recipe, overrides).resolve(data=False)
    if out:
        _draw(resolved, out)
    elif as_json:
        _print_json(resolved)
    else:
        _print_graph(resolved, form or "mermaid")


def _draw(resolved: ResolvedRecipe, out: Path) -> None:
    from uldm_plugins.diagram.canvas import check_picture, save
    from uldm_plugins.diagram.network_levels import network_levels
    from uldm_plugins.diagram.picture import picture

    check_picture(out)
    found = network_levels(resolved)
    save(picture(resolved, found), out)
    drawn = [one.name for one in found if one.network]
    click.echo(f"{out}: {', '.join(drawn) or 'no networks'}", err=True)


def _print_json(resolved: ResolvedRecipe) -> None:
    from uldm_plugins.diagram.network_levels import network_levels

    click.echo(json.dumps({"components": [one.to_json() for one in network_levels(resolved)]}, indent=2))


def _print_graph(resolved: ResolvedRecipe, form: str) -> None:
    from uldm_plugins.diagram.flowchart import dot, graph_of, mermaid

    graph = graph_of(resolved)
    click.echo(mermaid(graph) if form == "mermaid" else dot(graph))
