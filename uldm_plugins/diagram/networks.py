"""Networks level by level: bars as long as the tensors are high and wide, as thick as they have channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from uldm_core.preflight.preflight import NOT_MEASURABLE, short
from uldm_plugins.diagram.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAD,
    PALE,
    PURPLE,
    SKY,
    YELLOW,
    Line,
    Piece,
    below,
    text_piece,
)
from uldm_plugins.diagram.network_levels import Codebook, Level, NetworkLevels, Part
from uldm_plugins.diagram.shapes import (
    CHIP_WIDTH,
    CROSS,
    GAP,
    PLAIN,
    SMALL,
    TEXT,
    TITLE,
    Item,
    Scale,
    bars,
    chip,
    format_shape,
    hourglass,
    in_a_row,
    rows,
)

MOST_LEVELS = 16
"""That are drawn of a network without a way up again; of more, those in the middle are left out."""
COLOURS = {"denoiser": PURPLE, "discriminator": SKY}


def panel(network: NetworkLevels, scale: Scale, width: float, samples: Sequence[str]) -> Piece:
    """Return a network with its title.

    Args:
        network: what it looks like inside.
        scale: of the bars.
        width: of it all.
        samples: lines on its condition, and how it is sampled with.
    """
    foot = text_piece(_foot(network, samples), width)
    pieces = [text_piece(_title(network), width), *_drawing(network, scale, width), foot]
    return below([piece for piece in pieces if piece.height], GAP - 3)


def _title(network: NetworkLevels) -> list[Line]:
    kind = "" if network.name == network.kind else f" ({network.kind})"
    row = network.row
    costs = [(row.parameters, "parameters"), (row.flops, "FLOPs a forward pass")]
    cost = ", ".join(f"{short(count)} {what}" for count, what in costs if count is not None)
    return [(f"{network.name}{kind}: {network.use}", TITLE), (cost or "no parameters", SMALL)]


def _foot(network: NetworkLevels, samples: Sequence[str]) -> list[Line]:
    conditioning, lines = network.part("conditioning"), []
    if conditioning.levels:
        contents = ", ".join(name for level in conditioning.levels for _, name in level.contents())
        lines.append(f"conditioned by {contents}: {short(conditioning.parameters)} parameters")
    shown = network.codebook.use if network.codebook else ""
    lines += [f"{option}: {use}" for option, use in network.made_of.items() if use != shown]
    if network.elsewhere and not network.why:
        lines.append(f"{short(network.elsewhere)} parameters outside of these blocks")
    if network.receptive_field:
        lines.append(
            f"each logit has a receptive field of {CROSS.join([str(network.receptive_field)] * 2)} pixels"
        )
    if network.why:
        lines.append(f"{NOT_MEASURABLE}: {network.why}")
    return [(line, PLAIN) for line in (*lines, *samples)]


def _drawing(network: NetworkLevels, scale: Scale, width: float) -> Iterator[Piece]:
    if not network.input:
        return
    if network.part("encoder") in network.parts:
        yield _autoencoder(network, scale, width)
        return
    part, colour = network.part("network"), COLOURS.get(network.kind, GREY)
    middle = _bottleneck(part)
    if middle is None:
        yield _one_way(network, part, scale, colour, width)
        return
    given, made = _ends(network, CHIP_WIDTH)
    own = bars(part.levels, scale, colour, TEXT)
    centre = bars(part.levels[middle : middle + 1], scale, colour, 3 * CHIP_WIDTH)
    yield hourglass([given, *own[:middle]], [made, *own[:middle:-1]], centre, width)


def _one_way(network: NetworkLevels, part: Part, scale: Scale, colour: str, width: float) -> Piece:
    """Return levels from left to right, each branch in rows of its own."""
    branches = _branches(part)
    count = max(min(len(levels), MOST_LEVELS + 1) for levels in branches) or 1
    own = min(CHIP_WIDTH, width / in_a_row(count + 2) - 2 * PAD)
    given, made = _ends(network, own)
    pieces = []
    for levels in branches:
        shown = _fewer(bars(levels, scale, colour, own + PAD, narrow=True), own)
        shown = shown or [chip(colour, network.use, "?" if part.why else "no layers", width=own)]
        resized = levels and levels[0].branch
        first = (
            chip(GREY, "the same, resized", format_shape(levels[0].branch), width=own) if resized else given
        )
        pieces.append(rows([first, *shown, *([made] if levels is branches[-1] else [])], width))
    return below(pieces, GAP)


def _branches(part: Part) -> list[list[Level]]:
    branches: list[list[Level]] = [[]]
    for level in part.levels:
        if level.branch:
            branches.append([])
        branches[-1].append(level)
    return branches


def _fewer(items: list[Item], width: float) -> list[Item]:
    """Leave out the middle of very many."""
    if len(items) <= MOST_LEVELS:
        return items
    left_out = chip(PALE, f"{len(items) - MOST_LEVELS} more levels", width=width)
    return [*items[: MOST_LEVELS // 2], left_out, *items[-MOST_LEVELS // 2 :]]


def _bottleneck(part: Part) -> int | None:
    return next((index for index, level in enumerate(part.levels) if level.bottleneck), None)


def _ends(network: NetworkLevels, width: float) -> tuple[Item, Item]:
    """Return what goes into a network, and what comes out of it."""
    made = format_shape(network.output) if network.output else ""
    first, last, colours = {
        "denoiser": ("noisy latents", f"predicted {network.prediction or 'target'}", (GREEN, GREEN)),
        "discriminator": ("image or reconstruction", "logits", (GREY, SKY)),
        "backbone": ("images", "feature maps, the first", (GREY, GREEN)),
    }.get(network.kind, ("input", "output", (GREY, GREY)))
    return chip(colours[0], first, format_shape(network.input), width=width), chip(
        colours[1], last, made, width=width
    )


def _autoencoder(network: NetworkLevels, scale: Scale, width: float) -> Piece:
    encoder, decoder = network.part("encoder"), network.part("decoder")
    down = [
        chip(GREY, "images", format_shape(network.input), heading=_heading(encoder)),
        *bars(encoder.levels, scale, BLUE, TEXT),
    ]
    up = [
        chip(
            GREY, "reconstructions", format_shape(network.output or network.input), heading=_heading(decoder)
        ),
        *bars(decoder.levels[::-1], scale, ORANGE, TEXT),
    ]
    latents = chip(GREEN, "latents", format_shape(network.latents) if network.latents else "")
    book = network.codebook
    bottom = [chip(YELLOW, book.use, *_codes(book)), latents] if book else [latents]
    return hourglass(down, up, bottom, width)


def _heading(part: Part) -> list[Line]:
    counted = f"{short(part.parameters)} parameters" if part.levels else "no layers"
    return [(part.name, TITLE), (counted, SMALL)]


def _codes(book: Codebook) -> list[str]:
    size = f"{book.size:,} codes" if book.size else ""
    dim = f"of {book.dim} number{'s' * (book.dim > 1)}" if book.dim else ""
    return [size, dim, f"{book.count} codes a position" if book.count > 1 else ""]
