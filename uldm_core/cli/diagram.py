"""``uldm diagram``."""

from __future__ import annotations

import click

from uldm_core.cli.common import overrides_argument, plugin_option, recipe_argument


@click.command(short_help="Draw how a recipe hangs together.")
@recipe_argument
@overrides_argument
@click.option("--format", "form", type=click.Choice(["mermaid", "dot"]), default="mermaid", show_default=True)
@plugin_option
def diagram(recipe: str, overrides: tuple[str, ...], form: str) -> None:
    """Print how RECIPE's components feed its stages, what each stage trains, and what it hands on.

    Mermaid text is drawn by GitHub, GitLab and many editors; dot by Graphviz.
    """
    from uldm_core.recipe import Recipe
    from uldm_core.recipe.diagram import dot, graph_of, mermaid

    graph = graph_of(Recipe.load(recipe, overrides).plan())
    click.echo(mermaid(graph) if form == "mermaid" else dot(graph))
