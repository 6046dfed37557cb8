"""What several commands share: arguments, options, completion, and how problems are shown."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uldm_core.errors import MistakeError, Problem

if TYPE_CHECKING:
    from uldm_core.registry.component import Component

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _load_plugins(context: click.Context, parameter: click.Parameter, paths: tuple[Path, ...]) -> None:
    if paths:
        from uldm_core import registry
        from uldm_core.registry.plugins import load_file

        for path in paths:
            registry.default().add_plugin(load_file(path))


class FilePath(click.Path):
    """A path; ``~`` and ``~user`` are home folders.

    An empty one is a slip, as of a variable that is not set, and never the current folder.
    """

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """Return the path."""
        if value == "":
            self.fail("it is empty", parameter, context)
        return super().convert(os.path.expanduser(value), parameter, context)


def not_empty(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Return what was given; an empty text is a slip, as of a variable that is not set."""
    if value == "":
        raise click.BadParameter("it is empty", context, parameter)
    return value


TRACEBACK = "uldm.traceback"
"""The key of a context's ``meta`` under which stands whether ``--traceback`` was given."""

COUNT = click.IntRange(1, 10_000_000)
SEED = click.IntRange(0, 2**63 - 1)
SIDE = click.IntRange(1, 4096)
"""How many images, which, and how many pixels high and wide: more is a slip, and would fill the memory."""


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted({name for name in names if name.startswith(incomplete)})


def complete_kind(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the kinds that begin so."""
    from uldm_core import registry

    return _beginning([*registry.default().kinds, "recipes"], incomplete)


def complete_component(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the ``KIND/NAME`` that begin so."""
    from uldm_core import registry

    own = registry.default()
    return _beginning((f"{c.kind}/{own.name_of(c)}" for c in own.components()), incomplete)


def complete_sampler(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the samplers that begin so."""
    from uldm_core import registry

    own = registry.default()
    return _beginning(map(own.name_of, own.components("sampler")), incomplete)


def complete_recipe(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the shipped recipes and the files that begin so."""
    from uldm_core.recipe.shipped import names

    files = [str(path) for folder in (Path(), Path("recipes")) for path in folder.glob("*.toml")]
    return _beginning([*names(), *files, *_runs()], incomplete)


def complete_run(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the runs below ``runs/`` that begin so."""
    return _beginning(_runs(), incomplete)


def _runs() -> list[str]:
    return [str(path.parent) for path in Path("runs").glob("*/recipe.toml")]


recipe_argument: Decorator = click.argument("recipe", shell_complete=complete_recipe)
run_argument: Decorator = click.argument("run", type=FilePath(path_type=Path), shell_complete=complete_run)
component_argument: Decorator = click.argument(
    "component", metavar="KIND/NAME", shell_complete=complete_component
)
overrides_argument: Decorator = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE.py",
    type=FilePath(path_type=Path),
    callback=_load_plugins,
    expose_value=False,
    is_eager=True,
    help="Take components from a Python file, without packaging. Repeatable.",
)


def component_named(path: str) -> Component:
    """Return the component of ``KIND/NAME`` or ``KIND/PLUGIN/NAME``."""
    from uldm_core import registry

    kind, slash, name = path.partition("/")
    if not slash:
        raise MistakeError(f"{path!r} is no KIND/NAME", hint="such as quantizer/vq_ema; uldm ls lists them")
    return registry.default().get(kind, name)


def colours(stream: Any) -> bool:
    """Whether a stream is a terminal that may be coloured; ``NO_COLOR`` says that none may."""
    return not os.environ.get("NO_COLOR") and stream.isatty()


def show_problems(problems: Iterable[Problem]) -> None:
    """Print problems to standard error, each at its place with its mend."""
    for problem in problems:
        place = f"{problem.where}: " if str(problem.where) else ""
        word = "warning: " if problem.warning else ""
        if colours(sys.stderr):
            word = click.style(word, fg="yellow")
            place = click.style(place, bold=True)
        click.echo(f"{place}{word}{problem.what}", err=True)
        if problem.hint:
            click.echo(_wrapped(problem.hint), err=True)


def show_tracebacks(*errors: BaseException | None) -> None:
    """Print the tracebacks of errors, causes included, to standard error if ``--traceback`` was given."""
    context = click.get_current_context(silent=True)
    if context is None or not context.meta.get(TRACEBACK):
        return
    from traceback import format_exception

    shown: set[BaseException] = set()
    for error in errors:
        if error is not None and error not in shown:
            click.echo("".join(format_exception(error)), err=True)
        while error is not None:
            shown.add(error)
            error = error.__cause__ or error.__context__


def _wrapped(hint: str) -> str:
    """Indent a hint; wrap it where a terminal is narrower."""
    if not sys.stderr.isatty():
        return f"    {hint}"
    from textwrap import TextWrapper

    width = max(40, shutil.get_terminal_size().columns)
    return TextWrapper(width, initial_indent="    ", subsequent_indent="      ").fill(hint)
