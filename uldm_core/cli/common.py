"""Arguments and options that several commands share, and their completion."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from uldm_core.errors import MistakeError

if TYPE_CHECKING:
    from uldm_core.registry.component import Component

Function = TypeVar("Function", bound=Callable[..., object])
Decorator = Callable[[Function], Function]
Completion = Callable[[click.Context, click.Parameter, str], list[str]]


class FilePath(click.Path):
    """A path; ``~`` and ``~user`` are home folders.

    An empty one is a slip, as of a variable that is not set, and never the current folder.
    """

    def __init__(self, **options: bool) -> None:
        super().__init__(path_type=Path, **options)

    def convert(
        self, value: str | os.PathLike[str], parameter: click.Parameter | None, context: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Return the path."""
        if value == "":
            self.fail("it is empty", parameter, context)
        return super().convert(os.path.expanduser(value), parameter, context)


def completing(names: Callable[[], Iterable[str]]) -> Completion:
    """Return a completion with the names that begin with what is typed; they are asked for when needed."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        return sorted({name for name in names() if name.startswith(incomplete)})

    return complete


def components() -> list[str]:
    """Return ``KIND/NAME`` of every component."""
    from uldm_core import registry

    own = registry.default()
    return [f"{component.kind}/{own.name_of(component)}" for component in own.components()]


def recipes() -> list[str]:
    """Return the names of shipped recipes, and the recipes and runs that lie here."""
    from uldm_core.recipe.shipped import names

    files = [str(path) for folder in (Path(), Path("recipes")) for path in folder.glob("*.toml")]
    return [*names(), *files, *runs()]


def runs() -> list[str]:
    """Return the runs below ``runs/``."""
    return [str(path.parent) for path in Path("runs").glob("*/recipe.toml")]


def _load_plugins(context: click.Context, parameter: click.Parameter, paths: tuple[Path, ...]) -> None:
    if paths:
        from uldm_core import registry
        from uldm_core.registry.plugins import load_file

        for path in paths:
            registry.default().add_plugin(load_file(path))


recipe_argument = click.argument("recipe", shell_complete=completing(recipes))
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE.py",
    type=FilePath(),
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
