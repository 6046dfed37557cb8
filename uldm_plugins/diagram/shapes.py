"""Bars and chips, and the ways through them: in a row, in a column, down and up again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, zip_longest
from math import ceil, log2

from attrs import evolve, field, frozen

from uldm_core.preflight.preflight import short
from uldm_plugins.diagram.canvas import (
    PAD,
    PALE,
    PAPER,
    Canvas,
    Line,
    Piece,
    Style,
    below,
    height_of,
    set_out,
)
from uldm_plugins.diagram.network_levels import DOWN, UP, Level, NetworkLevels
from uldm_plugins.diagram.trace import Shape

TITLE, SMALL, HEAD, PLAIN = Style(10, bold=True), Style(7.5, colour=PALE), Style(8, bold=True), Style(7.5)
CHIP = Style(7.5, bold=True, colour=PAPER, align="center")
LONGEST, SHORTEST, THICKEST, THINNEST = 100.0, 20.0, 20.0, 7.0
"""Of bars, in points."""
CHIP_WIDTH, TEXT = 104.0, 178.0
"""Of a column, and of the text beside it."""
GAP = 13.0
"""Between rows, where the arrows are."""
MOST = 7
"""Items from left to right."""
CROSS = "\N{MULTIPLICATION SIGN}"


@frozen
class Scale:
    """How long and thick bars are: by the logarithm of sizes and channels, alike in all networks."""

    size: int
    width: int

    @classmethod
    def of(cls, networks: Sequence[NetworkLevels]) -> Scale:
        """Return the scale in which the largest of all bars has its room."""
        levels = [level for network in networks for part in network.parts for level in part.levels]
        sizes = [side for level in levels for side in level.grid]
        return cls(max([2, *sizes]), max([2, *(level.width for level in levels)]))

    def bar(self, level: Level) -> tuple[float, float]:
        """Return a level's length and thickness, in points."""
        share = log2(max(level.grid)) / log2(self.size) if level.grid else 0.5
        thickness = THINNEST + (THICKEST - THINNEST) * log2(level.width) / log2(self.width)
        return SHORTEST + (LONGEST - SHORTEST) * share, thickness


@frozen
class Rect:
    """Where something was drawn: its middle, its upper edge, its size."""

    centre: float
    top: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Its height's middle."""
        return self.top + self.height / 2

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.top + self.height

    @property
    def left(self) -> float:
        """Its left edge."""
        return self.centre - self.width / 2

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.centre + self.width / 2


@frozen
class Item:
    """A row of a column: a chip or a bar, and the text beside it.

    Args:
        width: of the chip or the bar.
        thickness: its height.
        colour: of it.
        text: beside it, or within a chip.
        level: what the bar shows; None for a chip.
        heading: beside a chip.
    """

    width: float
    thickness: float
    colour: str
    text: list[Line]
    level: Level | None = None
    heading: list[Line] = field(factory=list)

    @property
    def height(self) -> float:
        """Of the row, in points."""
        return max(self.thickness, height_of(self.beside))

    @property
    def beside(self) -> list[Line]:
        """The text beside it."""
        return self.text if self.level else self.heading

    def draw(self, canvas: Canvas, centre: float, y: float, height: float, align: str) -> Rect:
        """Draw it in a row of a height, and its text: beside its column, or below the row."""
        top = y + (height - self.thickness) / 2
        place = Rect(centre, top, self.width, self.thickness)
        if self.level is None:
            canvas.box(place.left, top, self.width, self.thickness, fill=self.colour, edge=self.colour)
            canvas.write(centre, top + PAD / 2 - 0.5, self.text)
        else:
            self._bars(canvas, place)
        edge = {"left": CHIP_WIDTH / 2 + PAD, "right": -CHIP_WIDTH / 2 - PAD, "center": 0.0}[align]
        upper = y + height + 4 if align == "center" else y + (height - height_of(self.beside)) / 2
        canvas.write(
            centre + edge, upper, [(line, evolve(style, align=align)) for line, style in self.beside]
        )
        return place

    def upright(self) -> Item:
        """Return it upright: as high as it was long, or nearly."""
        if self.level is None:
            return self
        return evolve(self, width=1.5 * self.thickness, thickness=0.6 * self.width)

    def _bars(self, canvas: Canvas, place: Rect) -> None:
        """Draw the bar; of several blocks of a kind, others show behind it."""
        assert self.level is not None
        behind = min(2, self.level.repeated - 1)
        for step in range(behind, -1, -1):
            shift = 2.5 * (step - behind / 2)
            canvas.bar(
                place.left + shift, place.top - shift, place.width, place.height, self.colour,
                hatched=self.level.attention,
            )  # fmt: skip


def chip(colour: str, *texts: str, width: float = CHIP_WIDTH, heading: Sequence[Line] = ()) -> Item:
    """Return what goes into a network, enters out of it, or lies between its parts."""
    lines = set_out([(text, CHIP) for text in texts if text], width - PAD)
    return Item(width, height_of(lines) + PAD, colour, lines, heading=set_out(heading, TEXT))


def bars(
    levels: Sequence[Level], scale: Scale, colour: str, width: float, *, narrow: bool = False
) -> list[Item]:
    """Return levels as bars, with the text of each in lines of a width."""
    return [
        Item(*scale.bar(level), colour, set_out(_caption(level, narrow), width), level) for level in levels
    ]


def _caption(level: Level, narrow: bool) -> list[Line]:
    arrow = {DOWN: "\N{DOWNWARDS ARROW} ", UP: "\N{UPWARDS ARROW} "}.get(level.resize, "")
    channels = f"{level.width} channel{'s' * (level.width > 1)}" if level.grid else ""
    facts = [arrow + _size(level), channels, "bottleneck" if level.bottleneck else ""]
    facts = [fact for fact in facts if fact]
    heads = facts if narrow else [", ".join(facts)]
    contents = ", ".join(f"{count} {CROSS} {name}" if count > 1 else name for count, name in level.contents())
    parameters = f"{short(level.parameters)} parameters" if level.parameters else ""
    return [*((head, HEAD) for head in heads), (contents, PLAIN), (parameters, SMALL)]


def _size(level: Level) -> str:
    """Return height and width, or of vectors and sequences the shape."""
    if level.grid:
        return _times(level.grid)
    return f" {CROSS} ".join(map(str, level.output)) + " wide" * (len(level.output) == 1)


def _times(sides: Shape) -> str:
    return CROSS.join(map(str, sides))


def format_shape(shape: Shape) -> str:
    """Write a shape [C, H, W] as people do: ``28x28x1``."""
    return _times((*shape[1:], *shape[:1]))


def column(
    canvas: Canvas,
    items: Sequence[Item],
    x: float,
    y: float,
    heights: Sequence[float],
    align: str,
    *,
    rises: bool,
) -> list[Rect]:
    """Draw items below each other with arrows between, which point up where the way rises."""
    places = []
    for item, height in zip(items, heights):
        places.append(item.draw(canvas, x, y, height, align))
        y += height + GAP
    for upper, lower in pairwise(places):
        ends = [(x, upper.bottom + 3), (x, lower.top - 3)]
        canvas.arrow(ends[::-1] if rises else ends)
    return places


def in_a_row(count: int) -> int:
    """Return how many of so many items are in a row, where rows are as few as can be, and as even."""
    return ceil(count / ceil(count / MOST))


def rows(items: Sequence[Item], width: float) -> Piece:
    """Return items from left to right, in as many rows as it takes; their texts are below."""
    each = in_a_row(len(items))
    cut = [items[start : start + each] for start in range(0, len(items), each)]
    pieces = [
        _row(
            [item.upright() for item in row],
            width / each,
            enters=row is not cut[0],
            leaves=row is not cut[-1],
        )
        for row in cut
    ]
    return below(pieces, GAP)


def _row(items: Sequence[Item], pitch: float, *, enters: bool, leaves: bool) -> Piece:
    """Return a row; an arrow leads into it from the one before, another out to the next."""
    height = max(item.thickness for item in items)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        middles = [x + (index + 0.5) * pitch for index in range(len(items))]
        places = [item.draw(canvas, middle, y, height, "center") for item, middle in zip(items, middles)]
        ends = [(left.right + 5, right.left - 4) for left, right in pairwise(places)]
        ends += [(x - PAD / 2, places[0].left - 4)] if enters else []
        ends += [(places[-1].right + 5, x + pitch * len(items) + PAD / 2)] if leaves else []
        for start, end in ends:
            canvas.arrow([(start, y + height / 2), (end, y + height / 2)])

    return Piece(height + 4 + max(height_of(item.beside) for item in items), draw)


def hourglass(down: Sequence[Item], up: Sequence[Item], bottom: Sequence[Item], width: float) -> Piece:
    """Return a way down on the left and a way up on the right, joined by one or two items below.

    Args:
        down: from top to bottom.
        up: from top to bottom, though it is gone from below.
        bottom: from left to right.
        width: of it all.
    """
    heights = [max(item.height for item in row if item) for row in zip_longest(down, up, fillvalue=None)]
    low = sum(heights) + GAP * len(heights) + GAP
    under = max(item.thickness + (height_of(item.text) + 4 if item.level else 0) for item in bottom)
    shift = TEXT + PAD + CHIP_WIDTH / 2

    def draw(canvas: Canvas, x: float, y: float) -> None:
        left, right = x + shift, x + width - shift
        ways = (
            column(canvas, down, left, y, heights, "right", rises=False),
            column(canvas, up, right, y, heights, "left", rises=True),
        )
        _skips(canvas, down, up, *ways)
        _turn(canvas, bottom, ways[0][-1], ways[1][-1], y + low)

    return Piece(low + under, draw)


def _turn(canvas: Canvas, bottom: Sequence[Item], left: Rect, right: Rect, y: float) -> None:
    """Draw what lies at the bottom, and the way through it."""
    middles = [left.centre, right.centre] if len(bottom) > 1 else [(left.centre + right.centre) / 2]
    thickness = max(item.thickness for item in bottom)
    places = [item.draw(canvas, x, y, thickness, "center") for item, x in zip(bottom, middles)]
    first, last = places[0], places[-1]
    if first is last:
        canvas.arrow(
            [(left.centre, left.bottom + 3), (left.centre, first.middle), (first.left - 2, first.middle)]
        )
        canvas.arrow(
            [(last.right + 2, last.middle), (right.centre, last.middle), (right.centre, right.bottom + 3)]
        )
        return
    canvas.arrow([(left.centre, left.bottom + 3), (left.centre, first.top - 3)])
    canvas.arrow([(first.right + 2, first.middle), (last.left - 2, last.middle)])
    canvas.arrow([(right.centre, last.top - 3), (right.centre, right.bottom + 3)])


def _skips(
    canvas: Canvas, down: Sequence[Item], up: Sequence[Item], left: Sequence[Rect], right: Sequence[Rect]
) -> None:
    """Draw the skip connections: from each level of the way down to that of its size on the way up."""
    for item, end in zip(up, right):
        if item.level is None or not item.level.joins:
            continue
        starts = [
            place for other, place in zip(down, left) if other.level and other.level.grid == item.level.grid
        ]
        for start in starts[:1]:
            canvas.arrow([(start.right + 3, start.middle), (end.left - 3, end.middle)], dashed=True)
