"""From a checked plan of a component to the thing itself.

A ``Planner`` (``uldm_core.planner``) turns a table into a ``Blueprint``; a ``Builder`` builds blueprints,
nested ones first. Recipes and ``registry.build`` both go this way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from attrs import Factory as Fresh
from attrs import define, evolve, frozen

from uldm_core.component import Component
from uldm_core.errors import Key, MistakeError, Problem, Where
from uldm_core.kinds import Kind
from uldm_core.options import Factory, Option, Term, options_of, plain_values


@frozen
class Reference:
    """A noun of the recipe, by its name."""

    noun: str


@define
class Blueprint:
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
        inner = [item.asks() for item in nested if isinstance(item, Blueprint)]
        around = {noun for option in self.surrounded for noun in self.kind.takes[option].nouns}
        return {item.noun for item in nested if isinstance(item, Reference)}.union(around, *inner)

    def parts(self) -> list[Blueprint]:
        """Return the components that its own options are or hold."""
        leaves = (item for value in self.options.values() for item in _leaves(value))
        return [item for item in leaves if isinstance(item, Blueprint)]

    def components(self) -> list[Component]:
        """Return its component and those of everything nested in it."""
        nested = [item for value in self.options.values() for item in _leaves(value)]
        return [
            self.component,
            *(c for item in nested if isinstance(item, Blueprint) for c in item.components()),
        ]

    def references(self) -> dict[str, str]:
        """Return the nouns that its own options are, by the option's name."""
        return {name: value.noun for name, value in self.options.items() if isinstance(value, Reference)}

    def all_references(self) -> set[str]:
        """Return all nouns that it or anything nested in it uses."""
        nested = [item for value in self.options.values() for item in _leaves(value)]
        inner = [item.all_references() for item in nested if isinstance(item, Blueprint)]
        return {item.noun for item in nested if isinstance(item, Reference)}.union(*inner)


def nouns_behind(blueprint: Blueprint, nouns: Mapping[str, Any]) -> set[str]:
    """Return the nouns that a blueprint refers to, and those behind them."""
    found: set[str] = set()
    waiting = blueprint.all_references()
    while waiting:
        noun = waiting.pop()
        found.add(noun)
        if isinstance(nouns.get(noun), Blueprint):
            waiting |= nouns[noun].all_references() - found
    return found


def _leaves(value: Any) -> list[Any]:
    """Return the values inside lists and terms."""
    if isinstance(value, Term):
        return _leaves(value.component)
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


def plain(value: Any) -> Any:
    """Return what a recipe would write for an option's value."""
    if isinstance(value, Blueprint):
        return value.to_dict()
    if isinstance(value, Reference):
        return {"ref": value.noun}
    if isinstance(value, Term):
        return {**plain(value.component), "weight": value.weight, "start": value.start}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, Path):
        return os.path.abspath(value)
    value = plain_values(value)
    return value if isinstance(value, (bool, int, float, str)) else str(value)


class _Objecting(Factory[Any]):
    """A factory whose component's own objection, when it is finished, is located in the recipe."""

    def __init__(self, target: Callable[..., Any], key: Key, options: Mapping[str, Any]) -> None:
        super().__init__(target, **options)
        self.key = key

    def __call__(self, *args: Any) -> Any:
        try:
            return super().__call__(*args)
        except ValueError as error:
            raise MistakeError(Problem(Where(self.key), str(error))) from error


@define
class Builder:
    """Builds blueprints: nested components before their owners, every noun once.

    Args:
        nouns: the recipe's nouns.
        place: called with each noun's name and the component; returns it ready for use (on its device).
        seeded: gives the context in which the named noun's weights are drawn.
    """

    nouns: Mapping[str, Blueprint] = Fresh(dict)
    place: Callable[[str, Any], Any] = lambda name, component: component
    seeded: Callable[[str], AbstractContextManager[Any]] = lambda name: nullcontext()
    built: dict[str, Any] = Fresh(dict)

    def noun(self, name: str) -> Any:
        """Return the noun of that name, building it the first time."""
        if name not in self.built:
            with self.seeded(name):
                component = self.build(self.nouns[name])
            self.built[name] = self.place(name, component)
        return self.built[name]

    def around(self, name: str) -> Any:
        """Return the noun that another one's options follow from."""
        return self.noun(name)

    def build(self, blueprint: Blueprint, *args: Any) -> Any:
        """Build a component and everything nested in it; ``args`` are what its owner passes."""
        options = {name: self._finished(value) for name, value in blueprint.options.items()}
        target = blueprint.component.load()
        options |= self._surroundings(blueprint, options_of(target), options)
        if blueprint.factory:
            return _Objecting(target, blueprint.key, options)
        try:
            return target(*args, **options)
        except ValueError as error:  # the component's own objection to its options
            raise MistakeError(Problem(Where(blueprint.key), str(error) or repr(error))) from error

    def _finished(self, value: Any) -> Any:
        if isinstance(value, Blueprint):
            return self.build(value)
        if isinstance(value, Reference):
            return self.noun(value.noun)
        if isinstance(value, Term):
            return evolve(value, component=self._finished(value.component))
        return [self._finished(item) for item in value] if isinstance(value, list) else value

    def _surroundings(
        self, blueprint: Blueprint, options: Mapping[str, Option], written: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Derive the options that follow from other nouns; a written one must agree."""
        derived = {}
        for name, surrounding in blueprint.kind.takes.items():
            if name not in options or not all(noun in self.nouns for noun in surrounding.nouns):
                continue
            derived[name] = surrounding.derive(*map(self.around, surrounding.nouns))
            if name in written and written[name] != derived[name]:
                raise MistakeError(
                    Problem(
                        Where((*blueprint.key, name)),
                        f"is {written[name]!r}, but {surrounding.says} is {derived[name]!r}",
                        "leave it out: it is filled in",
                    )
                )
        return derived
