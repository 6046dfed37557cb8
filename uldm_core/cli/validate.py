"""``uldm validate``."""

from __future__ import annotations

import json
import sys

import click

from uldm_core.cli.common import json_option, overrides_argument, plugin_option, recipe_argument
from uldm_core.cli.console import show_problems, show_tracebacks
from uldm_core.errors import MistakeError, Problem, dotted


@click.command()
@recipe_argument
@overrides_argument
@click.option("--deep", is_flag=True, help="Carry shapes through it, open its data, print sizes and costs.")
@json_option
@plugin_option
def validate(recipe: str, overrides: tuple[str, ...], deep: bool, as_json: bool) -> None:
    """Print everything that is wrong with RECIPE at once, each at its line; nothing is run.

    RECIPE is a TOML file, a run's folder or the name of a shipped recipe; KEY=VALUE overrides any key.
    Exits with 2 if anything is wrong.
    """
    from uldm_core.preflight.dry_build import check
    from uldm_core.recipe import Recipe

    table, rows = "", None
    try:
        loaded = Recipe.load(recipe, overrides)
        problems = check(loaded)
        if deep and all(problem.warning for problem in problems):
            from uldm_core.engine.requirements import device_here, opened_data, requirements
            from uldm_core.preflight.preflight import preflight

            resolved = loaded.resolve()
            found = preflight(resolved)
            device, data = device_here(resolved.run), opened_data(resolved)
            needed = requirements(resolved, found, resolved.stages, device, data)
            problems = list(dict.fromkeys([*problems, *found.problems, *needed.problems]))
            table, rows = found.table(), found.to_json()
    except MistakeError as error:
        show_tracebacks(error)
        problems = list(error.problems)
    show_tracebacks(*(problem.cause for problem in problems))
    if as_json:
        click.echo(json.dumps({"problems": [_row(p) for p in problems], "table": rows}, indent=2))
    else:
        click.echo(table, nl=bool(table))
        show_problems(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        click.echo(f"{recipe}: {count if problems else 'nothing is wrong'}", err=bool(problems))
    sys.exit(2 if problems else 0)


def _row(problem: Problem) -> dict[str, object]:
    where = problem.where
    place = {"source": where.source, "line": where.line, "key": dotted(where.key), "code": problem.code}
    return {**place, "what": problem.what, "hint": problem.hint, "warning": problem.warning}
