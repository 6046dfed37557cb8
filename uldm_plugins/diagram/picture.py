"""The picture of a recipe: its stages in a row, its networks level by level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from uldm_core.preflight.preflight import short
from uldm_core.recipe import ResolvedRecipe
from uldm_plugins.diagram.canvas import (
    GREY,
    PAD,
    PALE,
    Canvas,
    Piece,
    Style,
    below,
    boxed,
    settings,
    text_piece,
    width_of,
)
from uldm_plugins.diagram.flowchart import is_conditional
from uldm_plugins.diagram.network_levels import NetworkLevels
from uldm_plugins.diagram.networks import panel
from uldm_plugins.diagram.shapes import Scale, format_shape
from uldm_plugins.diagram.stages import components, stages

WIDTH, MARGIN, GUTTER = 675.0, 16.0, 12.0
"""In points: a README is some 900 pixels wide."""
INNER = WIDTH - 2 * MARGIN
NAME, SUMMARY, LEGEND = Style(15, bold=True), Style(9, colour=PALE), Style(7.5, colour=PALE)


def picture(resolved: ResolvedRecipe, network_levels: Sequence[NetworkLevels]) -> Figure:
    """Return a recipe's stages and networks as a figure.

    Args:
        resolved: the recipe.
        network_levels: of its components, from ``network_levels(resolved)``.
    """
    networks = [one for one in network_levels if one.network]
    scale = Scale.of(networks)
    with settings():
        pieces = [
            text_piece([(resolved.recipe.name, NAME), (_summary(network_levels), SUMMARY)], INNER),
            stages(resolved, _images(network_levels), INNER),
            components(resolved, [network.name for network in networks], INNER),
            *(_panel(resolved, network, scale) for network in networks),
            _legend(),
        ]
        page = below([piece for piece in pieces if piece.height], GUTTER)
        canvas = Canvas(WIDTH)
        page.draw(canvas, MARGIN, MARGIN)
        return canvas.finish(page.height + 2 * MARGIN)


def _summary(network_levels: Sequence[NetworkLevels]) -> str:
    """Return in a line what the recipe is about."""
    total = sum(one.row.parameters or 0 for one in network_levels)
    latents = next((format_shape(one.latents) for one in network_levels if one.latents), "")
    facts = [
        f"images {_images(network_levels)}" if _images(network_levels) else "",
        f"latents {latents}" if latents else "",
        f"{short(total)} parameters in all" if total else "",
    ]
    return ", ".join(fact for fact in facts if fact)


def _images(network_levels: Sequence[NetworkLevels]) -> str:
    """Return the shape of the dataset's images; empty if unknown."""
    return next(
        (format_shape(one.output) for one in network_levels if one.kind == "dataset" and one.output), ""
    )


def _panel(resolved: ResolvedRecipe, network: NetworkLevels, scale: Scale) -> Piece:
    """Return a network in its box."""
    notes = [*_condition(resolved, network), *_samples(resolved, network)]
    return boxed([panel(network, scale, INNER - 2 * PAD, notes)], INNER, 0)


def _condition(resolved: ResolvedRecipe, network: NetworkLevels) -> Iterator[str]:
    """Yield what a denoiser is given beside the time."""
    if network.name in resolved.components and is_conditional(network.name, resolved):
        condition = resolved.components["condition"]
        classes = condition.options.get("classes")
        many = f", one of {classes:,}," if isinstance(classes, int) else ""
        yield f"given the class of each image{many} by the condition {condition.use}"


def _samples(resolved: ResolvedRecipe, denoiser: NetworkLevels) -> Iterator[str]:
    """Yield how stages draw with a denoiser."""
    for name, stage in resolved.stages.items():
        samplers = [part for part in stage.parts() if part.kind.name == "sampler"]
        if samplers and denoiser.kind == "denoiser" and denoiser.name in stage.references().values():
            yield f"{name}: from noise to latents by {samplers[0].use}, then decoded to images"


def _legend() -> Piece:
    """Return how bars are to be read."""
    texts = [
        "bar: longer is higher and wider, thicker has more channels",
        "attention",
        "skip connection",
        "\N{DOWNWARDS ARROW} \N{UPWARDS ARROW} begins by changing the size",
    ]

    def draw(canvas: Canvas, x: float, y: float) -> None:
        middle = y + LEGEND.line / 2
        for index, text in enumerate(texts):
            if index in (0, 1):
                canvas.bar(x, middle - 4, 20, 8, GREY, hatched=index == 1)
            elif index == 2:
                canvas.arrow([(x, middle), (x + 20, middle)], dashed=True)
            x += 25 if index < 3 else 0
            canvas.line(x, y, text, LEGEND)
            x += width_of(text, LEGEND.size) + 16

    return Piece(LEGEND.line, draw)
