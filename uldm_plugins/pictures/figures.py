"""Figures with axes: one look for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator
from torch import Tensor

from uldm_core.paths import whole
from uldm_plugins.nn.codebooks import perplexity

DPI = 150
DARK, STRONG, FAINT = "#222222", "#0072b2", "#d55e00"
"""Text, what is shown, and what it is compared with: of Okabe and Ito's palette, safe for every eye."""
STYLE: dict[Any, Any] = {  # of matplotlib's own names
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "text.color": DARK,
}


@contextmanager
def drawn(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Give a white figure of a size in inches to draw on, and write it as PNG at the end."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        yield figure
        with whole(path) as file:
            figure.savefig(file, format="png")


def code_histogram(counts: Tensor, path: Path, title: str) -> None:
    """Draw how often each code is used: a plot for each codebook, with its perplexity.

    Args:
        counts: int64 [Q, K].
        path: the PNG.
        title: what was counted.
    """
    with drawn(path, 7, 0.6 + 2.2 * len(counts)) as figure:
        figure.suptitle(title)
        explain_perplexity(figure)
        plots = figure.subplots(len(counts), 1, squeeze=False)[:, 0]
        for number, (axes, uses) in enumerate(zip(plots, counts)):
            bars(axes, uses)
            axes.set_title(codebook_title(counts, number), loc="left")
            axes.set(xlabel="code", ylabel="places with it")


def explain_perplexity(figure: Figure) -> None:
    """Say below a figure what its perplexities mean."""
    label = "perplexity: so many codes, all used alike, would be as varied"
    figure.supxlabel(label, fontsize=8, color="#666666", x=0.99, ha="right")


def codebook_title(counts: Tensor, number: int) -> str:
    """Say how much of a codebook is used; ``counts`` are of all codebooks, int64 [Q, K]."""
    used, size = int((counts[number] > 0).sum()), counts.shape[1]
    name = f"codebook {number + 1}: " if len(counts) > 1 else ""
    evenness = float(perplexity(counts)[number])
    return f"{name}{used} of {size} codes used, perplexity {evenness:.1f}"


def bars(axes: Axes, uses: Tensor, colours: Sequence[str] | None = None) -> None:
    """Draw how often each of K codes is used, int64 [K]; however many there are, none is too thin to see."""
    codes = uses.nonzero().flatten()
    points = axes.get_window_extent().width * 72 / DPI
    width = max(1.0, 0.8 * points / len(uses))
    axes.vlines(codes.numpy(), 0, uses[codes].numpy(), colors=colours or STRONG, linewidth=width)
    axes.set_xlim(-0.5, len(uses) - 0.5)
    axes.set_ylim(0, 1.08 * max(int(uses.max()), 1))
    for axis in (axes.xaxis, axes.yaxis):
        locator = AutoLocator()
        locator.set_params(integer=True)
        axis.set_major_locator(locator)
