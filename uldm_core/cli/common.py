"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from uldm_core import registry
from uldm_core.component import Component
from uldm_core.errors import MistakeError
from uldm_core.plugins import load_file


def _load_plugins(context: click.Context, parameter: click.Parameter, paths: tuple[Path, ...]) -> None:
    for path in paths:
        registry.default().add_plugin(load_file(path))


plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE.py",
    type=click.Path(path_type=Path),
    callback=_load_plugins,
    expose_value=False,
    is_eager=True,
    help="Take components from a Python file, without packaging. Repeatable.",
)
device_option = click.option("--device", help="auto, cpu, cuda, cuda:1, mps, ...")
precision_option = click.option(
    "--precision", type=click.Choice(["auto", "float32", "bfloat16"]), help="What networks multiply in."
)
threads_option = click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")


def component_named(path: str) -> Component:
    """Return the component of ``KIND/NAME`` or ``KIND/PLUGIN/NAME``."""
    kind, slash, name = path.partition("/")
    if not slash:
        raise MistakeError(f"{path!r} is no KIND/NAME", hint="such as quantizer/vq_ema; uldm ls lists them")
    return registry.default().get(kind, name)


def run_overrides(**flags: str | int | bool | None) -> tuple[str, ...]:
    """Return flags as overrides of the recipe's ``[run]`` table; those not given are left out."""
    return tuple(
        f"run.{name}={value!r}" if isinstance(value, str) else f"run.{name}={str(value).lower()}"
        for name, value in flags.items()
        if value is not None
    )
