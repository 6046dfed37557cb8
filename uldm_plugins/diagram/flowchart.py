"""A recipe as a graph: components feed stages, stages train components and feed each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import field, frozen

from uldm_core.recipe.graph import optional_needs, trained_by
from uldm_core.recipe.recipe import ResolvedRecipe
from uldm_core.spec.component_spec import ComponentSpec, Reference
from uldm_core.spec.format_types import format_value
from uldm_core.spec.options import Weighted

USES, TRAINS, MAKES = "uses", "trains", "makes"


@frozen
class Node:
    """A component or a stage.

    Args:
        id: unique, of letters, digits and underscores.
        lines: of text in its box.
        stage: whether it is a stage.
    """

    id: str
    lines: tuple[str, ...]
    stage: bool = False


@frozen
class Edge:
    """A way from one node to another: ``uses``, ``trains`` or ``makes``, with what is handed on."""

    start: str
    end: str
    what: str
    label: str = ""


@frozen
class Graph:
    """Nodes and edges, in the order of the recipe."""

    nodes: list[Node] = field(factory=list)
    edges: list[Edge] = field(factory=list)


def graph_of(resolved: ResolvedRecipe) -> Graph:
    """Return the graph of a recipe."""
    ids = {name: f"component_{number}" for number, name in enumerate(resolved.components)}
    stages = {name: f"stage_{number}" for number, name in enumerate(resolved.stages)}
    nodes = [
        Node(ids[name], tuple(_lines(name, component))) for name, component in resolved.components.items()
    ]
    nodes += [Node(stages[name], tuple(_lines(name, stage)), True) for name, stage in resolved.stages.items()]
    edges: list[Edge] = []
    for name, component in resolved.components.items():
        edges += [
            Edge(ids[other], ids[name], USES) for other in sorted(component.all_references() & ids.keys())
        ]
        if is_conditional(name, resolved):
            edges.append(Edge(ids["condition"], ids[name], USES))
    for name, stage in resolved.stages.items():
        trained = trained_by(stage)
        used = stage.all_references() - trained
        edges += [Edge(ids[component], stages[name], USES) for component in ids if component in used]
        edges += [
            Edge(stages[name], ids[component], TRAINS, TRAINS) for component in ids if component in trained
        ]
        edges += _handed_on(name, resolved, stages)
    return Graph(nodes, edges)


def is_conditional(name: str, resolved: ResolvedRecipe) -> bool:
    """Whether a component of a recipe is a denoiser that is given the classes of its condition."""
    spec = resolved.components[name]
    knows = "classes" in spec.inferred or bool(spec.options.get("classes"))
    return spec.kind.name == "denoiser" and knows and "condition" in resolved.components


def _handed_on(name: str, resolved: ResolvedRecipe, ids: dict[str, str]) -> Iterator[Edge]:
    """Yield the ways from earlier stages that make what a stage needs, or uses where it is made.

    What a stage can do without, and a training makes, goes the way of what that trains.
    """
    made: dict[str, str] = {}
    for other, stage in resolved.stages.items():
        target: Any = stage.component.load()
        if other == name:
            wanted = [
                one for one in optional_needs(stage) if not trained_by(resolved.stages[made.get(one, name)])
            ]
            for product in (*target.needs, *wanted):
                if product in made:
                    yield Edge(ids[made[product]], ids[name], MAKES, product)
            return
        made.update({product: other for product in target.makes})


def _lines(name: str, spec: ComponentSpec) -> Iterator[str]:
    """Yield what is written of a component, and the components within it, written or not."""
    kind = "" if spec.kind.stage or name == spec.kind.name else f"{spec.kind.name} "
    yield f"{name}: {kind}{spec.use}"
    for option, value in spec.options.items():
        if _is_component(value):
            yield f"{option}: {_format(value)}"
        elif option in spec.written and not isinstance(value, Reference):
            yield f"{option} {_format(value)}"


def _is_component(value: Any) -> bool:
    """Whether an option's value is, or lists, components; a reference has a box of its own."""
    return isinstance(value, (ComponentSpec, Weighted)) or (
        isinstance(value, list)
        and any(isinstance(item, (ComponentSpec, Weighted, Reference)) for item in value)
    )


def _format(value: Any) -> str:
    """Return an option's value in short; of a component, only what was written."""
    if isinstance(value, Weighted):
        weight = "" if value.weight == 1 else f"{value.weight:g} * "
        return f"{weight}{_format(value.component)}" + (f" from step {value.start}" if value.start else "")
    if isinstance(value, ComponentSpec):
        options = ", ".join(f"{name} {_format(value.options[name])}" for name in _written(value))
        return f"{value.use} ({options})" if options else value.use
    if isinstance(value, Reference):
        return value.name
    if _is_component(value):
        return ", ".join(map(_format, value))
    return format_value(value)


def _written(spec: ComponentSpec) -> list[str]:
    return [name for name in spec.options if name in spec.written]


def mermaid(graph: Graph) -> str:
    """Write a graph for Mermaid, which GitHub and many editors draw."""
    lines = ["flowchart LR"]
    for node in graph.nodes:
        text = "<br/>".join(map(_for_mermaid, node.lines))
        lines.append(f'  {node.id}{{{{"{text}"}}}}' if node.stage else f'  {node.id}["{text}"]')
    for edge in graph.edges:
        arrow = "==>" if edge.what == TRAINS else "-->"
        label = f'|"{_for_mermaid(edge.label)}"|' if edge.label else ""
        lines.append(f"  {edge.start} {arrow}{label} {edge.end}")
    return "\n".join(lines)


def dot(graph: Graph) -> str:
    """Write a graph for Graphviz."""
    lines = ["digraph recipe {", "  rankdir=LR;", "  node [shape=box];"]
    for node in graph.nodes:
        shape = ", shape=hexagon" if node.stage else ""
        lines.append(f'  {node.id} [label="{_for_dot(node.lines)}"{shape}];')
    for edge in graph.edges:
        bold = ", style=bold" if edge.what == TRAINS else ""
        lines.append(f'  {edge.start} -> {edge.end} [label="{_for_dot((edge.label,))}"{bold}];')
    return "\n".join([*lines, "}"])


def _for_mermaid(text: str) -> str:
    """Write what Mermaid would take for its own by its number."""
    return "".join(f"#{ord(sign)};" if sign in '"#<>&;`\n' else sign for sign in text)


def _for_dot(lines: tuple[str, ...]) -> str:
    text = "\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return text.replace("\n", "\\n")
