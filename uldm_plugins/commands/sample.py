"""``uldm sample``."""

from __future__ import annotations

from pathlib import Path

import click

from uldm_core.cli.common import (
    device_option,
    plugin_option,
    precision_option,
    run_argument,
    run_overrides,
    threads_option,
)


@click.command(short_help="Draw images from a trained run.")
@run_argument
@click.option("--count", type=click.IntRange(min=1), default=100, show_default=True, help="How many images.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which images.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="An .npz, or a grid as .png.")
@device_option
@precision_option
@threads_option
@plugin_option
def sample(
    run: Path,
    count: int,
    seed: int,
    out: Path,
    device: str | None,
    precision: str | None,
    threads: int | None,
) -> None:
    """Draw images from RUN, a folder that `uldm run` made; the same seed gives the same bytes."""
    from uldm_core.cli.progress import reporter
    from uldm_core.engine.signals import Stop
    from uldm_core.engine.trained import TrainedRun
    from uldm_plugins.commands.output import check_output, write_images

    check_output(out)
    trained = TrainedRun.open(
        run, overrides=run_overrides(device=device, precision=precision, threads=threads)
    )
    trained.require_trained("autoencoder", "denoiser")
    name, stage = trained.stage("sample")
    with reporter() as tell, Stop().listening() as stop:
        images = stage.draw(trained.context(name, seed, tell, stop), count)
    write_images(images, out)
