"""A component to be built: what a table of a recipe says of it, checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, define, frozen, has

from uldm_core.errors import Key
from uldm_core.kinds import Kind
from uldm_core.registry.component import Component
from uldm_core.spec.options import Weighted
from uldm_core.spec.structure import plain_values


@frozen
class Reference:
    """A component of the recipe, by its name."""

    name: str


@define
class ComponentSpec:
    """A component to be built, its options checked. Options may hold specs, references and ``Weighted``.

    Args:
        kind: of component.
        component: the record of the registry.
        key: its place in the recipe.
        options: their values, without those that are inferred.
        partial: whether its owner finishes it.
        use: its name, as written.
        written: the options that were written; the others are defaults.
        inferred: the options that follow from other components of the recipe.
        source: the run whose weights it starts from; empty for none.
    """

    kind: Kind
    component: Component
    key: Key
    options: dict[str, Any]
    partial: bool = False
    use: str = ""
    written: frozenset[str] = frozenset()
    inferred: frozenset[str] = frozenset()
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the table that gives this spec, with defaults, its component named as written."""
        options = {name: plain(value) for name, value in self.options.items() if value is not None}
        origin = {"from": self.source} if self.source else {}
        return {"use": self.use or self.component.name, **origin, **options}

    def walk(self) -> Iterator[ComponentSpec | Reference]:
        """Yield itself, then every spec and reference that its options hold, at any depth."""
        yield self
        for value in self.options.values():
            for held in _held(value):
                yield from held.walk() if isinstance(held, ComponentSpec) else [held]

    def nested(self) -> list[ComponentSpec]:
        """Return itself and every component that is written within it."""
        return [item for item in self.walk() if isinstance(item, ComponentSpec)]

    def parts(self) -> list[ComponentSpec]:
        """Return the components that its own options are or hold."""
        held = (item for value in self.options.values() for item in _held(value))
        return [item for item in held if isinstance(item, ComponentSpec)]

    def references(self) -> dict[str, str]:
        """Return the recipe's components that its own options are, by the option's name."""
        return {name: value.name for name, value in self.options.items() if isinstance(value, Reference)}

    def all_references(self) -> set[str]:
        """Return the names of the recipe's components that it uses, at any depth."""
        return {item.name for item in self.walk() if isinstance(item, Reference)}

    def dependencies(self) -> set[str]:
        """Return the names of the recipe's components that it uses or infers options from, at any depth."""
        inferred = [spec.kind.inferred[option] for spec in self.nested() for option in spec.inferred]
        return self.all_references().union(*(option.components for option in inferred))


def _held(value: object) -> Iterator[ComponentSpec | Reference]:
    """Yield the specs and references that an option's value is or holds."""
    if isinstance(value, (ComponentSpec, Reference)):
        yield value
    elif isinstance(value, Weighted):
        yield from _held(value.component)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _held(item)


def components_behind(
    spec: ComponentSpec,
    components: Mapping[str, ComponentSpec],
    of: Callable[[ComponentSpec], set[str]] = ComponentSpec.all_references,
) -> set[str]:
    """Return the names of the components that a spec uses, directly or by way of others.

    Args:
        spec: of a component or a stage.
        components: the recipe's.
        of: what one spec uses: its references, or all its ``dependencies``.
    """
    found: set[str] = set()
    waiting = of(spec)
    while waiting:
        name = waiting.pop()
        found.add(name)
        if name in components:
            waiting |= of(components[name]) - found
    return found


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
    if has(type(value)):
        return plain(asdict(value, recurse=False))
    value = plain_values(value)
    return value if isinstance(value, (bool, int, float, str)) else str(value)
