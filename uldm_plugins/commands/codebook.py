"""``uldm codebook``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uldm_core.cli.common import FilePath, json_option, plugin_option
from uldm_core.cli.run_options import Given, device_options, run_overrides
from uldm_plugins.commands.parameters import run_argument

if TYPE_CHECKING:
    from torch import Tensor

    from uldm_core.engine.context import Context
    from uldm_core.engine.opened_run import TrainedRun


@click.command()
@run_argument
@click.option(
    "--split", default="test", show_default=True, help="Which split of the run's dataset is encoded."
)
@click.option(
    "--out",
    type=FilePath(),
    help="A folder for usage.png, map.png, codes.png and codebook.json; or a .png with all pictures in one.",
)
@json_option
@device_options
@plugin_option
def codebook(
    run: Path,
    split: str,
    out: Path | None,
    as_json: bool,
    run_options: Given,
) -> None:
    """Encode a whole split of the dataset by RUN, and print how many codes are used, and how evenly.

    Pictures, into --out: how often each code is used; where the codes lie, in the two directions in which
    they differ most; and what each decodes to when every place holds it.
    """
    from uldm_core.cli.progress import reporter
    from uldm_core.engine.opened_run import TrainedRun
    from uldm_plugins.commands.real_images import split_of
    from uldm_plugins.stages.codebooks import count_codes
    from uldm_plugins.stages.latents import image_batches

    _check_out(out)
    flags = run_overrides(run_options)
    trained = TrainedRun.open(run, overrides=flags)
    trained.require_trained("autoencoder")
    _require_codebook(trained)
    images = split_of(trained.component("dataset"), split)
    with reporter() as notify:
        context = trained.context("codebook", trained.resolved.seed, notify)
        context.begin("encoding images", len(images))
        counts = count_codes(image_batches(images), trained.component("autoencoder"), context)
        numbers = {"run": str(run), "split": split, "images": len(images), "codebooks": _numbers(counts)}
        if out:
            _save(trained, counts, numbers, context, out)
    click.echo(json.dumps(numbers, indent=2) if as_json else _table(numbers))
    if out:
        click.echo(f"{out}: drawn", err=True)
    elif not as_json:
        click.echo("--out FOLDER or --out codebook.png draws it", err=True)


def _check_out(out: Path | None) -> None:
    """Raise ``MistakeError`` before any work is done if the pictures could not be written."""
    from uldm_core import MistakeError
    from uldm_plugins.commands.output import check_output

    if out and out.suffix == ".png":
        check_output(out)
    elif out and (out.suffix or (out.exists() and not out.is_dir())):
        raise MistakeError(f"--out {out}: must be a folder or end in .png")


def _require_codebook(trained: TrainedRun) -> None:
    """Raise ``MistakeError`` if the run's autoencoder has no codebook."""
    from uldm_core import MistakeError
    from uldm_core.protocols import Quantized

    autoencoder = trained.component("autoencoder")
    if not isinstance(autoencoder, Quantized):
        raise MistakeError(
            f"{trained.folder.path}: its autoencoder ({type(autoencoder).__name__}) has no codebook",
            hint="one with a quantizer has, such as vqvae; uldm reconstruct shows any",
        )


def _numbers(counts: Tensor) -> list[dict[str, Any]]:
    """Return the numbers of each codebook."""
    from uldm_plugins.nn.codebooks import perplexity

    return [
        {
            "size": len(uses),
            "counts": uses.tolist(),
            "used": int((uses > 0).sum()),
            "perplexity": float(evenness),
        }
        for uses, evenness in zip(counts, perplexity(counts))
    ]


def _table(numbers: dict[str, Any]) -> str:
    lines = [f"{numbers['images']} images of split {numbers['split']!r}"]
    books = numbers["codebooks"]
    for number, book in enumerate(books, 1):
        name = f"codebook {number}: " if len(books) > 1 else ""
        used, size = book["used"], book["size"]
        lines.append(
            f"{name}{used} of {size} codes used ({used / size:.1%}), perplexity {book['perplexity']:.1f}"
        )
    return "\n".join(lines)


def _save(trained: TrainedRun, counts: Tensor, numbers: dict[str, Any], context: Context, out: Path) -> None:
    """Write pictures and numbers into a folder, or the pictures only, into one PNG."""
    from tempfile import TemporaryDirectory

    from uldm_core.run_folder.files import write_json
    from uldm_plugins.pictures.codebooks import stack

    if out.suffix == ".png":
        with TemporaryDirectory() as folder:
            stack(_draw(trained, counts, context, Path(folder), numbers), out)
    else:
        out.mkdir(parents=True, exist_ok=True)
        _draw(trained, counts, context, out, numbers)
        write_json(out / "codebook.json", numbers)


def _draw(
    trained: TrainedRun, counts: Tensor, context: Context, folder: Path, numbers: dict[str, Any]
) -> list[Path]:
    """Write the pictures, and return where they are."""
    import torch

    from uldm_plugins.pictures.codebooks import save_map, save_usage
    from uldm_plugins.stages.codebooks import vectors

    name = f"{trained.folder.path.resolve().name}, {numbers['images']} images of split {numbers['split']!r}"
    save_usage(counts, folder / "usage.png", f"Use of the codes: {name}")
    quantizer = trained.component("autoencoder").quantizer
    every = torch.arange(counts.shape[1])
    places = [vectors(quantizer, every, number, counts).cpu() for number in range(len(counts))]
    save_map(places, counts, folder / "map.png", f"Where the codes lie: {name}")
    sheets = [_draw_codes(trained, counts, number, context, folder) for number in range(len(counts))]
    return [folder / "usage.png", folder / "map.png", *sheets]


def _draw_codes(trained: TrainedRun, counts: Tensor, number: int, context: Context, folder: Path) -> Path:
    """Write what the codes of one codebook decode to, and return where."""
    from uldm_core.kinds import latent_size
    from uldm_plugins.pictures.codebooks import most_used, save_codes
    from uldm_plugins.stages.codebooks import decoded

    autoencoder = trained.component("autoencoder")
    uses, codes = counts[number], most_used(counts[number])
    size = latent_size(trained.component("dataset").size, autoencoder.downscale)
    images = list(decoded(autoencoder, codes, number, counts, size, context))
    book = f"codebook {number + 1}, " if len(counts) > 1 else ""
    which = f"the {len(codes)} most used of {len(uses)} codes" if len(codes) < len(uses) else "all codes"
    title = f"What a code decodes to when every place holds it: {book}{which}; below, its share of places"
    if len(counts) > 1:
        title += "\nThe other codebooks hold their most used code"
    path = folder / (f"codes_{number + 1}.png" if len(counts) > 1 else "codes.png")
    save_codes(images, codes, uses, path, title)
    return path
