"""From a table to a checked ``ComponentSpec``, with every problem that there is on the way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin

from attrs import Factory, define, evolve

from uldm_core.errors import (
    Code,
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
from uldm_core.registry.component import Component
from uldm_core.registry.lookup import Registry
from uldm_core.spec.annotations import Annotation, is_sequence, without_none
from uldm_core.spec.component_spec import ComponentSpec, Reference, plain
from uldm_core.spec.format_types import describe_option, format_type, takes_component
from uldm_core.spec.options import WEIGHTS, Option, Partial, Weighted, options_of
from uldm_core.spec.structure import LEFT_OUT, Converter

_NO_CODE = "a recipe names registered components, never code to import, so a stranger's recipe runs none"


@define(kw_only=True)
class Validator(Converter):
    """Checks tables against the signatures of the components they name; collects all problems.

    A stage's component option that the recipe leaves out takes the recipe's component of that name, or makes
    one from its default.

    Args:
        registry: what components there are.
        kinds: of the recipe's components, by name.
        all_known: whether these are all that the recipe has; if not, it may have any that is not among them.
        in_recipe: whether there is a recipe; if not, a stage takes its default components for itself.
        needs_data: whether the paths of datasets must exist.
        versions: which distribution brought each component when the recipe was resolved, by ``kind/name``.
        implied: the components that stages made from their defaults.
        missing: names of components that are reported as missing.
    """

    registry: Registry
    kinds: Mapping[str, Kind] = Factory(dict)
    all_known: bool = True
    in_recipe: bool = True
    needs_data: bool = True
    versions: Mapping[str, object] = Factory(dict)
    implied: dict[str, ComponentSpec] = Factory(dict)
    missing: set[str] = Factory(set)

    def component(
        self,
        kind: Kind,
        value: object,
        key: Key,
        *,
        partial: bool = False,
        beside: Iterable[Option] = (),
        siblings: Iterable[str] = (),
    ) -> object:
        """Validate a component given as a name, a table, a reference or an object.

        Args:
            kind: of component.
            value: as written.
            key: its place.
            partial: whether its owner finishes it.
            beside: the other options that its table may have.
            siblings: names of the tables beside it, one of which may be meant if it names no component.

        Returns:
            A ``ComponentSpec``, a ``Reference`` or the object; ``LEFT_OUT`` if it is wrong.
        """
        if isinstance(value, str):
            value = {"use": value}
        if not isinstance(value, Mapping):
            if isinstance(value, (ComponentSpec, Reference, kind.load_protocol())):
                return value
            what = expected(f"{with_article(kind.name)} (a name or a table)", value)
            return self.problem("wrong-type", key, what, self._registered(kind))
        if "ref" in value:
            return self._reference(kind, value, key)
        if not isinstance(value.get("use"), str):
            return self._nameless(kind, value, key, siblings)
        component = self._record(kind, value["use"], (*key, "use"))
        if component is None:
            return LEFT_OUT
        table = {name: item for name, item in value.items() if name != "use"}
        options = options_of(component.load())
        inferred = frozenset(
            name
            for name, option in kind.inferred.items()
            if name in options and (not self.all_known or self.kinds.keys() >= {*option.components})
        )
        spec = ComponentSpec(kind, component, key, {}, partial, value["use"], frozenset(table), inferred)
        self._options(spec, options, table)
        self._refuse_unknown(component.path, key, [*options.values(), *beside], table, _keys(key))
        self._refuse_both(spec, options)
        return spec

    def _nameless(self, kind: Kind, table: Mapping[str, object], key: Key, siblings: Iterable[str]) -> object:
        """Report a table without ``use``, at the key that is misspelt, if there is one."""
        registered = self._registered(kind)
        if "use" in table:
            return self.problem("wrong-type", (*key, "use"), expected("a name", table["use"]), registered)
        for name in (name for name, item in table.items() if isinstance(item, str)):
            if near := did_you_mean(name, _keys(key)):
                what = f"unknown option {name!r}{near}"
                return self.problem("unknown-option", (*key, name), what, registered)
        near = did_you_mean(key[-1], siblings)
        what = f"there is no {kind.name} {key[-1]!r}{near}" if near else f"names no {kind.name}"
        return self.problem("missing-option", key, f'{what}: write use = "..."', registered)

    def _record(self, kind: Kind, use: str, key: Key) -> Component | None:
        """Return the component of a name, imported; None if there is none, or it cannot be imported."""
        if ":" in use or "." in use:
            near = did_you_mean(re.split(r"[.:/]", use)[-1], self.registry.names(kind.name))
            what = f"{use!r} is an import path: {_NO_CODE}{near}"
            self.problem("names-code", key, what, self._registered(kind))
            return None
        code: Code = "unknown-component"
        try:
            component = self.registry.get(kind.name, use)
            code = "unavailable-component"
            component.load()
        except MistakeError as error:
            hint = f'the recipe\'s own one is {{ ref = "{use}" }}; ' if use in self.kinds else ""
            origin = self.versions.get(f"{kind.name}/{use.rpartition('/')[2]}")
            hint += f"{origin} brought it: install it, or name its file with --plugin; " if origin else ""
            self.problems += [
                Problem(Where(key), problem.what, hint + problem.hint, code=code, cause=error.__cause__)
                for problem in error.problems
            ]
            return None
        return component

    def _options(
        self, spec: ComponentSpec, options: Mapping[str, Option], table: Mapping[str, object]
    ) -> None:
        """Validate each option; of a table with unknown ones, one cannot say which are missing."""
        complete = all(name in options for name in table)
        for name, option in options.items():
            if name in table:
                value = self.option(option, table[name], (*spec.key, name), spec.component.path)
            else:
                value = self._unwritten(spec, option, complete)
            if value is not LEFT_OUT:
                spec.options[name] = value

    def _refuse_unknown(
        self, owner: str, key: Key, options: Iterable[Option], names: Iterable[str], others: Iterable[str]
    ) -> None:
        """Refuse the names that are neither an option of ``owner`` nor one of the ``others``."""
        accepted = {option.name: describe_option(self.registry, option) for option in options}
        hint = f"{owner} takes: {'; '.join(accepted.values()) or 'no options'}"
        for name in [name for name in names if name not in accepted]:
            what = f"unknown option {name!r}{did_you_mean(str(name), [*accepted, *others])}"
            self.problem("unknown-option", (*key, name), what, hint)

    def _refuse_both(self, owner: ComponentSpec, options: Mapping[str, Option]) -> None:
        """Of an option and one that it replaces only one may be given; the other is not passed."""
        pairs = [(name, other) for name, option in options.items() for other in option.excludes]
        for name, other in pairs:
            if name not in owner.written or owner.options.get(name) is None:
                continue
            if other in owner.written:
                hint = f"leave one of them out; {name}: {options[name].help.rstrip('.')}"
                what = f"{name} and {other} exclude each other"
                self.problem("exclusive-options", (*owner.key, name), what, hint)
            owner.options.pop(other, None)

    def option(self, option: Option, value: object, key: Key, owner: str) -> Any:
        """Validate the value of an option of ``owner``; problems without a hint get its description."""
        before = len(self.problems)
        default = option.default
        if isinstance(value, Mapping) and isinstance(default, Mapping) and not value.keys() & {"use", "ref"}:
            value = {**default, **value}  # a table without use changes options of the default component
        found = self.value(option.annotation, value, key)
        hint = self._explain(owner, option)
        for index, problem in enumerate(self.problems[before:], before):
            self.problems[index] = problem if problem.hint else evolve(problem, hint=hint)
        return found

    def _unwritten(self, owner: ComponentSpec, option: Option, complete: bool) -> object:
        """Find an option in the recipe's components, else take its default; its components are validated."""
        key = (*owner.key, option.name)
        kind = self.registry.kind_of(without_none(option.annotation)) if owner.kind.stage else None
        if kind and option.name in self.kinds:
            return self._reference(kind, {"ref": option.name}, key)
        if kind and not self.all_known:
            return Reference(option.name)
        if option.name in owner.inferred:
            return LEFT_OUT
        if option.required:
            return self._missing(owner, option, kind) if kind or complete else LEFT_OUT
        if option.default is None or not takes_component(self.registry, option.annotation):
            return option.default
        found = self.value(option.annotation, option.default, key)
        if not kind or not self.in_recipe or not isinstance(found, ComponentSpec):
            return found
        implied = self.implied.setdefault(option.name, evolve(found, key=(option.name,)))
        return Reference(option.name) if implied.to_dict() == found.to_dict() else found

    def _missing(self, owner: ComponentSpec, option: Option, kind: Kind | None) -> object:
        """Report a missing option; a component that the recipe lacks only where it is needed first."""
        if kind:
            if option.name in self.missing:
                return LEFT_OUT
            self.missing.add(option.name)
            what = f"needs {with_article(option.name)}, and the recipe has none"
            hint = f"add a table [{option.name}]; {self._registered(kind)}"
            return self.problem("missing-component", owner.key, what, hint)
        what = f"missing option {option.name!r} ({format_type(option.annotation, self.registry)})"
        hint = self._explain(owner.component.path, option)
        if inferred := owner.kind.inferred.get(option.name):
            if self.missing & {*inferred.components}:
                return LEFT_OUT
            names = " and ".join(f"[{name}]" for name in inferred.components)
            hint += f"; it follows from {inferred.description} where the recipe has {names}"
        return self.problem("missing-option", owner.key, what, hint)

    def convert(self, annotation: Annotation, value: Any, key: Key, whole: Annotation) -> Any:
        """Convert a value that may be, or hold, components."""
        if kind := self.registry.kind_of(annotation):
            return self.component(kind, value, key)
        origin, args = get_origin(annotation), get_args(annotation)
        if origin in (Partial, Weighted) and (kind := self.registry.kind_of(args[0])):
            if isinstance(value, Weighted) or (origin is Partial and callable(value)):
                return value
            if origin is Weighted:
                return self._weighted(kind, value, key)
            return self.component(kind, value, key, partial=True)
        found = super().convert(annotation, value, key, whole)
        if is_sequence(annotation) and isinstance(found, (list, tuple)):
            self._refuse_repeated(found)
        return found

    def must_exist(self, key: Key) -> bool:
        """Return whether a path at a key has to exist: a dataset's, if its images are to be read."""
        kind = self.kinds.get(str(key[0]))
        return self.needs_data or kind is None or not kind.data

    def _refuse_repeated(self, items: Iterable[object]) -> None:
        """A list holds each component once; how much one counts is its weight."""
        found: list[tuple[object, Key]] = []
        for item in items:
            spec = item.component if isinstance(item, Weighted) else item
            if isinstance(spec, ComponentSpec):
                table = plain(evolve(item, weight=1.0) if isinstance(item, Weighted) else item)
                if same := next((key for other, key in found if other == table), None):
                    weight = "; weight says how much it counts" if isinstance(item, Weighted) else ""
                    what = f"a duplicate of {dotted(same[-2:])}"
                    self.problem("duplicate", spec.key, what, f"write it once{weight}")
                found.append((table, spec.key))

    def _weighted(self, kind: Kind, value: object, key: Key) -> object:
        weights: dict[str, Any] = {}
        if isinstance(value, Mapping):
            weights = {
                name: self.option(option, value[name], (*key, name), dotted(key))
                for name, option in WEIGHTS.items()
                if name in value
            }
            value = {name: item for name, item in value.items() if name not in weights}
        component = self.component(kind, value, key, beside=WEIGHTS.values())
        return LEFT_OUT if component is LEFT_OUT else Weighted(component, **weights)

    def _reference(self, kind: Kind, table: Mapping[str, object], key: Key) -> object:
        for name in [name for name in table if name != "ref"]:
            what = f"{name} and ref exclude each other: with ref, a table holds nothing else"
            self.problem("exclusive-options", (*key, name), what)
        written, key = table["ref"], (*key, "ref")
        if not isinstance(written, str):
            return self.problem("wrong-type", key, expected("the name of a table at the top", written))
        name = written
        if name not in self.kinds and self.all_known:
            known = [other for other in self.kinds if self.kinds[other] is kind]
            what = f"there is no [{name}] in the recipe{did_you_mean(name, known)}"
            hint = f"of kind {kind.name} it has: {listing(known)}"
            return self.problem("missing-component", key, what, hint)
        if self.kinds.get(name, kind) is not kind:
            what = f"expected {with_article(kind.name)}, [{name}] is {with_article(self.kinds[name].name)}"
            return self.problem("wrong-kind", key, what)
        return Reference(name)

    def _explain(self, owner: str, option: Option) -> str:
        """Return an option with its default, its type and its help."""
        text = f"{owner}: {describe_option(self.registry, option)}"
        return f"{text}: {option.help.rstrip('.')}" if option.help else text

    def _registered(self, kind: Kind) -> str:
        return f"registered: {listing(self.registry.names(kind.name))}"


def _keys(key: Key) -> tuple[str, ...]:
    """Return the keys that the table of any component may have; only one at the top comes from a run."""
    return ("use", "ref", "from") if len(key) == 1 else ("use", "ref")
