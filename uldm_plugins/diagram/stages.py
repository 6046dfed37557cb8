"""A recipe's stages from left to right: what each needs, what it does, what it makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from typing import Any

from uldm_core.recipe import ResolvedRecipe
from uldm_core.spec.component_spec import ComponentSpec
from uldm_core.spec.options import Weighted
from uldm_plugins.diagram.canvas import (
    BLUE,
    GREEN,
    PAD,
    PALE,
    Canvas,
    Line,
    Piece,
    Style,
    below,
    boxed,
    text_piece,
)
from uldm_plugins.diagram.flowchart import MAKES, TRAINS, USES, Graph, Node, graph_of

NAME, USE = Style(9, bold=True), Style(8, bold=True, colour=BLUE)
OPTION, INPUT, OUTPUT = Style(7.5), Style(7.5, colour=PALE), Style(7.5, bold=True, colour=GREEN)
MOST = 5
"""Boxes in a row."""
LENGTHS = ("steps", "count")
"""Options for how much a stage does."""


def stages(resolved: ResolvedRecipe, images: str, width: float) -> Piece:
    """Return the dataset and the stages, in the order in which they run.

    Args:
        resolved: the recipe.
        images: the shape of the dataset's.
        width: of it all.
    """
    graph = graph_of(resolved)
    names = dict(zip((node.id for node in graph.nodes), (*resolved.components, *resolved.stages)))
    boxes = [_data(spec, images) for spec in resolved.components.values() if spec.kind.data]
    boxes += [
        _stage(resolved.stages[names[node.id]], node, graph, names) for node in graph.nodes if node.stage
    ]
    return _rows(boxes, width, gap=16, most=MOST, flows=True)


def components(resolved: ResolvedRecipe, drawn: Iterable[str], width: float) -> Piece:
    """Return the components that are not drawn elsewhere."""
    nodes = dict(zip(resolved.components, graph_of(resolved).nodes))
    data = {name for name, spec in resolved.components.items() if spec.kind.data}
    left = [node for name, node in nodes.items() if name not in {*data, *drawn}]
    return _rows([_component(node) for node in left], width, gap=12, most=3)


def _rows(texts: Sequence[list[Line]], width: float, *, gap: float, most: int, flows: bool = False) -> Piece:
    """Return boxes in as few rows as there is room for, as even as can be, with arrows if asked for."""
    if not texts:
        return below([])
    each = ceil(len(texts) / ceil(len(texts) / most))
    own = (width - gap * (each - 1)) / each
    boxes = [text_piece(text, own - 2 * PAD) for text in texts]
    rows = [boxed(boxes[start : start + each], own, gap) for start in range(0, len(boxes), each)]

    def draw(canvas: Canvas, x: float, y: float) -> None:
        below(rows, gap).draw(canvas, x, y)
        for index in range(1, len(boxes)):
            row, place = divmod(index, each)
            top = y + sum(piece.height + gap for piece in rows[:row]) + 2 * PAD
            start = x + place * (own + gap) - gap
            canvas.arrow([(start + 2, top), (start + gap - 2, top)])

    return Piece(below(rows, gap).height, draw if flows else below(rows, gap).draw)


def _data(spec: ComponentSpec, images: str) -> list[Line]:
    made = [(f"gives images {images}", OUTPUT)] if images else []
    return [(str(spec.key[0]), NAME), (spec.use, USE), *made]


def _stage(stage: ComponentSpec, node: Node, graph: Graph, names: dict[str, str]) -> list[Line]:
    """Return what it needs, what it does, and what it makes."""
    inferred = [names[edge.start] for edge in graph.edges if edge.what == USES and edge.end == node.id]
    inferred += [edge.label for edge in graph.edges if edge.what == MAKES and edge.end == node.id]
    trains = [names[edge.end] for edge in graph.edges if edge.what == TRAINS and edge.start == node.id]
    makes = dict.fromkeys(edge.label for edge in graph.edges if edge.what == MAKES and edge.start == node.id)
    lines = [(names[node.id], NAME), (stage.use, USE)]
    lines += [(f"needs {', '.join(inferred)}", INPUT)] if inferred else []
    lines += [(line, OPTION) for line in _options(stage)]
    lines += [
        (f"{does} {', '.join(of)}", OUTPUT) for does, of in (("trains", trains), ("makes", makes)) if of
    ]
    return lines


def _component(node: Node) -> list[Line]:
    name, _, use = node.lines[0].partition(": ")
    return [(name, NAME), (use, USE), *((line, OPTION) for line in node.lines[1:])]


def _options(stage: ComponentSpec) -> Iterator[str]:
    """Yield how long a stage is, and the names of the components that are its own."""
    for option in LENGTHS:
        if option in stage.options:
            yield f"{option} {stage.options[option]:,}"
    for option, value in stage.options.items():
        if names := _names(value):
            yield f"{option}: {', '.join(names)}"


def _names(value: Any) -> list[str]:
    """Return the names of components, each followed by those within it."""
    if isinstance(value, Weighted):
        return _names(value.component)
    if isinstance(value, (list, tuple)):
        return [name for item in value for name in _names(item)]
    if not isinstance(value, ComponentSpec):
        return []
    within = [name for inner in value.options.values() for name in _names(inner)]
    return [f"{value.use} ({', '.join(within)})" if within else value.use]
