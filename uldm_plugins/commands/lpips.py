"""``uldm lpips``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uldm_core.cli.common import FilePath, json_option, plugin_option
from uldm_core.cli.run_options import Given, run_options
from uldm_plugins.commands.parameters import SEED, SIDE, as_run_options, completing_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from uldm_plugins.nn.perceptual import PerceptualDistance


@click.command()
@click.argument("images", nargs=-1, type=FilePath(), metavar="[A B]")
@click.option(
    "--out",
    type=FilePath(dir_okay=False),
    default="lpips_heatmap.png",
    show_default=True,
    help="The picture.",
)
@click.option(
    "--backbone",
    default="vgg16",
    show_default=True,
    metavar="NAME",
    shell_complete=completing_names("backbone"),
    help="vgg16, alexnet, squeezenet, mnist_classifier, dummy or any other that is registered.",
)
@click.option("--size", type=SIDE, help="Stretch both to squares of this side; default 256.")
@click.option("--no-resize", is_flag=True, help="Keep their sizes, which must agree.")
@click.option(
    "--option",
    "more",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other option of the backbone. Repeatable.",
)
@click.option("--weights", metavar="PATH", help="A file of the backbone's weights, or random.")
@click.option(
    "--weights-url", metavar="URL", help="Fetch them from here; the file's name must carry its hash."
)
@click.option("--auto-download/--no-auto-download", default=None, help="Whether the network may be used.")
@click.option("--overlay", is_flag=True, help="Also lay the distances over the first image.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the random images.")
@json_option
@run_options("device")
@plugin_option
def lpips(
    images: tuple[Path, ...],
    out: Path,
    backbone: str,
    size: int | None,
    no_resize: bool,
    more: tuple[str, ...],
    weights: str | None,
    weights_url: str | None,
    auto_download: bool | None,
    overlay: bool,
    seed: int,
    as_json: bool,
    run_options: Given,
) -> None:
    """Print the perceptual distance (LPIPS) of two images A and B, and draw where they differ.

    The picture shows the distance at each pixel, of every layer and of all together. Without A and B, two
    random images are compared: the second is the first but for its middle. vgg16, alexnet and squeezenet
    have the published heads, and need weights that are fetched once; mnist_classifier and dummy need no
    network.
    """
    if len(images) not in (0, 2):
        raise click.UsageError("name two images, or none")
    if size and no_resize:
        raise click.UsageError("--size and --no-resize exclude each other")
    _check_out(out)
    options = {"weights": weights, "weights_url": weights_url, "auto_download": auto_download}
    given = {name: value for name, value in options.items() if value is not None}
    pair = _pair(images, None if no_resize else size or 256, seed)
    network = _network(backbone, given, more)
    layers = _layers(network, pair, run_options)
    parts = [layer.mean().item() for layer in layers]
    report = {
        "distance": sum(parts),
        "layers": parts,
        "backbone": backbone,
        "weights": weights or "as the backbone has them",
        "heads": _heads(network),
        "size": list(pair[0].shape[1:]),
        "images": [str(path) for path in images] or ["random", "random, its middle changed"],
        "picture": str(out),
    }
    _draw(report, pair, layers, out, overlay)
    click.echo(json.dumps(report, indent=2) if as_json else _summary(report))


def _check_out(out: Path) -> None:
    """Raise ``MistakeError`` before any work is done if the picture could not be written."""
    from uldm_core import MistakeError
    from uldm_plugins.commands.output import check_output

    if out.suffix != ".png":
        raise MistakeError(f"--out {out}: must end in .png")
    check_output(out)


def _network(name: str, options: dict[str, Any], more: Sequence[str]) -> PerceptualDistance:
    """Return the distance on a backbone of these options.

    Raises:
        MistakeError: there is no such backbone, it has no such option, or its weights are unavailable.
    """
    from uldm_core import MistakeError, Problem, registry
    from uldm_core.errors import is_unavailable, listing
    from uldm_core.recipe.overrides import parse_options

    own = registry.describe("backbone", name).options
    declared = [option.name for option in own]
    for option in options:
        if option not in declared:
            flag = option.replace("_", "-")
            raise MistakeError(
                f"--{flag}: backbone {name} has no such option", hint=f"its options: {listing(declared)}"
            )
    try:
        backbone = registry.build("backbone", name, **options, **parse_options(more, own))
    except MistakeError as error:
        if not is_unavailable(error):
            raise
        hint = "without a network: --weights FILE; --backbone mnist_classifier and dummy need none"
        raise MistakeError(*(Problem(one.where, one.what, hint) for one in error.problems)) from error
    network: PerceptualDistance = registry.build("loss", "lpips", backbone=backbone)
    return network


def _pair(paths: Sequence[Path], size: int | None, seed: int) -> list[Tensor]:
    """Return two images of one shape, uint8 [C, H, W].

    Raises:
        MistakeError: a file cannot be read, or their sizes differ and ``size`` is not given.
    """
    from uldm_core import MistakeError
    from uldm_plugins.commands.real_images import image_paths
    from uldm_plugins.shared.files import read_image

    if not paths:
        return _random_pair(size or 256, seed)
    for path in paths:
        if path.is_dir():
            raise MistakeError(f"{path} is a folder", hint="name two images")
        image_paths([path])
    try:
        pair = [read_image(path, size=size) for path in paths]
    except ValueError as error:
        raise MistakeError(str(error)) from error
    if pair[0].shape[1:] != pair[1].shape[1:]:
        sizes = [f"{path} is {image.shape[2]}x{image.shape[1]}" for path, image in zip(paths, pair)]
        raise MistakeError(", ".join(sizes), hint="--size 256 stretches both to squares of that side")
    channels = max(len(image) for image in pair)
    return [image.expand(channels, -1, -1) for image in pair]


def _random_pair(size: int, seed: int) -> list[Tensor]:
    """Return a cloudy image and the same with another middle, uint8 [3, size, size]."""
    import torch
    import torch.nn.functional as F

    from uldm_core.engine.randomness import generator
    from uldm_plugins.shared.images import to_uint8

    noise = torch.rand(2, 3, 8, 8, generator=generator(seed, "lpips")) * 2 - 1
    first, other = to_uint8(F.interpolate(noise, (size, size), mode="bilinear"))
    second = first.clone()
    middle = slice(size // 3, max(size - size // 3, size // 3 + 1))
    second[:, middle, middle] = other[:, middle, middle]
    return [first, second]


def _layers(network: PerceptualDistance, pair: Sequence[Tensor], options: Given) -> list[Tensor]:
    """Return each layer's distances, [1, 1, h, w], on the CPU.

    Raises:
        MistakeError: the device cannot be used, or the images are too small for the backbone.
    """
    import torch

    from uldm_core import MistakeError
    from uldm_core.engine.device import choose_device
    from uldm_plugins.shared.images import to_float

    place = choose_device(as_run_options(options)).device
    first, second = (to_float(image.unsqueeze(0).to(place)) for image in pair)
    try:
        with torch.inference_mode():
            return [layer.float().cpu() for layer in network.to(place).layers(first, second)]
    except ValueError as error:
        raise MistakeError(str(error)) from error


def _heads(network: PerceptualDistance) -> str:
    """Return how the channels of a layer are weighted: ``published`` or ``even``."""
    from uldm_core.protocols import HasPublishedHeads

    return "published" if isinstance(network.backbone, HasPublishedHeads) else "even"


def _draw(
    report: dict[str, Any], pair: Sequence[Tensor], layers: Sequence[Tensor], out: Path, overlay: bool
) -> None:
    from uldm_plugins.nn.perceptual import enlarged
    from uldm_plugins.pictures.perceptual import save_heat_maps

    maps = [one[0, 0] for one in enlarged(layers, pair[0].shape[1:])]
    names = [Path(name).name for name in report["images"]]
    grids = [f"{layer.shape[3]}x{layer.shape[2]}" for layer in layers]
    parts = [
        f"layer {number} ({grid}): {part:.4f}"
        for number, (grid, part) in enumerate(zip(grids, report["layers"]), 1)
    ]
    save_heat_maps(pair, names, maps, parts, out, title=_summary(report), overlay=overlay)


def _summary(report: dict[str, Any]) -> str:
    height, width = report["size"]
    weights = "random weights, " if report["weights"] == "random" else ""
    how = f"{report['backbone']}, {weights}{report['heads']} heads, {width}x{height}"
    return f"LPIPS {report['distance']:.4f} ({how})"
