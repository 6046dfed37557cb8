"""Where two images differ to a feature network, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from uldm_plugins.pictures.figures import drawn
from uldm_plugins.pictures.sheets import coloured

HEAT = "inferno"
_SIDE = 2.5
_LEAST = 1e-12


def save_heat_maps(
    images: Sequence[Tensor],
    names: Sequence[str],
    maps: Sequence[Tensor],
    parts: Sequence[str],
    path: Path,
    *,
    title: str,
    overlay: bool,
) -> None:
    """Draw two images, the distance at each pixel, and each layer's part of it.

    All layers have one colour scale, so that a layer that contributes little is dark; it goes by the square
    root, so that it is not black.

    Args:
        images: two, uint8 [C, H, W].
        names: what they are called.
        maps: each layer's distances, [H, W], at the images' size.
        parts: what each layer is called.
        path: the PNG.
        title: at the top.
        overlay: also lay the distances over the first image.
    """
    total = sum(maps[1:], start=maps[0])
    above = 4 if overlay else 3
    height, width = total.shape
    with drawn(path, _SIDE * max(above, len(maps)) + 0.7, 2 * _SIDE * min(height / width, 2) + 1.2) as figure:
        figure.suptitle(title)
        upper, lower = figure.subfigures(2, 1)  # type: ignore[misc]  # an array, unlike its stub
        row = upper.subplots(1, above)
        for axes, image, name in zip(row, images, names):
            _show(axes, image, name)
        scale = Normalize(0, max(total.max().item(), _LEAST))
        if overlay:
            _lay_over(row[2], images[0], total, scale)
        _heat(row[-1], total, scale, "all layers, added up")
        _legend(upper, row, scale, "distance at a pixel")
        layers = lower.subplots(1, len(maps), squeeze=False)[0]
        scale = PowerNorm(0.5, 0, max(*(one.max().item() for one in maps), _LEAST))
        for axes, one, part in zip(layers, maps, parts):
            _heat(axes, one, scale, part)
        _legend(lower, layers, scale, "distance of a layer")


def _show(axes: Axes, image: Tensor, name: str) -> None:
    axes.imshow(coloured(image).permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_title(name)
    axes.set_axis_off()


def _heat(axes: Axes, one: Tensor, scale: Normalize, name: str) -> None:
    axes.imshow(one.numpy(), cmap=HEAT, norm=scale, interpolation="nearest")
    axes.set_title(name)
    axes.set_axis_off()


def _lay_over(axes: Axes, image: Tensor, total: Tensor, scale: Normalize) -> None:
    """Show the image in grey, the hotter the less of it."""
    grey = image[:3].float().mean(0)
    axes.imshow(grey.numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.imshow(
        total.numpy(), cmap=HEAT, norm=scale, alpha=scale(total.numpy()) ** 0.5, interpolation="nearest"
    )
    axes.set_title("laid over the first")
    axes.set_axis_off()


def _legend(figure: Figure, row: Sequence[Axes], scale: Normalize, label: str) -> None:
    figure.colorbar(ScalarMappable(scale, HEAT), ax=list(row), label=label, shrink=0.8, aspect=25)
