"""Networks level by level: bars as long as the tensors are high and wide, as thick as they have channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from uldm_core.diagram.canvas import (
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
from uldm_core.diagram.shapes import (
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
    hourglass,
    row,
    say,
    stack,
)
from uldm_core.engine.anatomy import Anatomy, Codebook, Part
from uldm_core.engine.preflight import NOT_MEASURABLE, short

IN_A_ROW, IN_A_STACK = 4, 16
"""Levels that are drawn from left to right; levels that are drawn below each other, of more only the ends."""
COLOURS = {"denoiser": PURPLE, "discriminator": SKY}


def is_long(network: Anatomy) -> bool:
    """Whether a network has no way up again, and more levels than there is room for in a row."""
    part = network.part("network")
    return _bottleneck(part) is None and len(part.levels) > IN_A_ROW


def panel(network: Anatomy, scale: Scale, width: float, samples: Sequence[str]) -> Piece:
    """Return a network with its title.

    Args:
        network: what it looks like inside.
        scale: of the bars.
        width: of it all.
        samples: what is said of how it is sampled with.
    """
    foot = text_piece(_foot(network, samples), width)
    pieces = [text_piece(_title(network), width), *_drawing(network, scale, width), foot]
    return below([piece for piece in pieces if piece.height], GAP - 3)


def _title(network: Anatomy) -> list[Line]:
    kind = "" if network.name == network.kind else f" ({network.kind})"
    row = network.row
    costs = [(row.parameters, "parameters"), (row.flops, "FLOPs a forward pass")]
    said = ", ".join(f"{short(count)} {what}" for count, what in costs if count is not None)
    return [(f"{network.name}{kind}: {network.use}", TITLE), (said or "no parameters", SMALL)]


def _foot(network: Anatomy, samples: Sequence[str]) -> list[Line]:
    told = network.part("conditioning")
    said = []
    if told.levels:
        contents = ", ".join(name for level in told.levels for _, name in level.contents())
        said.append(f"told the time by {contents}: {short(told.parameters)} parameters")
    if network.elsewhere:
        said.append(f"{short(network.elsewhere)} parameters belong to no block")
    if network.receptive_field:
        said.append(f"each logit sees {CROSS.join([str(network.receptive_field)] * 2)} pixels")
    unknown = [
        (network.row.why, NOT_MEASURABLE),
        *((part.why, f"{part.name} {NOT_MEASURABLE}") for part in network.parts),
    ]
    said += [f"{what}: {why}" for why, what in unknown if why]
    return [(line, PLAIN) for line in (*said, *samples)]


def _drawing(network: Anatomy, scale: Scale, width: float) -> Iterator[Piece]:
    if not network.input:
        return
    if network.kind == "autoencoder":
        yield _autoencoder(network, scale, width)
        return
    part, colour = network.part("network"), COLOURS.get(network.kind, GREY)
    given, made = _ends(network)
    middle = _bottleneck(part)
    if middle is None and is_long(network):
        yield stack([given, *_fewer(bars(part.levels, scale, colour, width - CHIP_WIDTH - PAD)), made])
        return
    if middle is None:
        pitch = width / (len(part.levels) + 2)
        yield row([given, *bars(part.levels, scale, colour, min(pitch - PAD, CHIP_WIDTH)), made], width)
        return
    own = bars(part.levels, scale, colour, TEXT)
    centre = bars(part.levels[middle : middle + 1], scale, colour, 3 * CHIP_WIDTH)
    yield hourglass([given, *own[:middle]], [made, *own[:middle:-1]], centre, width)


def _fewer(items: list[Item]) -> list[Item]:
    """Leave out the middle of very many."""
    if len(items) <= IN_A_STACK:
        return items
    left_out = chip(PALE, f"{len(items) - IN_A_STACK} more levels")
    return [*items[: IN_A_STACK // 2], left_out, *items[-IN_A_STACK // 2 :]]


def _bottleneck(part: Part) -> int | None:
    return next((index for index, level in enumerate(part.levels) if level.bottleneck), None)


def _ends(network: Anatomy) -> tuple[Item, Item]:
    """Return what goes into a network, and what comes out of it."""
    given, made = say(network.input), say(network.output) if network.output else ""
    if network.kind == "denoiser":
        predicts = f"prediction: {network.prediction}" if network.prediction else "prediction"
        return chip(GREEN, "noisy latents", given), chip(GREEN, predicts, made)
    if network.kind == "discriminator":
        return chip(GREY, "image or reconstruction", given), chip(SKY, "logits", made)
    return chip(GREY, "images", given), chip(GREEN, "features", network.row.output)


def _autoencoder(network: Anatomy, scale: Scale, width: float) -> Piece:
    encoder, decoder = network.part("encoder"), network.part("decoder")
    down = [
        chip(GREY, "images", say(network.input), heading=_heading(encoder)),
        *bars(encoder.levels, scale, BLUE, TEXT),
    ]
    up = [
        chip(GREY, "reconstructions", say(network.output or network.input), heading=_heading(decoder)),
        *bars(decoder.levels[::-1], scale, ORANGE, TEXT),
    ]
    latents = chip(GREEN, "latents", say(network.latents) if network.latents else "")
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
