"""``uldm validate``."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from uldm_core.cli.common import (
    json_option,
    overrides_argument,
    plugin_option,
    recipe_argument,
    show_problems,
)
from uldm_core.errors import MistakeError, Problem, dotted


@click.command(short_help="Find everything that is wrong with a recipe.")
@recipe_argument
@overrides_argument
@click.option("--deep", is_flag=True, help="Carry shapes through the recipe, and print sizes and costs.")
@json_option
@plugin_option
def validate(recipe: str, overrides: tuple[str, ...], deep: bool, as_json: bool) -> None:
    """Say everything that is wrong with RECIPE at once, each at its line; nothing is run.

    RECIPE is a TOML file, a run's folder or the name of a shipped recipe; KEY=VALUE overrides any key.
    Exits with 2 if there is anything to say.
    """
    problems, table = _problems(recipe, overrides, deep)
    if as_json:
        click.echo(json.dumps({"problems": [_row(p) for p in problems], "table": table[1]}, indent=2))
    else:
        _show(recipe, problems, table[0])
    sys.exit(2 if problems else 0)


def _problems(recipe: str, overrides: tuple[str, ...], deep: bool) -> tuple[list[Problem], tuple[str, Any]]:
    """Return what is wrong, and the table of shapes, as text and as data, where it was asked for."""
    from uldm_core.preflight.check import check
    from uldm_core.recipe import Recipe

    try:
        loaded = Recipe.load(recipe, overrides)
    except MistakeError as error:
        return list(error.problems), ("", None)
    problems = check(loaded)
    if any(not problem.warning for problem in problems) or not deep:
        return problems, ("", None)

    from uldm_core.preflight.preflight import preflight

    found = preflight(loaded.resolve())
    return list(dict.fromkeys([*problems, *found.problems])), (found.table(), found.to_json())


def _show(recipe: str, problems: list[Problem], table: str) -> None:
    if table:
        click.echo(table)
    show_problems(problems)
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    click.echo(f"{recipe}: {count}" if problems else f"{recipe}: nothing is wrong", err=bool(problems))


def _row(problem: Problem) -> dict[str, Any]:
    where = problem.where
    return {
        "source": where.source,
        "line": where.line,
        "key": dotted(where.key),
        "code": problem.code,
        "what": problem.what,
        "hint": problem.hint,
        "warning": problem.warning,
    }
