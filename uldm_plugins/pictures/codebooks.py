"""A codebook, drawn: how often each code is used, where it lies, what it decodes to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from PIL import Image
from torch import Tensor

from uldm_core.paths import whole
from uldm_plugins.pictures.figures import FAINT, STRONG, bars, codebook_title, drawn, explain_perplexity
from uldm_plugins.pictures.sheets import save_sheet

MOST = 240
"""Codes on a sheet."""
_COLUMNS = 15
_HEIGHT = 84
_MAPS = 3


def save_usage(counts: Tensor, path: Path, title: str) -> None:
    """Draw how often each code is used, by its number and by rank; ``counts`` are int64 [Q, K]."""
    with drawn(path, 10, 0.8 + 2.6 * len(counts)) as figure:
        figure.suptitle(title)
        explain_perplexity(figure)
        for number, (by_code, by_rank) in enumerate(figure.subplots(len(counts), 2, squeeze=False)):
            bars(by_code, counts[number])
            by_code.set_title(codebook_title(counts, number), loc="left")
            by_code.set(xlabel="code", ylabel="places with it")
            _by_rank(by_rank, counts[number])


def _by_rank(axes: Axes, uses: Tensor) -> None:
    """Draw the shares of the codes, the most used first, beside those of codes used alike."""
    shares = uses.sort(descending=True).values.double() / uses.sum().clamp(min=1) * 100
    axes.stairs(shares.numpy(), fill=True, color=STRONG, label="this codebook")
    axes.axhline(100 / len(uses), color=FAINT, linestyle="--", label="all codes used alike")
    axes.set_title("the same, most used code first", loc="left")
    axes.set(xlabel="rank", ylabel="share of places (%)", xlim=(0, len(uses)))
    axes.legend(loc="upper right")


def save_map(vectors: Sequence[Tensor], counts: Tensor, path: Path, title: str) -> None:
    """Draw where the codes of each codebook lie, in the two directions in which used ones differ most.

    Args:
        vectors: of each codebook, [K, D].
        counts: how often each code is used, int64 [Q, K].
        path: the PNG.
        title: what it is.
    """
    columns = min(len(vectors), _MAPS)
    rows = -(-len(vectors) // columns)
    with drawn(path, 6.2 * columns, 5.4 * rows) as figure:
        figure.suptitle(title)
        for number in range(len(vectors)):
            axes = figure.add_subplot(rows, columns, number + 1)
            places, explained = principal(vectors[number], counts[number])
            _scatter(axes, places, counts[number])
            axes.set_title(codebook_title(counts, number), loc="left")
            labels = [
                f"principal direction {direction} ({share:.0%} of the variance)"
                for direction, share in enumerate(explained, 1)
            ]
            axes.set_xlabel(labels[0])
            axes.set_ylabel(labels[1])
            axes.set_aspect("equal", "datalim")


def _scatter(axes: Axes, places: Tensor, uses: Tensor) -> None:
    used = uses > 0
    size = min(60.0, max(6.0, 12_000 / len(uses)))
    if not used.all():
        x, y = places[~used].T.numpy()
        label = f"{len(x)} never used"
        axes.scatter(x, y, s=size, marker="x", color="#999999", linewidths=0.7, label=label)
        axes.legend(loc="best", frameon=True)
    order = uses[used].argsort()  # the most used lie on top
    x, y = places[used][order].T.numpy()
    shown = axes.scatter(
        x,
        y,
        c=uses[used][order].numpy(),
        s=size,
        cmap="viridis",
        norm=LogNorm(1, max(int(uses.max()), 2)),
        edgecolors="#222222",
        linewidths=0.3,
    )
    axes.figure.colorbar(shown, ax=axes, label="places with it", format="%g")


def principal(vectors: Tensor, uses: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Return vectors [K, D] in their two principal directions [K, 2], and each one's share of the variance.

    Each code weighs as often as it is used.
    """
    vectors = torch.nn.functional.pad(vectors.double().cpu(), (0, max(0, 2 - vectors.shape[1])))
    weights = (uses.double() / uses.sum().clamp(min=1)).unsqueeze(1)
    centred = vectors - (weights * vectors).sum(0)
    values, directions = torch.linalg.eigh((weights * centred).T @ centred)
    shares = values.clamp(min=0).flip(0) / values.clamp(min=0).sum().clamp(min=1e-12)
    return centred @ directions.flip(1)[:, :2], (shares[0].item(), shares[1].item())


def most_used(uses: Tensor) -> Tensor:
    """Return the codes that a sheet shows, the most used first; ``uses`` are int64 [K]."""
    return uses.argsort(descending=True, stable=True)[:MOST]


def save_codes(images: Sequence[Tensor], codes: Tensor, uses: Tensor, path: Path, title: str) -> None:
    """Write what codes decode to, each with its number and its share of all places.

    Args:
        images: uint8 [C, H, W], one a code.
        codes: their numbers, int64 [N].
        uses: how often each of all codes is used, int64 [K].
        path: the PNG.
        title: at the top.
    """
    total = max(int(uses.sum()), 1)
    labels = [f"{code}: {_share(int(uses[code]) / total)}" for code in codes.tolist()]
    save_sheet(images, labels, path, columns=_COLUMNS, height=_HEIGHT, title=title)


def _share(share: float) -> str:
    if not share:
        return "unused"
    return f"{share:.2%}"


def stack(paths: Sequence[Path], out: Path) -> None:
    """Write pictures below each other as one PNG."""
    pictures = [_opened(path) for path in paths]
    wide, high = max(one.width for one in pictures), sum(one.height for one in pictures)
    sheet = Image.new("RGB", (wide, high), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    with whole(out) as file:
        sheet.save(file, "PNG")


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")
