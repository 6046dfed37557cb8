"""The graph of a recipe's components and stages: cycles, order, and what nothing uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from uldm_core.errors import Problem, Where, dotted
from uldm_core.protocols import HasOptionalNeeds
from uldm_core.spec.component_spec import ComponentSpec, components_behind

Specs = Mapping[str, ComponentSpec]


def graph_problems(components: Specs, stages: Specs, *, right: bool) -> list[Problem]:
    """Return what is wrong between components and stages.

    Args:
        components: by name.
        stages: by name, in the order written.
        right: whether nothing is wrong with them one by one; if not, there may be others that make a product
            or use a component.
    """
    return [
        *_cycles(components),
        *_order_of_products(stages, right),
        *_order_of_training(components, stages),
        *_trained_within(stages),
        *_order_of_optional_products(stages),
        *measured_by_a_loss(components, stages),
        *(_unused(components, stages) if right else ()),
    ]


def needs(spec: ComponentSpec, components: Specs) -> set[str]:
    """Return the names of the components that must be there to build it."""
    return components_behind(spec, components, ComponentSpec.dependencies)


def _cycles(components: Specs) -> Iterator[Problem]:
    """Yield one problem a cycle, at its first component."""
    graph = {name: sorted(spec.dependencies() & components.keys()) for name, spec in components.items()}
    while True:
        try:
            TopologicalSorter(graph).prepare()
            return
        except CycleError as error:
            *cycle, _ = reversed(error.args[1])  # each depends on the next
        first = cycle.index(next(name for name in components if name in cycle))
        names = [*cycle[first:], *cycle[: first + 1]]
        what, hint = f"is made from itself: {' -> '.join(names)}", "one of them has to do without"
        yield Problem(Where((names[0],)), what, hint, code="cycle")
        graph = {name: others for name, others in graph.items() if name not in cycle}


def _order_of_products(stages: Specs, complete: bool) -> Iterator[Problem]:
    """A stage may need what only an earlier stage makes."""
    made: set[str] = set()
    for name, stage in stages.items():
        for product in [product for product in _class_of(stage).needs if product not in made]:
            makers = [other for other, stage in stages.items() if product in _class_of(stage).makes]
            if makers or complete:
                what = f"needs {product}, which no earlier stage makes"
                hint = f"move it behind [stages.{makers[0]}]" if makers else f"no stage makes {product}"
                yield Problem(Where(("stages", name)), what, hint, code="wrong-order")
        made |= set(_class_of(stage).makes)


def _order_of_optional_products(stages: Specs) -> Iterator[Problem]:
    """A stage makes something that no later stage uses, and an earlier one would.

    What a stage makes beside its training is left to ``_order_of_training``.
    """
    names = list(stages)
    for place, maker in enumerate(names):
        for product in () if trained_by(stages[maker]) else _class_of(stages[maker]).makes:
            users = [name for name in names if product in optional_needs(stages[name])]
            if users and all(names.index(user) < place for user in users):
                what = f"uses {product}, which only a later stage makes"
                hint = f"move it behind [stages.{maker}]"
                yield Problem(Where(("stages", users[-1])), what, hint, code="wrong-order")


def optional_needs(stage: ComponentSpec) -> tuple[str, ...]:
    """Return the artifacts that a stage uses where an earlier stage makes them."""
    target: object = _class_of(stage)
    return tuple(target.optional_needs) if isinstance(target, HasOptionalNeeds) else ()


def _order_of_training(components: Specs, stages: Specs) -> Iterator[Problem]:
    """A stage acts on what earlier stages trained, or what comes from another run."""
    trainers = {name: trained_by(stage) for name, stage in stages.items()}
    trained = {name for name, component in components.items() if component.source}
    for name, stage in stages.items():
        untrained = components_behind(stage, components) - trained - trainers[name]
        later = [other for other, what in trainers.items() if what & untrained]
        if later:
            named = " and ".join(sorted(untrained & set().union(*trainers.values())))
            what = f"acts on {named}, which only a later stage trains"
            hint = f"move it behind [stages.{later[-1]}]"
            yield Problem(Where(("stages", name)), what, hint, code="wrong-order")
        trained |= trainers[name]


def _trained_within(stages: Specs) -> Iterator[Problem]:
    """Later stages use what a stage trains only if it is a component of the recipe."""
    for number, stage in enumerate(stages.values()):
        later = [*stages.values()][number + 1 :]
        for option in _class_of(stage).trains:
            used = any(option in other.options for other in later)
            if used and isinstance(stage.options.get(option), ComponentSpec):
                what = "is trained here, and later stages use another one, untrained"
                hint = f"write it as a table of its own: [{option}]"
                yield Problem(Where((*stage.key, option)), what, hint, code="wrong-order")


def trained_by(stage: ComponentSpec) -> set[str]:
    """Return the names of the components that a stage trains."""
    references = stage.references()
    return {references[option] for option in _class_of(stage).trains if option in references}


def measured_by_a_loss(
    components: Specs, stages: Specs, metrics: Iterable[ComponentSpec] | None = None
) -> Iterator[Problem]:
    """A metric in the features that a loss was trained on flatters what was trained.

    Args:
        components: the recipe's, by name.
        stages: the recipe's, by name.
        metrics: of the stages, unless others are given.
    """
    trainers = [stage for stage in stages.values() if _class_of(stage).trains]
    losses = [loss for stage in trainers for loss in _of_kind("loss", stage, components)]
    trained_on = {
        _identity(backbone): loss for loss in losses for backbone in _of_kind("backbone", loss, components)
    }
    if metrics is None:
        metrics = [metric for stage in stages.values() for metric in _of_kind("metric", stage, components)]
    for metric in {metric.key: metric for metric in metrics}.values():
        for backbone in _of_kind("backbone", metric, components):
            if loss := trained_on.get(_identity(backbone)):
                name, trainer = backbone.component.name, dotted(loss.key)
                what = f"measures in the features of {name}, on which {trainer} trains: it flatters"
                hint = "give the loss or the metric another backbone"
                yield Problem(Where(metric.key), what, hint, True, code="shared-backbone")


def _of_kind(kind: str, spec: ComponentSpec, components: Specs) -> list[ComponentSpec]:
    """Return the components of a kind that a spec holds or uses, directly or by way of others."""
    behind = [components[name] for name in sorted(components_behind(spec, components)) if name in components]
    return [
        part
        for used in (spec, *behind)
        for part in used.nested()
        if part.kind.name == kind and part is not spec
    ]


def _identity(spec: ComponentSpec) -> str:
    """Return what networks of equal weights have in common, wherever they and the files of these are."""
    options = {**spec.to_dict(), "use": "", "auto_download": None}
    weights = spec.options.get("weights")
    if isinstance(weights, Path):
        options["weights"] = weights.name
    drawn = spec.key if weights == "random" else ()  # at each place other ones
    return repr((spec.component.path, options, drawn))


def _unused(components: Specs, stages: Specs) -> Iterator[Problem]:
    if not stages:
        what, hint = "there are no stages: nothing would be done", "add one: [stages.first]"
        yield Problem(Where(("stages",)), what, hint, True, code="unused")
        return
    used = set().union(*(needs(stage, components) for stage in stages.values()))
    for name in [name for name in components if name not in used]:
        hint = f'take it out, or name it where it is wanted: {{ ref = "{name}" }}'
        yield Problem(Where((name,)), "nothing uses this component", hint, True, code="unused")


def _class_of(stage: ComponentSpec) -> Any:
    return stage.component.load()
