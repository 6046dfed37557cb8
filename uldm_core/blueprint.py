"""From a name and options to a component: first a checked plan of it, then the thing itself.

A ``Planner`` turns a table into a ``Blueprint`` and collects every problem it meets; a ``Builder`` builds
blueprints, nested ones first. Recipes and ``registry.build`` both go this way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from attrs import Factory as Fresh
from attrs import define, evolve, frozen

from uldm_core.component import Component
from uldm_core.errors import (
    Key,
    MistakeError,
    Problem,
    Where,
    did_you_mean,
    dotted,
    expected,
    listing,
    with_article,
)
from uldm_core.kinds import Kind
from uldm_core.options import (
    Factory,
    Mismatch,
    Option,
    Term,
    check_constraints,
    is_union,
    options_of,
    say_value,
    structure,
)

if TYPE_CHECKING:
    from uldm_core.registry import Registry


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
    """Return an option's value as a recipe writes it, blueprints as their tables."""
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
    missed: set[str] = Fresh(set)

    def component(
        self, kind: Kind, value: Any, key: Key, *, factory: bool = False, beside: Iterable[str] = ()
    ) -> Any:
        """Plan a component from a name, a table, a reference or a ready-made object.

        Args:
            kind: of component.
            value: as written.
            key: where.
            factory: whether its owner finishes it.
            beside: what may stand in the table beside its options, for messages.
        """
        if isinstance(value, str):
            value = {"use": value}
        if not isinstance(value, Mapping):
            return self._ready_made(kind, value, key)
        if "ref" in value:
            return self._reference(kind, value, key)
        if not isinstance(value.get("use"), str):
            return self._nameless(kind, value, key)
        return self._table(kind, dict(value), key, factory, beside)

    def _nameless(self, kind: Kind, value: Mapping[str, Any], key: Key) -> Any:
        """Complain of a table without ``use``, most of all of one that names code instead."""
        if "use" in value:
            return self._complain((*key, "use"), expected("a name", value["use"]), self._known(kind))
        for name in filter(names_code, value):
            return self._complain(
                (*key, name), f"{name!r}: {NO_CODE}", f'write use = "..."; {self._known(kind)}'
            )
        return self._complain(key, f'names no {kind.name}: write use = "..."', self._known(kind))

    def _table(
        self, kind: Kind, table: dict[str, Any], key: Key, factory: bool, beside: Iterable[str]
    ) -> Any:
        use = table.pop("use")
        if ":" in use or "." in use:
            return self._complain((*key, "use"), f"{use!r} is an import path: {NO_CODE}", self._known(kind))
        try:
            component = self.registry.get(kind.name, use)
            options = options_of(component.load())
        except MistakeError as error:
            self.problems += [problem.within((*key, "use")) for problem in error.problems]
            return _LEFT_OUT
        around = {
            option: surrounding.nouns for option, surrounding in kind.takes.items() if option in options
        }
        surrounded = frozenset(option for option, nouns in around.items() if self.nouns.keys() >= {*nouns})
        blueprint = Blueprint(kind, component, key, {}, factory, use, frozenset(table), surrounded)
        before = len(self.problems)
        for name, option in options.items():
            value = self._option(blueprint, option, table)
            if value is not _LEFT_OUT:
                blueprint.options[name] = value
        of_options, self.problems[before:] = self.problems[before:], []
        self._refuse_unknown(blueprint, table, options, beside)
        self.problems += of_options
        self._refuse_both(blueprint, options)
        return blueprint

    def _refuse_unknown(
        self, owner: Blueprint, table: Mapping[str, Any], options: Mapping[str, Option], beside: Iterable[str]
    ) -> None:
        takes = "; ".join([*map(self._say, options.values()), *beside]) or "no options"
        for name in [name for name in table if name not in options]:
            what = f"unknown option {name!r}{did_you_mean(str(name), [*options, *beside])}"
            if names_code(name):
                what = f"{name!r}: {NO_CODE}"
            hint = f"{owner.component.path} takes: {takes}"
            self._complain((*owner.key, name), what, f"{self._taken_within(owner, name)}{hint}")

    def _taken_within(self, owner: Blueprint, name: str) -> str:
        """Say which of the components nested in it takes an option of that name."""
        for option, inner in owner.options.items():
            if isinstance(inner, Blueprint) and name in options_of(inner.component.load()):
                return f"{dotted((*owner.key, option))} takes one of that name; "
        return ""

    def _refuse_both(self, owner: Blueprint, options: Mapping[str, Option]) -> None:
        """Of an option and the one whose place it takes, only one may be given; the other is not passed."""
        for name, option in options.items():
            other = option.excludes
            if not other or name not in owner.written or owner.options.get(name) is None:
                continue
            if other in owner.written:
                what = f"{name} and {other} exclude each other"
                self._complain(
                    (*owner.key, name), what, f"leave one of them out; {name}: {option.help.rstrip('.')}"
                )
            owner.options.pop(other, None)

    def _option(self, owner: Blueprint, option: Option, table: Mapping[str, Any]) -> Any:
        """Find an option's value: as written, else from the recipe's nouns, else its default."""
        key = (*owner.key, option.name)
        if option.name in table:
            return self._written(owner, option, table[option.name], key)
        if owner.kind.verb and (kind := self.registry.kind_of(_without_none(option.annotation))):
            return self._noun_for(kind, owner, option)
        if option.name in owner.surrounded:
            return _LEFT_OUT
        if option.required:
            return self._complain(
                owner.key,
                f"missing option {option.name!r} ({option.type})",
                self._explain(owner, option) + _otherwise_filled_in(owner, option),
            )
        return self._default(option, key)

    def _written(self, owner: Blueprint, option: Option, value: Any, key: Key) -> Any:
        """Plan what was written; a problem that has no hint of its own is told what the option is."""
        before = len(self.problems)
        planned = self.value(option.annotation, _completed(value, option.default), key)
        hint = self._explain(owner, option)
        self.problems[before:] = [
            problem if problem.hint else evolve(problem, hint=hint) for problem in self.problems[before:]
        ]
        return planned

    def _noun_for(self, kind: Kind, owner: Blueprint, option: Option) -> Any:
        """Take the noun of the option's name; where there is none, its default becomes that noun."""
        key = (*owner.key, option.name)
        if option.name in self.nouns:
            return self._reference(kind, {"ref": option.name}, key)
        if option.required:
            return self._missing(kind, owner, option)
        planned = self._default(option, key)
        if not isinstance(planned, Blueprint) or not self.implies:
            return planned
        noun = self.implied.setdefault(option.name, evolve(planned, key=(option.name,)))
        return Reference(option.name) if noun.to_dict() == planned.to_dict() else planned

    def _missing(self, kind: Kind, owner: Blueprint, option: Option) -> Any:
        """Complain of a noun that is not there, once: the first stage that needs it stands for the others."""
        if option.name in self.missed:
            return _LEFT_OUT
        self.missed.add(option.name)
        hint = f"add a table [{option.name}]; {self._known(kind)}"
        return self._complain(owner.key, f"needs {with_article(option.name)}, and the recipe has none", hint)

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
            return self._constrained(annotation, value, key)
        if origin is Factory:
            return self._factory(args[0], value, key)
        if origin is Term:
            return self._term(args[0], value, key)
        if kind := self.registry.kind_of(annotation):
            return self.component(kind, value, key)
        if not isinstance(value, (list, tuple)):
            return self._complain(key, expected("a list", value))
        items = [self.value(args[0], item, (*key, index)) for index, item in enumerate(value)]
        self._refuse_repeated_terms(items, key)
        return items

    def _constrained(self, annotation: Any, value: Any, key: Key) -> Any:
        planned = self.value(get_args(annotation)[0], value, key)
        try:
            if isinstance(planned, list):
                check_constraints(planned, annotation, value)
        except Mismatch as mismatch:
            return self._complain(key, mismatch.what)
        return planned

    def _refuse_repeated_terms(self, items: list[Any], key: Key) -> None:
        """A term that stands twice in a sum is a slip: a weight says how much it counts."""
        written = [plain(item) if _is_planned_term(item) else None for item in items]
        for index, item in enumerate(written):
            if item is not None and item in written[:index]:
                what = f"a duplicate of {dotted((*key[-1:], written.index(item)))}"
                self._complain((*key, index), what, "write it once; weight says how much it counts")

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
        checked = {name: self._term_field(name, item, (*key, name)) for name, item in fields.items()}
        kind = self.registry.kind_of(annotation)
        if kind is None:
            return Term(self.value(annotation, value, key), **checked)
        return Term(self.component(kind, value, key, beside=Term.FIELDS), **checked)

    def _term_field(self, name: str, value: Any, key: Key) -> Any:
        try:
            return structure(value, Term.FIELDS[name])
        except Mismatch as mismatch:
            return self._complain(key, mismatch.what, f"{name}: {Term.SAYS[name]}")

    def _reference(self, kind: Kind, value: Mapping[str, Any], key: Key) -> Any:
        noun = str(value["ref"])
        for name in [name for name in value if name != "ref"]:
            what = "use and ref exclude each other" if name == "use" else f"unknown option {name!r}"
            self._complain((*key, name), f"{what}: with ref, a table holds nothing else")
        if noun not in self.nouns:
            known = listing([name for name, other in self.nouns.items() if other is kind])
            what = f"there is no [{noun}] in the recipe{did_you_mean(noun, self.nouns)}"
            return self._complain((*key, "ref"), what, f"its {kind.name}s are: {known}")
        if self.nouns[noun] is not kind:
            found = with_article(self.nouns[noun].name)
            what = f"expected {with_article(kind.name)}, [{noun}] is {found}"
            return self._complain((*key, "ref"), what)
        return Reference(noun)

    def _ready_made(self, kind: Kind, value: Any, key: Key) -> Any:
        if isinstance(value, (Blueprint, Reference, kind.load_protocol())):
            return value
        return self._complain(
            key, expected(f"{with_article(kind.name)} (a name or a table)", value), self._known(kind)
        )

    def _say(self, option: Option) -> str:
        """Write an option with its default and its type."""
        default = "" if option.required else f" = {say_value(option.default)}"
        return f"{option.name}{default} ({self.registry.say_type(option.annotation)})"

    def _explain(self, owner: Blueprint, option: Option) -> str:
        """Write an option with its default, its type and what it is for."""
        said = f"{owner.component.path}: {self._say(option)}"
        return f"{said}: {option.help.rstrip('.')}" if option.help else said

    def _known(self, kind: Kind) -> str:
        return f"registered: {listing(self.registry.names(kind.name))}"

    def _complain(self, key: Key, what: str, hint: str = "") -> Any:
        self.problems.append(Problem(Where(key), what, hint))
        return _LEFT_OUT


NO_CODE = "a recipe names registered components, never code to import, so a stranger's recipe runs none"


def names_code(name: object) -> bool:
    """Whether a key is how other tools name what to import."""
    return str(name).startswith("@") or name in (
        "_target_",
        "_component_",
        "_partial_",
        "class_path",
        "target",
        "type",
    )


def _otherwise_filled_in(owner: Blueprint, option: Option) -> str:
    surrounding = owner.kind.takes.get(option.name)
    if surrounding is None:
        return ""
    nouns = " and ".join(f"[{noun}]" for noun in surrounding.nouns)
    return f"; it follows from {surrounding.says} where the recipe has {nouns}"


def _is_planned_term(item: Any) -> bool:
    return isinstance(item, Term) and isinstance(item.component, Blueprint)


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
