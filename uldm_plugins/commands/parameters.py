"""Arguments and types of options that several commands share."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import click

from uldm_core.cli.common import Completion, FilePath, completing, runs
from uldm_core.cli.run_options import Given

if TYPE_CHECKING:
    from uldm_core.recipe import RunOptions


class FiniteRange(click.FloatRange):
    """A number within bounds, and neither nan nor infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or say that it is none."""
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


COUNT = click.IntRange(1, 10_000_000)
SEED = click.IntRange(0, 2**63 - 1)
SIDE = click.IntRange(1, 4096)
"""How many images, which, and how many pixels high and wide: more is a slip, and would fill the memory."""

run_argument = click.argument("run", type=FilePath(), shell_complete=completing(runs))


def completing_names(kind: str) -> Completion:
    """Return a completion with the names of a kind's components."""

    def names() -> list[str]:
        from uldm_core import registry

        own = registry.default()
        return [own.name_of(component) for component in own.components(kind)]

    return completing(names)


def not_empty(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Return what was given; an empty text is a slip, as of a variable that is not set."""
    if value == "":
        raise click.BadParameter("it is empty", context, parameter)
    return value


def as_run_options(given: Given) -> RunOptions:
    """Return the options of ``[run]`` that were given, with defaults for the others."""
    from uldm_core.recipe import RunOptions

    values: dict[str, Any] = dict(given)
    return RunOptions(**values)
