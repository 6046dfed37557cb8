"""From a name and options to a component: first a checked plan of it, then the thing itself.

A ``Planner`` turns a table into a ``Blueprint`` and collects every problem it meets; a ``Builder`` builds
blueprints, nested ones first. Recipes and ``registry.build`` both go this way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from attrs import Factory as Fresh
from attrs import define, evolve, frozen

from uldm_core.component import Component
from uldm_core.errors import Key, MistakeError, Problem, Where, did_you_mean, listing
from uldm_core.kinds import Kind
from uldm_core.options import Factory, Mismatch, Option, Term, is_union, options_of, structure

if TYPE_CHECKING:
    from uldm_core.registry import Registry


@frozen
class Reference:
    """A noun of the recipe, by its name."""

    noun: str


@define
class Blueprint:
    """A component to be built, its options checked. Values may be blueprints, references and terms again."""

    kind: Kind
    component: Component
    key: Key
    options: dict[str, Any]
    factory: bool = False
    use: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the table that gives this blueprint, defaults filled in, its component named as written."""
        options = {name: _plain(value) for name, value in self.options.items() if value is not None}
        return {"use": self.use or self.component.name, **options}

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


def _plain(value: Any) -> Any:
    if isinstance(value, Blueprint):
        return value.to_dict()
    if isinstance(value, Reference):
        return {"ref": value.noun}
    if isinstance(value, Term):
        return {**_plain(value.component), "weight": value.weight, "start": value.start}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return value if isinstance(value, (bool, int, float, str)) else str(value)


@define
class Planner:
    """Checks tables against the signatures of the components they name; collects all problems.

    ``nouns`` are the components that references may name, with the kind of each. A stage's component
    option that the recipe leaves out takes the noun of that name, and makes one from its default if need be;
    where there is no recipe (``implies`` is false), it takes its default for itself.
    """

    registry: Registry
    nouns: dict[str, Kind] = Fresh(dict)
    implies: bool = True
    implied: dict[str, Blueprint] = Fresh(dict)
    problems: list[Problem] = Fresh(list)

    def component(self, kind: Kind, value: Any, key: Key, *, factory: bool = False) -> Any:
        """Plan a component from a name, a table, a reference or a ready-made object."""
        if isinstance(value, str):
            value = {"use": value}
        if not isinstance(value, Mapping):
            return self._ready_made(kind, value, key)
        if "ref" in value:
            return self._reference(kind, value, key)
        if not isinstance(value.get("use"), str):
            return self._complain(key, f'names no {kind.name}: write use = "..."', self._known(kind))
        return self._table(kind, dict(value), key, factory)

    def _table(self, kind: Kind, table: dict[str, Any], key: Key, factory: bool) -> Any:
        try:
            use = table.pop("use")
            component = self.registry.get(kind.name, use)
            options = options_of(component.load())
        except MistakeError as error:
            self.problems += [problem.within((*key, "use")) for problem in error.problems]
            return _LEFT_OUT
        for name in [name for name in table if name not in options]:
            self._complain(
                (*key, name),
                f"unknown option {name!r}{did_you_mean(name, options)}",
                f"{component.path} takes: {listing(list(options))}",
            )
        blueprint = Blueprint(kind, component, key, {}, factory, use)
        for name, option in options.items():
            value = self._option(blueprint, option, table)
            if value is not _LEFT_OUT:
                blueprint.options[name] = value
        return blueprint

    def _option(self, owner: Blueprint, option: Option, table: Mapping[str, Any]) -> Any:
        """Find an option's value: as written, else from the recipe's nouns, else its default."""
        key = (*owner.key, option.name)
        if option.name in table:
            return self.value(option.annotation, _completed(table[option.name], option.default), key)
        if owner.kind.verb and (kind := self.registry.kind_of(_without_none(option.annotation))):
            return self._noun_for(kind, owner, option)
        surrounding = owner.kind.takes.get(option.name)
        if surrounding and all(noun in self.nouns for noun in surrounding.nouns):
            return _LEFT_OUT
        if option.required:
            return self._complain(
                owner.key,
                f"missing option {option.name!r} ({option.type})",
                f"{owner.component.path}: {option.help}" if option.help else "",
            )
        return self._default(option, key)

    def _noun_for(self, kind: Kind, owner: Blueprint, option: Option) -> Any:
        """Take the noun of the option's name; where there is none, its default becomes that noun."""
        key = (*owner.key, option.name)
        if option.name in self.nouns:
            return self._reference(kind, {"ref": option.name}, key)
        if option.required:
            return self._complain(
                owner.key,
                f"needs a {option.name}, and the recipe has none",
                f"add a table [{option.name}]; {self._known(kind)}",
            )
        planned = self._default(option, key)
        if not isinstance(planned, Blueprint) or not self.implies:
            return planned
        noun = self.implied.setdefault(option.name, evolve(planned, key=(option.name,)))
        return Reference(option.name) if noun.to_dict() == planned.to_dict() else planned

    def _default(self, option: Option, key: Key) -> Any:
        """Plan a default: one that names components is a table like any other."""
        if self.registry.takes_component(option.annotation):
            return self.value(option.annotation, option.default, key)
        return option.default

    def value(self, annotation: Any, value: Any, key: Key) -> Any:
        """Plan one option's value by its annotation."""
        if not self.registry.takes_component(annotation):
            try:
                return structure(value, annotation)
            except Mismatch as mismatch:
                return self._complain((*key, *mismatch.key), mismatch.what)
        if value is None:
            return None
        annotation = _without_none(annotation)
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return self.value(args[0], value, key)
        if origin is Factory:
            return self._factory(args[0], value, key)
        if origin is Term:
            return self._term(args[0], value, key)
        if kind := self.registry.kind_of(annotation):
            return self.component(kind, value, key)
        if not isinstance(value, (list, tuple)):
            return self._complain(key, f"expected a list, got {value!r}")
        return [self.value(args[0], item, (*key, index)) for index, item in enumerate(value)]

    def _factory(self, annotation: Any, value: Any, key: Key) -> Any:
        kind = self.registry.kind_of(annotation)
        if kind is None or (callable(value) and not isinstance(value, (str, Mapping))):
            return value
        return self.component(kind, value, key, factory=True)

    def _term(self, annotation: Any, value: Any, key: Key) -> Any:
        if isinstance(value, Term):
            return value
        fields = {}
        if isinstance(value, Mapping):
            fields = {name: value[name] for name in Term.FIELDS if name in value}
            value = {name: item for name, item in value.items() if name not in fields}
        checked = {name: self.value(Term.FIELDS[name], item, (*key, name)) for name, item in fields.items()}
        return Term(self.value(annotation, value, key), **checked)

    def _reference(self, kind: Kind, value: Mapping[str, Any], key: Key) -> Any:
        noun = str(value["ref"])
        for name in [name for name in value if name != "ref"]:
            self._complain((*key, name), f"unknown option {name!r}: with ref, a table holds nothing else")
        if noun not in self.nouns:
            known = listing([name for name, other in self.nouns.items() if other is kind])
            what = f"there is no [{noun}] in the recipe{did_you_mean(noun, self.nouns)}"
            return self._complain((*key, "ref"), what, f"its {kind.name}s are: {known}")
        if self.nouns[noun] is not kind:
            return self._complain(
                (*key, "ref"), f"expected a {kind.name}, [{noun}] is a {self.nouns[noun].name}"
            )
        return Reference(noun)

    def _ready_made(self, kind: Kind, value: Any, key: Key) -> Any:
        if isinstance(value, (Blueprint, Reference, kind.load_protocol())):
            return value
        return self._complain(
            key, f"expected a {kind.name} (a name or a table), got {value!r}", self._known(kind)
        )

    def _known(self, kind: Kind) -> str:
        return f"registered: {listing(self.registry.names(kind.name))}"

    def _complain(self, key: Key, what: str, hint: str = "") -> Any:
        self.problems.append(Problem(Where(key), what, hint))
        return _LEFT_OUT


def _completed(value: Any, default: Any) -> Any:
    """A table without ``use`` changes options of the default component and keeps the rest of it."""
    tables = isinstance(value, Mapping) and isinstance(default, Mapping)
    return {**default, **value} if tables and not value.keys() & {"use", "ref"} else value


class _LeftOut:
    """Stands for an option that is not passed: left to its surroundings, or wrong and reported."""


_LEFT_OUT: Any = _LeftOut()


def _without_none(annotation: Any) -> Any:
    if is_union(annotation):
        rest = [arg for arg in get_args(annotation) if arg is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation


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

    def build(self, blueprint: Blueprint, *args: Any) -> Any:
        """Build a component and everything nested in it; ``args`` are what its owner passes."""
        options = {name: self._finished(value) for name, value in blueprint.options.items()}
        target = blueprint.component.load()
        options |= self._surroundings(blueprint, options_of(target), options)
        if blueprint.factory:
            return Factory(target, **options)
        try:
            return target(*args, **options)
        except ValueError as error:  # the component's own objection to its options
            raise MistakeError(Problem(Where(blueprint.key), str(error))) from error

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
            derived[name] = surrounding.derive(*map(self.noun, surrounding.nouns))
            if name in written and written[name] != derived[name]:
                raise MistakeError(
                    Problem(
                        Where((*blueprint.key, name)),
                        f"is {written[name]!r}, but {surrounding.says} is {derived[name]!r}",
                        "leave it out: it is filled in",
                    )
                )
        return derived
