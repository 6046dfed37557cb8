"""``uldm run``."""

from __future__ import annotations

from pathlib import Path

import click

from uldm_core.cli.common import device_option, plugin_option, precision_option, run_overrides, threads_option


@click.command(short_help="Run a recipe.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--until", metavar="STAGE", help="Stop after this stage.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The run's folder; default runs/<recipe's name>."
)
@device_option
@precision_option
@threads_option
@click.option("--compile/--no-compile", default=None, help="Compile networks with torch.compile.")
@plugin_option
def run(
    recipe: Path,
    overrides: tuple[str, ...],
    until: str | None,
    out: Path | None,
    device: str | None,
    precision: str | None,
    threads: int | None,
    compile: bool | None,
) -> None:
    """Run RECIPE, a TOML file: every stage that is not done yet, in order.

    KEY=VALUE overrides any key, e.g. stages.first.steps=100 or denoiser.use=dit.
    """
    from uldm_core.recipe import Recipe

    flags = run_overrides(device=device, precision=precision, threads=threads, compile=compile)
    plan = Recipe.load(recipe, (*overrides, *flags)).plan()

    from uldm_core.cli.progress import reporter
    from uldm_core.engine.run import run as run_plan
    from uldm_core.engine.signals import Stop

    with reporter() as tell, Stop().listening() as stop:
        run_plan(plan, out=out, until=until, reporter=tell, stop=stop)
