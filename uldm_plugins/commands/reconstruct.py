"""``uldm reconstruct``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uldm_core.cli.common import FilePath, plugin_option
from uldm_core.cli.run_options import Given, device_options, run_overrides
from uldm_plugins.commands.parameters import COUNT, not_empty, run_argument

if TYPE_CHECKING:
    from torch import Tensor

    from uldm_core.engine.context import Context
    from uldm_core.engine.opened_run import TrainedRun
    from uldm_plugins.commands.real_images import RealImages
    from uldm_plugins.stages.examine import Examined

FEW = 20


@click.command()
@run_argument
@click.argument("images", nargs=-1, type=FilePath(), metavar="[IMAGE_OR_FOLDER]...")
@click.option(
    "--split",
    callback=not_empty,
    help="Which split of the run's dataset, where no images are named; default test.",
)
@click.option(
    "--count",
    type=COUNT,
    help=f"The first so many of the split; default {FEW} into a folder, else all.",
)
@click.option(
    "--out",
    type=FilePath(),
    required=True,
    help="A folder for pictures of each image; or an .npz, or a grid as .png, of reconstructions only.",
)
@click.option(
    "--resize",
    type=click.Choice(["crop", "stretch", "off"]),
    default="crop",
    show_default=True,
    help="Images of another size than the run's: resize the middle square, or the whole; or refuse them.",
)
@device_options
@plugin_option
def reconstruct(
    run: Path,
    images: tuple[Path, ...],
    split: str | None,
    count: int | None,
    out: Path,
    resize: str,
    run_options: Given,
) -> None:
    """Pass images through the autoencoder of RUN, a folder that `uldm run` made.

    Images are files (PNG, JPEG, WebP, BMP, TIFF, GIF) or folders of them, or else a split of the run's
    dataset. Into a folder --out go, for each image, NAME_recon.png; with a quantizer NAME_recon_indices.png
    (original, reconstruction and code map) and NAME_code_hist.png (how often each code is used); and
    NAME_loss.json. A summary.png and a summary.json show and count them all. What is transparent in an image
    is laid on white, unless the run's images have alpha themselves.
    """
    from uldm_core.cli.progress import reporter
    from uldm_core.engine.opened_run import TrainedRun

    pictures = out.suffix not in (".npz", ".png")
    _check(images, split, count, out, pictures)
    flags = run_overrides(run_options)
    trained = TrainedRun.open(run, overrides=flags)
    trained.require_trained("autoencoder")
    count = count or (FEW if pictures else None)
    real = _real_images(trained, images, split or "test", count, resize)
    with reporter() as notify:
        context = trained.context("reconstruct", trained.resolved.seed, notify)
        if pictures:
            _draw(trained, real, context, out)
        else:
            _write(trained, real, context, out)


def _check(images: Sequence[Path], split: str | None, count: int | None, out: Path, pictures: bool) -> None:
    """Raise before any work is done for what does not go together, or could not be written."""
    from uldm_core import MistakeError
    from uldm_plugins.commands.output import check_output

    if images and (split or count):
        raise click.UsageError("name images, or give --split and --count; not both")
    if not pictures or out.suffix.lower() in (".jpg", ".jpeg", ".webp", ".gif", ".npy"):
        check_output(out)
    elif out.exists() and not out.is_dir():
        raise MistakeError(f"--out {out}: is a file", hint="name a folder, or end it in .npz or .png")
    elif any(path.is_dir() and out.resolve().is_relative_to(path.resolve()) for path in images):
        raise MistakeError(f"--out {out}: lies in the folder of the images", hint="choose another folder")


def _real_images(
    trained: TrainedRun, images: Sequence[Path], split: str, count: int | None, resize: str
) -> RealImages:
    from uldm_plugins.commands.real_images import of_files, of_split, other_sizes

    dataset = trained.component("dataset")
    if not images:
        return of_split(dataset, split, count)
    real = of_files(images, dataset.size, dataset.channels, resize)
    resized = other_sizes([Path(source) for source in real.sources], dataset.size)
    if resized:
        height, width = dataset.size
        part = "the middle part" if resize == "crop" else "the whole"
        what = f"{len(resized)} of {len(real)} images are of another size"
        click.echo(f"{what}: {part} is resized to {width}x{height}", err=True)
    return real


def _examined(trained: TrainedRun, real: RealImages, context: Context) -> Iterable[Examined]:
    """Yield what becomes of each image, and report progress."""
    from uldm_plugins.stages.examine import examine

    context.begin("reconstructing images", len(real))
    for done, one in enumerate(examine(real.batches(), trained.component("autoencoder"), context), 1):
        yield one
        context.advance(done)


def _write(trained: TrainedRun, real: RealImages, context: Context, out: Path) -> None:
    """Write the reconstructions only."""
    import torch

    from uldm_plugins.commands.output import write_images
    from uldm_plugins.stages.latents import passed

    batches = passed(real.batches(), trained.component("autoencoder"), context)
    write_images(torch.cat([batch.cpu() for batch in batches]), out)


def _draw(trained: TrainedRun, real: RealImages, context: Context, out: Path) -> None:
    """Write the pictures and losses of each image, and of all together."""
    from uldm_core.run_folder.files import write_json
    from uldm_plugins.pictures.reconstructions import MOST, save_summary

    size = _codebook_size(trained.component("autoencoder"))
    if not size:
        click.echo("the autoencoder has no codebook: there are no code maps and histograms", err=True)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[list[Tensor]] = []
    losses: list[dict[str, float]] = []
    for name, one in zip(real.names, _examined(trained, real, context)):
        drawn = _draw_one(one, name, size, out)
        rows += [drawn] if len(rows) < MOST else []
        losses.append(one.losses)
    mean = {name: sum(loss[name] for loss in losses) / len(losses) for name in losses[0]}
    parts = zip(real.names, real.sources, losses)
    each = [{"name": name, "image": source, "losses": loss} for name, source, loss in parts]
    write_json(out / "summary.json", {"run": str(trained.folder.path), "mean": mean, "images": each})
    labels = [f"{name}  l1 {loss['l1']:.3f}" for name, loss in zip(real.names, losses)]
    save_summary(rows, labels, out / "summary.png", _headline(trained, len(rows), len(losses), mean, size))
    click.echo(f"{out}: {len(losses)} images; {_said(mean)}")


def _draw_one(one: Examined, name: str, codebook_size: int, out: Path) -> list[Tensor]:
    """Write an image's files, and return its pictures."""
    from uldm_core.run_folder.files import write_json
    from uldm_plugins.nn.codebooks import code_counts
    from uldm_plugins.pictures.figures import code_histogram
    from uldm_plugins.pictures.reconstructions import save_image, save_triptych, titles, triptych

    save_image(one.reconstruction, out / f"{name}_recon.png")
    write_json(out / f"{name}_loss.json", one.losses)
    pictures = triptych(one.image, one.reconstruction, one.codes, codebook_size)
    if one.codes is not None:
        path = out / f"{name}_recon_indices.png"
        save_triptych(pictures, titles(one.codes), path, f"{name}: {_said(one.losses)}")
        counts = code_counts(one.codes.unsqueeze(0), codebook_size)
        code_histogram(counts, out / f"{name}_code_hist.png", f"Codes of {name}")
    return pictures


def _codebook_size(autoencoder: object) -> int:
    """Return how many codes there are; 0 without a quantizer."""
    from uldm_core.protocols import Quantized

    return autoencoder.quantizer.codebook_size if isinstance(autoencoder, Quantized) else 0


def _headline(trained: TrainedRun, shown: int, count: int, mean: Mapping[str, float], size: int) -> str:
    which = f"{count} images" if shown == count else f"the first {shown} of {count} images"
    what = "original, reconstruction, codes" if size else "original, reconstruction"
    return f"{trained.folder.path.name}: {what} of {which}\nmean of all: {_said(mean)}"


def _said(losses: Mapping[str, float]) -> str:
    units = {"psnr": " dB"}
    return ", ".join(f"{name} {value:.4g}{units.get(name, '')}" for name, value in losses.items())
