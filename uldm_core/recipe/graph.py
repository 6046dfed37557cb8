"""How a recipe's nouns and stages hang together: circles, order, and what nothing uses."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from uldm_core.errors import Key, Problem, Where, dotted
from uldm_core.spec.component_spec import ComponentSpec, components_behind

Blueprints = Mapping[str, ComponentSpec]


def graph_problems(
    components: Blueprints, stages: Blueprints, *, whole: bool, spared: Collection[str] = ()
) -> list[Problem]:
    """Return what is wrong between components that are each right by themselves.

    Args:
        nouns: by name.
        stages: by name, in the order written.
        whole: whether these are all the stages there are; what nothing uses, or makes, is said only then.
        spared: nouns that are not called unused.
    """
    unused = _unused(components, stages, spared) if whole else ()
    products = _order_of_products(stages, whole=whole)
    training, measured = _order_of_training(components, stages), _measured_by_a_loss(components, stages)
    return [*_circles(components), *products, *training, *measured, *unused]


def needs(spec: ComponentSpec, components: Blueprints) -> set[str]:
    """Return the nouns that have to be there to build it: referred to, or asked for surroundings."""
    found: set[str] = set()
    waiting = spec.asks()
    while waiting:
        noun = waiting.pop()
        found.add(noun)
        if noun in components:
            waiting |= components[noun].asks() - found
    return found


def _circles(components: Blueprints) -> Iterator[Problem]:
    """Yield one problem a circle, at its first noun."""
    told: set[str] = set()
    for name in components:
        circle = _way_back(name, components)
        if circle and not told & set(circle):
            told |= set(circle)
            yield Problem(
                Where((name,)), f"is made from itself: {' -> '.join(circle)}", "one of them has to do without"
            )


def _way_back(name: str, components: Blueprints) -> list[str]:
    """Return the way from a noun to itself, or an empty list."""
    ways, seen = [[name]], {name}
    while ways:
        way = ways.pop(0)
        for following in sorted(components[way[-1]].asks() & components.keys()):
            if following == name:
                return [*way, name]
            if following not in seen:
                seen.add(following)
                ways.append([*way, following])
    return []


def _order_of_products(stages: Blueprints, *, whole: bool) -> Iterator[Problem]:
    """A stage may need what only an earlier stage makes."""
    made: set[str] = set()
    for name, stage in stages.items():
        for product in [product for product in _verb(stage).needs if product not in made]:
            makers = [other for other, stage in stages.items() if product in _verb(stage).makes]
            if makers or whole:
                what = f"needs {product}, which no earlier stage makes"
                yield Problem(Where(("stages", name)), what, _mend(name, product, makers, stages))
        made |= set(_verb(stage).makes)


def _mend(name: str, product: str, makers: list[str], stages: Blueprints) -> str:
    if not makers:
        return f"no stage makes {product}"
    if _waits_for(makers[0], name, stages):
        return f"a cycle: [stages.{makers[0]}] needs what [stages.{name}] makes"
    return f"move it behind [stages.{makers[0]}]"


def _waits_for(stage: str, other: str, stages: Blueprints) -> bool:
    """Whether a stage needs, by way of others too, what the other stage makes."""
    waiting, seen = [stage], set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        wanted = set(_verb(stages[current]).needs)
        makers = [name for name, maker in stages.items() if wanted & set(_verb(maker).makes)]
        if other in makers:
            return True
        waiting += makers
    return False


def _order_of_training(components: Blueprints, stages: Blueprints) -> Iterator[Problem]:
    """A stage acts on what earlier stages trained, or what comes from another run."""
    trainers = {name: trained_by(stage) for name, stage in stages.items()}
    trained = {name for name, noun in components.items() if noun.source}
    for name, stage in stages.items():
        untrained = components_behind(stage, components) - trained - trainers[name]
        later = [other for other, what in trainers.items() if what & untrained]
        if later:
            named = " and ".join(sorted(untrained & set().union(*trainers.values())))
            what = f"acts on {named}, which only a later stage trains"
            yield Problem(Where(("stages", name)), what, f"move it behind [stages.{later[-1]}]")
        trained |= trainers[name]


def trained_by(stage: ComponentSpec) -> set[str]:
    """Return the nouns that a stage trains."""
    references = stage.references()
    return {references[option] for option in _verb(stage).trains if option in references}


def _measured_by_a_loss(components: Blueprints, stages: Blueprints) -> Iterator[Problem]:
    """A metric in the features that a loss was trained on flatters what was trained."""
    trainers = [stage for stage in stages.values() if _verb(stage).trains]
    losses = {loss.key: loss for stage in trainers for loss in _of_kind("loss", stage, components)}
    trained_on = {
        _identity(backbone): (backbone, loss)
        for loss in losses.values()
        for backbone in _of_kind("backbone", loss, components)
    }
    metrics = {
        metric.key: metric for stage in stages.values() for metric in _of_kind("metric", stage, components)
    }
    for key, metric in metrics.items():
        for backbone in _of_kind("backbone", metric, components):
            if _identity(backbone) in trained_on:
                backbone, loss = trained_on[_identity(backbone)]
                name = backbone.component.name
                what = f"measures in the features of {name}, on which {dotted(loss.key)} trains: it flatters"
                yield Problem(Where(key), what, "give the loss or the metric another backbone", warning=True)


def _of_kind(kind: str, spec: ComponentSpec, components: Blueprints) -> list[ComponentSpec]:
    """Return the components of a kind that it holds or refers to, itself or by way of others."""
    found: dict[Key, ComponentSpec] = {}
    waiting = [spec]
    while waiting:
        current = waiting.pop()
        inner = [
            *current.parts(),
            *(components[name] for name in current.all_references() if name in components),
        ]
        new = {part.key: part for part in inner if part.key not in found}
        found |= new
        waiting += new.values()
    return [part for part in found.values() if part.kind.name == kind]


def _identity(spec: ComponentSpec) -> str:
    """Return what two components have in common that are the same, wherever they stand."""
    return repr((spec.component.path, {**spec.to_dict(), "use": ""}))


def _unused(components: Blueprints, stages: Blueprints, spared: Collection[str]) -> Iterator[Problem]:
    if not stages:
        yield Problem(
            Where(("stages",)), "there are no stages: nothing would be done", "add one: [stages.first]", True
        )
        return
    used = set().union(*(needs(stage, components) for stage in stages.values()))
    for name in [name for name in components if name not in used and name not in spared]:
        hint = f'take it out, or name it where it is wanted: {{ ref = "{name}" }}'
        yield Problem(Where((name,)), "nothing uses this component", hint, warning=True)


def _verb(stage: ComponentSpec) -> Any:
    return stage.component.load()
