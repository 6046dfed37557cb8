"""From a table to a checked plan of a component, with every problem that there is on the way."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from attrs import Factory, define, evolve

from uldm_core.errors import (
    Key,
    MistakeError,
    Problem,
    Where,
    did_you_mean,
    dotted,
    expected,
    listing,
    nearest,
    with_article,
)
from uldm_core.kinds import Kind
from uldm_core.registry.lookup import Registry
from uldm_core.spec.annotations import describe_type, takes_component
from uldm_core.spec.component_spec import ComponentSpec, Reference, plain
from uldm_core.spec.options import (
    AbsentPath,
    Mismatch,
    Option,
    Partial,
    Weighted,
    as_typed,
    check_constraints,
    is_union,
    options_of,
    relative_to,
    say_value,
    structure,
)


@define
class Validator:
    """Checks tables against the signatures of the components they name; collects all problems.

    ``nouns`` are the components that references may name, with the kind of each. A stage's component
    option that the recipe leaves out takes the noun of that name, and makes one from its default if need be;
    where there is no recipe (``implies`` is false), it takes its default for itself. ``texts`` are the values
    that the command line sets, as typed.

    Paths are relative to ``folder(key)``, where it is given; those of datasets need not exist unless ``data``
    is to be read. ``versions`` says what brought each component when the recipe was resolved.
    """

    registry: Registry
    components: dict[str, Kind] = Factory(dict)
    implies: bool = True
    texts: Mapping[Key, str] = Factory(dict)
    folder: Callable[[Key], Path] | None = None
    data: bool = True
    versions: Mapping[str, Any] = Factory(dict)
    implied: dict[str, ComponentSpec] = Factory(dict)
    problems: list[Problem] = Factory(list)
    missed: set[str] = Factory(set)
    postponed: list[tuple[set[str], Problem]] = Factory(list)

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

    def settle(self) -> None:
        """Complain of options that lack the noun they follow from, unless the noun itself is missed."""
        self.problems += [problem for components, problem in self.postponed if not components & self.missed]
        self.postponed = []

    def _nameless(self, kind: Kind, value: Mapping[str, Any], key: Key) -> Any:
        """Complain of a table without ``use``: of the key that is meant to be it, if there is one."""
        if "use" in value:
            return self._complain((*key, "use"), expected("a name", value["use"]), self._known(kind))
        if slip := self.slip(kind, value, key):
            what = f"unknown option {slip!r}{did_you_mean(str(slip), _words(kind, key)) or _MEANS_USE}"
            self._complain((*key, slip), what, self._known(kind))
            named = value[slip] in self.registry.names(kind.name)
            rest = {name: item for name, item in value.items() if name != slip}
            return self._table(kind, {"use": value[slip], **rest}, key, False, ()) if named else _LEFT_OUT
        if "from" in value:
            return self._complain((*key, "from"), _NOT_FROM, self._known(kind))
        for name in filter(names_code, value):
            use = value[name] if value[name] in self.registry.names(kind.name) else "..."
            return self._complain(
                (*key, name), f"{name!r}: {NO_CODE}", f'write use = "{use}"; {self._known(kind)}'
            )
        return self._complain(key, f'names no {kind.name}: write use = "..."', self._known(kind))

    def slip(self, kind: Kind, table: Mapping[str, Any], key: Key) -> str:
        """Return the key of a table that is a slip of ``use`` or the like, or that names a component."""
        names = self.registry.names(kind.name)
        texts = [name for name, item in table.items() if isinstance(item, str) and not names_code(name)]
        named = [name for name in texts if table[name] in names]
        near = [name for name in texts if nearest(str(name), _words(kind, key))]
        return next(iter([*near, *named]), "")

    def _table(
        self, kind: Kind, table: dict[str, Any], key: Key, factory: bool, beside: Iterable[str]
    ) -> Any:
        use = table.pop("use")
        if ":" in use or "." in use:
            return self._refuse_import(kind, use, (*key, "use"))
        try:
            component = self.registry.get(kind.name, use)
            options = options_of(component.load())
        except MistakeError as error:
            hint = f'the recipe\'s own one is {{ ref = "{use}" }}; ' if use in self.components else ""
            hint += _how_to_bring(self.versions.get(f"{kind.name}/{use.rpartition('/')[2]}"))
            self.problems += [
                evolve(problem, hint=hint + problem.hint).within((*key, "use")) for problem in error.problems
            ]
            return _LEFT_OUT
        around = {
            option: surrounding.components
            for option, surrounding in kind.inferred.items()
            if option in options
        }
        surrounded = frozenset(
            option for option, components in around.items() if self.components.keys() >= {*components}
        )
        spec = ComponentSpec(kind, component, key, {}, factory, use, frozenset(table), surrounded)
        before = len(self.problems)
        meant = {near for name in table if name not in options for near in nearest(str(name), options)}
        for name, option in options.items():
            value = self._option(spec, option, table, meant)
            if value is not _LEFT_OUT:
                spec.options[name] = value
        of_options, self.problems[before:] = self.problems[before:], []
        self._refuse_unknown(spec, table, options, beside)
        self.problems += of_options
        self._refuse_both(spec, options)
        return spec

    def _refuse_import(self, kind: Kind, use: str, key: Key) -> Any:
        near = did_you_mean(re.split(r"[.:/]", use)[-1], self.registry.names(kind.name))
        return self._complain(key, f"{use!r} is an import path: {NO_CODE}{near}", self._known(kind))

    def _refuse_unknown(
        self,
        owner: ComponentSpec,
        table: Mapping[str, Any],
        options: Mapping[str, Option],
        beside: Iterable[str],
    ) -> None:
        inferred = "; ".join([*map(self._say, options.values()), *beside]) or "no options"
        for name in [name for name in table if name not in options]:
            known = [*options, *beside, *_words(owner.kind, owner.key)]
            what = f"unknown option {name!r}{did_you_mean(str(name), known)}"
            if name == "from":
                what = _NOT_FROM
            if names_code(name):
                what = f"{name!r}: {NO_CODE}"
            hint = f"{owner.component.path} takes: {inferred}"
            self._complain((*owner.key, name), what, f"{self._taken_within(owner, name)}{hint}")

    def _taken_within(self, owner: ComponentSpec, name: str) -> str:
        """Say which of the components nested in it takes an option of that name."""
        for option, inner in owner.options.items():
            if isinstance(inner, ComponentSpec) and name in options_of(inner.component.load()):
                return f"{dotted((*owner.key, option))} takes one of that name; "
        return ""

    def _refuse_both(self, owner: ComponentSpec, options: Mapping[str, Option]) -> None:
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

    def _option(
        self, owner: ComponentSpec, option: Option, table: Mapping[str, Any], meant: Collection[str]
    ) -> Any:
        """Find an option's value: as written, else from the recipe's nouns, else its default.

        One that is ``meant`` by a misspelt key is not missed as well.
        """
        key = (*owner.key, option.name)
        if option.name in table:
            return self._written(owner, option, table[option.name], key)
        if owner.kind.stage and (kind := self.registry.kind_of(_without_none(option.annotation))):
            return self._noun_for(kind, owner, option)
        if option.name in owner.surrounded:
            return _LEFT_OUT
        if option.required:
            return _LEFT_OUT if option.name in meant else self._lacking(owner, option)
        return self._default(option, key)

    def _lacking(self, owner: ComponentSpec, option: Option) -> Any:
        """Complain of a missing option; of one that follows from a noun, if nobody misses that noun."""
        what = f"missing option {option.name!r} ({option.type})"
        hint = self._explain(owner, option) + _otherwise_filled_in(owner, option)
        surrounding = owner.kind.inferred.get(option.name)
        if surrounding is None or not self.implies:
            return self._complain(owner.key, what, hint)
        components = {*surrounding.components} - self.components.keys()
        self.postponed.append((components, Problem(Where(owner.key), what, hint)))
        return _LEFT_OUT

    def _written(self, owner: ComponentSpec, option: Option, value: Any, key: Key) -> Any:
        """Plan what was written; a problem that has no hint of its own is told what the option is."""
        before = len(self.problems)
        planned = self.value(option.annotation, _completed(value, option.default), key)
        hint = self._explain(owner, option)
        self.problems[before:] = [
            problem if problem.hint else evolve(problem, hint=hint) for problem in self.problems[before:]
        ]
        return planned

    def _noun_for(self, kind: Kind, owner: ComponentSpec, option: Option) -> Any:
        """Take the noun of the option's name; where there is none, its default becomes that noun."""
        key = (*owner.key, option.name)
        if option.name in self.components:
            return self._reference(kind, {"ref": option.name}, key)
        if option.required:
            return self._missing(kind, owner, option)
        planned = self._default(option, key)
        if not isinstance(planned, ComponentSpec) or not self.implies:
            return planned
        noun = self.implied.setdefault(option.name, evolve(planned, key=(option.name,)))
        return Reference(option.name) if noun.to_dict() == planned.to_dict() else planned

    def _missing(self, kind: Kind, owner: ComponentSpec, option: Option) -> Any:
        """Complain of a noun that is not there, once: the first stage that needs it stands for the others."""
        if option.name in self.missed:
            return _LEFT_OUT
        self.missed.add(option.name)
        hint = f"add a table [{option.name}]; {self._known(kind)}"
        return self._complain(owner.key, f"needs {with_article(option.name)}, and the recipe has none", hint)

    def _default(self, option: Option, key: Key) -> Any:
        """Plan a default: one that names components is a table like any other."""
        if takes_component(self.registry, option.annotation):
            return self.value(option.annotation, option.default, key)
        return option.default

    def value(self, annotation: Any, value: Any, key: Key) -> Any:
        """Plan one option's value by its annotation."""
        if not takes_component(self.registry, annotation):
            return self._plain_value(annotation, value, key)
        if value is None:
            return None
        annotation = _without_none(annotation)
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return self._constrained(annotation, value, key)
        if origin is Partial:
            return self._factory(args[0], value, key)
        if origin is Weighted:
            return self._term(args[0], value, key)
        if kind := self.registry.kind_of(annotation):
            return self.component(kind, value, key)
        if not isinstance(value, (list, tuple)):
            return self._complain(key, expected("a list", value))
        items = [self.value(args[0], item, (*key, index)) for index, item in enumerate(value)]
        self._refuse_repeated(items, key)
        return [item for item in items if item is not _LEFT_OUT]

    def _plain_value(self, annotation: Any, value: Any, key: Key) -> Any:
        """Structure a value that names no components."""
        try:
            with relative_to(self.folder(key)) if self.folder else nullcontext():
                return structure(as_typed(value, self.texts.get(key), annotation), annotation)
        except Mismatch as mismatch:
            noun = self.components.get(str(key[0]))
            unread = not self.data and noun is not None and noun.name == "dataset"
            if unread and all(isinstance(part, AbsentPath) for part in mismatch.parts()):
                return Path(value) if isinstance(value, str) else [Path(path) for path in value]
            for part in mismatch.parts():
                self._complain((*key, *part.key), part.what)
            return _LEFT_OUT

    def _constrained(self, annotation: Any, value: Any, key: Key) -> Any:
        planned = self.value(get_args(annotation)[0], value, key)
        try:
            if isinstance(planned, list) and len(planned) == len(value):
                check_constraints(planned, annotation, value)
        except Mismatch as mismatch:
            return self._complain(key, mismatch.what)
        return planned

    def _refuse_repeated(self, items: list[Any], key: Key) -> None:
        """A component that stands twice in a list is a slip; of a term, a weight says how much it counts."""
        said = [_without_weight(item) for item in items]
        for index, item in enumerate(items):
            if said[index] is not None and said[index] in said[:index]:
                what = f"a duplicate of {dotted((*key[-1:], said.index(said[index])))}"
                weight = "; weight says how much it counts" if isinstance(item, Weighted) else ""
                self._complain((*key, index), what, f"write it once{weight}")

    def _factory(self, annotation: Any, value: Any, key: Key) -> Any:
        kind = self.registry.kind_of(annotation)
        if kind is None or (callable(value) and not isinstance(value, (str, Mapping))):
            return value
        return self.component(kind, value, key, factory=True)

    def _term(self, annotation: Any, value: Any, key: Key) -> Any:
        if isinstance(value, Weighted):
            return value
        fields = {}
        if isinstance(value, Mapping):
            fields = {name: value[name] for name in Weighted.FIELDS if name in value}
            value = {name: item for name, item in value.items() if name not in fields}
        checked = {name: self._term_field(name, item, (*key, name)) for name, item in fields.items()}
        kind = self.registry.kind_of(annotation)
        if kind is None:
            return Weighted(self.value(annotation, value, key), **checked)
        component = self.component(kind, value, key, beside=Weighted.FIELDS)
        return _LEFT_OUT if component is _LEFT_OUT else Weighted(component, **checked)

    def _term_field(self, name: str, value: Any, key: Key) -> Any:
        try:
            return structure(value, Weighted.FIELDS[name])
        except Mismatch as mismatch:
            return self._complain(key, mismatch.what, f"{name}: {Weighted.SAYS[name]}")

    def _reference(self, kind: Kind, value: Mapping[str, Any], key: Key) -> Any:
        noun = value["ref"]
        for name in [name for name in value if name != "ref"]:
            what = "use and ref exclude each other" if name == "use" else f"unknown option {name!r}"
            self._complain((*key, name), f"{what}: with ref, a table holds nothing else")
        if not isinstance(noun, str):
            return self._complain((*key, "ref"), expected("the name of a table at the top", noun))
        if noun not in self.components:
            return self._no_noun(kind, noun, (*key, "ref"))
        if self.components[noun] is not kind:
            found = with_article(self.components[noun].name)
            what = f"expected {with_article(kind.name)}, [{noun}] is {found}"
            return self._complain((*key, "ref"), what)
        return Reference(noun)

    def _no_noun(self, kind: Kind, noun: str, key: Key) -> Any:
        """Complain of a reference to nothing; the likeliest noun of the kind is taken as meant."""
        known = [name for name, other in self.components.items() if other is kind]
        near = nearest(noun, known)
        what = f"there is no [{noun}] in the recipe{did_you_mean(noun, known if near else self.components)}"
        several = f"{kind.name}es" if kind.name.endswith("s") else f"{kind.name}s"
        self._complain(key, what, f"its {several} are: {listing(known)}")
        return Reference(near[0]) if near else _LEFT_OUT

    def _ready_made(self, kind: Kind, value: Any, key: Key) -> Any:
        if isinstance(value, (ComponentSpec, Reference, kind.load_protocol())):
            return value
        return self._complain(
            key, expected(f"{with_article(kind.name)} (a name or a table)", value), self._known(kind)
        )

    def _say(self, option: Option) -> str:
        """Write an option with its default and its type."""
        default = "" if option.required else f" = {say_value(option.default)}"
        return f"{option.name}{default} ({describe_type(self.registry, option.annotation)})"

    def _explain(self, owner: ComponentSpec, option: Option) -> str:
        """Write an option with its default, its type and what it is for."""
        said = f"{owner.component.path}: {self._say(option)}"
        return f"{said}: {option.help.rstrip('.')}" if option.help else said

    def _known(self, kind: Kind) -> str:
        return f"registered: {listing(self.registry.names(kind.name))}"

    def _complain(self, key: Key, what: str, hint: str = "") -> Any:
        self.problems.append(Problem(Where(key), what, hint))
        return _LEFT_OUT


NO_CODE = "a recipe names registered components, never code to import, so a stranger's recipe runs none"


_CODE = ("class_path", "class_name", "class", "cls", "target", "type", "module", "import", "function")
_NOT_FROM = "only a component at the top comes from another run"
_MEANS_USE = " (did you mean 'use'?)"


def names_code(name: object) -> bool:
    """Whether a key is how other tools name what to import."""
    dunder = str(name).startswith("_") and str(name).endswith("_")
    return str(name).startswith("@") or dunder or name in _CODE


def _how_to_bring(origin: object) -> str:
    """Say how to have the component again that a file or a distribution brought, as ``versions`` has it."""
    if not isinstance(origin, str) or not origin:
        return ""
    if origin.endswith(".py"):
        return f"this run was made with --plugin {origin}: give it again; "
    return f"{origin} brought it: pip install {origin.partition(' ')[0]}; "


def _words(kind: Kind, key: Key) -> tuple[str, ...]:
    """Return the keys that may stand in a table whatever component it names."""
    return ("use", "ref", "from") if len(key) == 1 and not kind.stage else ("use", "ref")


def _otherwise_filled_in(owner: ComponentSpec, option: Option) -> str:
    surrounding = owner.kind.inferred.get(option.name)
    if surrounding is None:
        return ""
    components = " and ".join(f"[{noun}]" for noun in surrounding.components)
    return f"; it follows from {surrounding.description} where the recipe has {components}"


def _without_weight(item: Any) -> Any:
    """Return what a planned component or term is, however much it counts; None if it is neither."""
    if isinstance(item, Weighted) and isinstance(item.component, ComponentSpec):
        return {**plain(item.component), "start": item.start}
    return plain(item) if isinstance(item, ComponentSpec) else None


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
