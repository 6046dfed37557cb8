"""``uldm reconstruct``."""

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


@click.command(short_help="Pass a dataset through a run's autoencoder.")
@run_argument
@click.option("--split", default="test", show_default=True, help="Which split of the run's dataset.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="An .npz, or a grid as .png.")
@device_option
@precision_option
@threads_option
@plugin_option
def reconstruct(
    run: Path, split: str, out: Path, device: str | None, precision: str | None, threads: int | None
) -> None:
    """Write the reconstructions of a dataset by RUN, a folder that `uldm run` made."""
    import torch

    from uldm_core import MistakeError
    from uldm_core.engine.trained import TrainedRun
    from uldm_plugins.commands.output import check_output, write_images
    from uldm_plugins.stages.latents import reconstruct as reconstruct_all

    check_output(out)
    trained = TrainedRun.open(
        run, overrides=run_overrides(device=device, precision=precision, threads=threads)
    )
    trained.require_trained("autoencoder")
    try:
        dataset = trained.noun("dataset").split(split)
    except ValueError as error:
        raise MistakeError(f"--split: {error}") from error
    context = trained.context("reconstruct", trained.plan.seed)
    batches = reconstruct_all(dataset, trained.noun("autoencoder"), context)
    write_images(torch.cat([batch.cpu() for batch in batches]), out)
