"""A component to be built: what a table of a recipe says of it, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import define, frozen

from uldm_core.errors import Key
from uldm_core.kinds import Kind
from uldm_core.registry.component import Component
from uldm_core.spec.options import Weighted, plain_values


@frozen
class Reference:
    """A component of the recipe, by its name."""

    name: str


@define
class ComponentSpec:
    """A component to be built, its options checked. Values may be blueprints, references and terms again.

    Args:
        kind: of component.
        component: the record.
        key: where it stands in the recipe.
        options: their values, those left to the surroundings excepted.
        factory: whether its owner finishes it.
        use: its name, as written.
        written: the options that were written; the others are defaults.
        surrounded: the options that its kind fills in from other nouns.
        source: the run whose weights it starts from; empty for none.
    """

    kind: Kind
    component: Component
    key: Key
    options: dict[str, Any]
    factory: bool = False
    use: str = ""
    written: frozenset[str] = frozenset()
    surrounded: frozenset[str] = frozenset()
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the table that gives this blueprint, defaults filled in, its component named as written."""
        options = {name: plain(value) for name, value in self.options.items() if value is not None}
        origin = {"from": self.source} if self.source else {}
        return {"use": self.use or self.component.name, **origin, **options}

    def asks(self) -> set[str]:
        """Return the nouns that it refers to or takes options from, itself or anything nested in it."""
        nested = [item for value in self.options.values() for item in _leaves(value)]
        inner = [item.asks() for item in nested if isinstance(item, ComponentSpec)]
        around = {noun for option in self.surrounded for noun in self.kind.inferred[option].components}
        return {item.name for item in nested if isinstance(item, Reference)}.union(around, *inner)

    def parts(self) -> list[ComponentSpec]:
        """Return the components that its own options are or hold."""
        leaves = (item for value in self.options.values() for item in _leaves(value))
        return [item for item in leaves if isinstance(item, ComponentSpec)]

    def records(self) -> list[Component]:
        """Return its component and those of everything nested in it."""
        nested = [item for value in self.options.values() for item in _leaves(value)]
        return [
            self.component,
            *(c for item in nested if isinstance(item, ComponentSpec) for c in item.records()),
        ]

    def references(self) -> dict[str, str]:
        """Return the nouns that its own options are, by the option's name."""
        return {name: value.name for name, value in self.options.items() if isinstance(value, Reference)}

    def all_references(self) -> set[str]:
        """Return all nouns that it or anything nested in it uses."""
        nested = [item for value in self.options.values() for item in _leaves(value)]
        inner = [item.all_references() for item in nested if isinstance(item, ComponentSpec)]
        return {item.name for item in nested if isinstance(item, Reference)}.union(*inner)


def components_behind(spec: ComponentSpec, components: Mapping[str, Any]) -> set[str]:
    """Return the nouns that a blueprint refers to, and those behind them."""
    found: set[str] = set()
    waiting = spec.all_references()
    while waiting:
        noun = waiting.pop()
        found.add(noun)
        if isinstance(components.get(noun), ComponentSpec):
            waiting |= components[noun].all_references() - found
    return found


def _leaves(value: Any) -> list[Any]:
    """Return the values inside lists and terms."""
    if isinstance(value, Weighted):
        return _leaves(value.component)
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


def plain(value: Any) -> Any:
    """Return what a recipe would write for an option's value."""
    if isinstance(value, ComponentSpec):
        return value.to_dict()
    if isinstance(value, Reference):
        return {"ref": value.name}
    if isinstance(value, Weighted):
        return {**plain(value.component), "weight": value.weight, "start": value.start}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, Path):
        return os.path.abspath(value)
    value = plain_values(value)
    return value if isinstance(value, (bool, int, float, str)) else str(value)
