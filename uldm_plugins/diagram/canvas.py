"""A page to draw on: points from the top left corner, text that is measured before it is drawn."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from warnings import catch_warnings, filterwarnings

import matplotlib
from attrs import frozen
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.textpath import text_to_path

from uldm_core.errors import MistakeError
from uldm_core.paths import whole

POINTS = 72
PNG_DPI = 200
PAD = 8.0
"""Between a box and what is in it, in points."""
LINE = 1.32
"""Height of a line, in sizes of its letters."""
SLACK = 0.97
"""Share of a line's width that is filled: other fonts than the one that measures may be a little wider."""
INK, PALE, PAPER, PANEL, RULE = "#1b2430", "#5a6472", "#ffffff", "#f4f6f8", "#c9d0d8"
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072b2", "#d55e00", "#007a5a", "#a64d83", "#2f7fb5"
YELLOW, GREY = "#806600", "#5a6472"
"""Of Okabe and Ito's colours, darkened where letters are drawn in them."""
FORMATS = (".svg", ".png", ".pdf")

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters
    "svg.hashsalt": "uldm",  # the same recipe gives the same bytes
    "pdf.fonttype": 42,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica"],
    "hatch.linewidth": 0.8,
    "hatch.color": PAPER,
}


@frozen
class Style:
    """Of letters.

    Args:
        size: in points.
        bold: whether they are.
        colour: of the letters.
        align: ``left``, ``center`` or ``right`` of the place that is given.
    """

    size: float = 8.0
    bold: bool = False
    colour: str = INK
    align: str = "left"

    @property
    def line(self) -> float:
        """Height of a line, in points."""
        return self.size * LINE


Line = tuple[str, Style]


@contextmanager
def settings() -> Iterator[None]:
    """Draw by our own settings, whatever those of the computer are."""
    with matplotlib.rc_context(_SETTINGS), catch_warnings():
        filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a name may be in any script
        yield


class Canvas:
    """A page of a width; its height is given when everything is drawn."""

    def __init__(self, width: float) -> None:
        self.width = width
        self.figure = Figure(facecolor=PAPER)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()

    def finish(self, height: float) -> Figure:
        """Cut the page off at its height."""
        self.figure.set_size_inches(self.width / POINTS, height / POINTS)
        self.axes.set_xlim(0, self.width)
        self.axes.set_ylim(height, 0)
        return self.figure

    def line(self, x: float, y: float, text: str, style: Style) -> None:
        """Write one line, its upper edge at y."""
        self.axes.text(
            x,
            y + style.size,
            text,
            fontsize=style.size,
            fontweight="bold" if style.bold else "normal",
            color=style.colour,
            ha=style.align,
            va="baseline",
            parse_math=False,
        )

    def write(self, x: float, y: float, lines: Iterable[Line]) -> None:
        """Write lines below each other."""
        for text, style in lines:
            self.line(x, y, text, style)
            y += style.line

    def box(
        self, x: float, y: float, width: float, height: float, *, fill: str = PANEL, edge: str = RULE
    ) -> None:
        """Draw a box with round corners."""
        shape = FancyBboxPatch(
            (x + 4, y + 4), width - 8, height - 8, "round,pad=4", fc=fill, ec=edge, lw=0.8, zorder=0.5
        )
        self.axes.add_patch(shape)

    def bar(
        self, x: float, y: float, width: float, height: float, colour: str, *, hatched: bool = False
    ) -> None:
        """Draw a filled bar."""
        hatch = "////" if hatched else None
        self.axes.add_patch(
            Rectangle((x, y), width, height, fc=colour, ec=PAPER, lw=0.6, hatch=hatch, zorder=1)
        )

    def arrow(
        self, points: Sequence[tuple[float, float]], *, colour: str = PALE, dashed: bool = False
    ) -> None:
        """Draw an arrow along points."""
        *way, last = points
        style = (0, (3, 2)) if dashed else "solid"
        if len(way) > 1:
            self.axes.plot(*zip(*way), color=colour, lw=1, ls=style, solid_joinstyle="miter", zorder=0.8)
        self.axes.add_patch(
            FancyArrowPatch(
                way[-1], last, arrowstyle="-|>", mutation_scale=7, color=colour, lw=1, ls=style,
                shrinkA=0, shrinkB=0, zorder=0.8,
            )
        )  # fmt: skip


@cache
def width_of(text: str, size: float, bold: bool = False) -> float:
    """Return how wide a line is, in points."""
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width)


def wrapped(text: str, width: float, style: Style) -> list[str]:
    """Cut text into lines of a width: at spaces, within a word only where it is wider than a line."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and _fits(joined, width, style):
            lines[-1] = joined
        else:
            lines += _cut(word, width, style)
    return lines


def _cut(word: str, width: float, style: Style) -> list[str]:
    """Cut a word that is too wide, behind signs such as underscores where it can be."""
    lines = [""]
    for piece in re.findall(r"[^\W_]+[\W_]*|[\W_]+", word):
        for sign in [piece] if _fits(piece, width, style) else piece:
            if lines[-1] and not _fits(lines[-1] + sign, width, style):
                lines.append("")
            lines[-1] += sign
    return lines


def _fits(text: str, width: float, style: Style) -> bool:
    return width_of(text, style.size, style.bold) <= width * SLACK


def set_out(passages: Iterable[Line], width: float) -> list[Line]:
    """Wrap passages, each with its style, into lines of a width."""
    return [(line, style) for text, style in passages for line in wrapped(text, width, style)]


def height_of(lines: Iterable[Line]) -> float:
    """Return how high lines are below each other, in points."""
    return sum(style.line for _, style in lines)


@frozen
class Piece:
    """Something whose height is known before it is drawn: ``draw(canvas, x, y)`` puts its corner there."""

    height: float
    draw: Callable[[Canvas, float, float], None]


def text_piece(passages: Iterable[Line], width: float) -> Piece:
    """Return wrapped text."""
    lines = set_out(passages, width)
    return Piece(height_of(lines), lambda canvas, x, y: canvas.write(x, y, lines))


def below(pieces: Sequence[Piece], gap: float = 0.0) -> Piece:
    """Return pieces below each other."""

    def draw(canvas: Canvas, x: float, y: float) -> None:
        for piece in pieces:
            piece.draw(canvas, x, y)
            y += piece.height + gap

    return Piece(sum(piece.height for piece in pieces) + gap * max(len(pieces) - 1, 0), draw)


def boxed(pieces: Sequence[Piece], width: float, gap: float) -> Piece:
    """Return boxes of a width side by side, as high as the highest."""
    height = 2 * PAD + max(piece.height for piece in pieces)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        for piece in pieces:
            canvas.box(x, y, width, height)
            piece.draw(canvas, x + PAD, y + PAD)
            x += width + gap

    return Piece(height, draw)


def check_picture(path: Path) -> None:
    """Raise ``MistakeError`` if a picture could not be written there."""
    if path.suffix.lower() not in FORMATS:
        raise MistakeError(f"--out {path}: must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if path.is_dir():
        raise MistakeError(f"--out {path}: is a folder")
    if not path.parent.is_dir():
        raise MistakeError(f"--out {path}: there is no folder {path.parent}")


def save(figure: Figure, path: Path) -> None:
    """Write a picture, by its suffix as SVG, PNG or PDF; the same figure gives the same bytes."""
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    form = path.suffix.lower()
    with settings(), whole(path) as file:
        figure.savefig(file, format=form.removeprefix("."), dpi=PNG_DPI, metadata=dates.get(form))
