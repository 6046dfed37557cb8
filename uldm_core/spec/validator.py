"""From a table to a checked ``ComponentSpec``, with every problem that there is on the way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

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
    nearest,
    with_article,
)
from uldm_core.kinds import Kind
from uldm_core.registry.component import Component
from uldm_core.registry.lookup import Registry
from uldm_core.spec.annotations import Annotation, without_none
from uldm_core.spec.component_spec import ComponentSpec, Reference
from uldm_core.spec.format_types import describe_option, format_type, takes_component
from uldm_core.spec.options import WEIGHTS, Option, Partial, Weighted, options_of
from uldm_core.spec.structure import Mismatch, as_typed, check_constraints, relative_to, structure

NO_CODE = "a recipe names registered components, never code to import, so a stranger's recipe runs none"
_CODE = ("class_path", "class_name", "class", "cls", "target", "type", "module", "import", "function")
_NOT_FROM = "only a component at the top comes from another run"


LEFT_OUT: Any = object()
"""The value of an option that is not passed: it is inferred, or wrong and reported."""


@define
class Validator:
    """Checks tables against the signatures of the components they name; collects all problems.

    A stage's component option that the recipe leaves out takes the recipe's component of that name, or makes
    one from its default.

    Args:
        registry: what components there are.
        kinds: of the recipe's components, by name.
        all_known: whether these are all that the recipe has; if not, it may have any that is not among them.
        in_recipe: whether there is a recipe; if not, a stage takes its default components for itself.
        texts: the values that the command line sets, as typed.
        folder: gives the folder that a path at a key is relative to.
        needs_data: whether the paths of datasets must exist.
        versions: which distribution brought each component when the recipe was resolved, by ``kind/name``.
        implied: the components that stages made from their defaults.
        problems: what is wrong.
        missing: names of components that are reported as missing.
    """

    registry: Registry
    kinds: Mapping[str, Kind] = Factory(dict)
    all_known: bool = True
    in_recipe: bool = True
    texts: Mapping[Key, str] = Factory(dict)
    folder: Callable[[Key], Path] | None = None
    needs_data: bool = True
    versions: Mapping[str, object] = Factory(dict)
    implied: dict[str, ComponentSpec] = Factory(dict)
    problems: list[Problem] = Factory(list)
    missing: set[str] = Factory(set)

    def component(
        self,
        kind: Kind,
        value: object,
        key: Key,
        *,
        partial: bool = False,
        beside: Mapping[str, Option] | None = None,
        siblings: Iterable[str] = (),
    ) -> object:
        """Validate a component given as a name, a table, a reference or an object.

        Args:
            kind: of component.
            value: as written.
            key: its place.
            partial: whether its owner finishes it.
            beside: what else was in the table, for messages.
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
        self._refuse_unknown(component.path, key, {**options, **(beside or {})}, table, _keys(kind, key))
        self._refuse_both(spec, options)
        return spec

    def _nameless(self, kind: Kind, table: Mapping[str, object], key: Key, siblings: Iterable[str]) -> object:
        """Report a table without ``use``, at the key that names a component in its place, if there is one."""
        registered = self._registered(kind)
        if "use" in table:
            what = expected("a name", table["use"])
            return self.problem("wrong-type", (*key, "use"), what, registered)
        if name := next(filter(names_code, table), None):
            hint = f'write use = "..."; {registered}'
            return self.problem("names-code", (*key, name), f"{name!r}: {NO_CODE}", hint)
        texts = [name for name, item in table.items() if isinstance(item, str)]
        if name := next((name for name in texts if nearest(name, _keys(kind, key))), None):
            what = f"unknown option {name!r}{did_you_mean(name, _keys(kind, key))}"
            return self.problem("unknown-option", (*key, name), what, registered)
        if "from" in table:
            return self.problem("unknown-option", (*key, "from"), _NOT_FROM, registered)
        if near := did_you_mean(key[-1], siblings):
            hint = f'write use = "..." to make one: {listing(self.registry.names(kind.name))}'
            return self.problem("missing-option", key, f"there is no {kind.name} {key[-1]!r}{near}", hint)
        return self.problem("missing-option", key, f'names no {kind.name}: write use = "..."', registered)

    def _record(self, kind: Kind, use: str, key: Key) -> Component | None:
        """Return the component of a name, imported; None if there is none, or it cannot be imported."""
        if ":" in use or "." in use:
            near = did_you_mean(re.split(r"[.:/]", use)[-1], self.registry.names(kind.name))
            what = f"{use!r} is an import path: {NO_CODE}{near}"
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
        self, owner: str, key: Key, options: Mapping[str, Option], names: Iterable[str], others: Iterable[str]
    ) -> None:
        """Refuse the names that are neither an option of ``owner`` nor one of the ``others``."""
        texts = [describe_option(self.registry, option) for option in options.values()]
        accepted = f"{owner} takes: {'; '.join(texts) or 'no options'}"
        for name in [name for name in names if name not in options]:
            code: Code = "names-code" if names_code(name) else "unknown-option"
            what = f"unknown option {name!r}{did_you_mean(str(name), [*options, *others])}"
            if name == "from":
                what = _NOT_FROM
            if code == "names-code":
                what = f"{name!r}: {NO_CODE}"
            self.problem(code, (*key, name), what, accepted)

    def _refuse_both(self, owner: ComponentSpec, options: Mapping[str, Option]) -> None:
        """Of an option and the one that it replaces only one may be given; the other is not passed."""
        for name, option in options.items():
            other = option.excludes
            if not other or name not in owner.written or owner.options.get(name) is None:
                continue
            if other in owner.written:
                hint = f"leave one of them out; {name}: {option.help.rstrip('.')}"
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
        """Find an option in the recipe's components, else take its default."""
        key = (*owner.key, option.name)
        if owner.kind.stage and (kind := self.registry.kind_of(without_none(option.annotation))):
            return self._component_for(kind, owner, option)
        if option.name in owner.inferred:
            return LEFT_OUT
        if not option.required:
            return self._default(option, key)
        return self._missing_option(owner, option) if complete else LEFT_OUT

    def _missing_option(self, owner: ComponentSpec, option: Option) -> object:
        """Report a missing option, unless what it is inferred from is reported as missing."""
        what = f"missing option {option.name!r} ({format_type(option.annotation, self.registry)})"
        hint = self._explain(owner.component.path, option)
        if inferred := owner.kind.inferred.get(option.name):
            if self.missing & {*inferred.components}:
                return LEFT_OUT
            names = " and ".join(f"[{name}]" for name in inferred.components)
            hint += f"; it follows from {inferred.description} where the recipe has {names}"
        return self.problem("missing-option", owner.key, what, hint)

    def _component_for(self, kind: Kind, owner: ComponentSpec, option: Option) -> object:
        """Take the recipe's component of the option's name, made from its default if there is none."""
        key = (*owner.key, option.name)
        if option.name in self.kinds:
            return self._reference(kind, {"ref": option.name}, key)
        if not self.all_known:
            return Reference(option.name)
        if option.required:
            return self._missing_component(kind, owner, option)
        found = self._default(option, key)
        if not isinstance(found, ComponentSpec) or not self.in_recipe:
            return found
        implied = self.implied.setdefault(option.name, evolve(found, key=(option.name,)))
        return Reference(option.name) if implied.to_dict() == found.to_dict() else found

    def _missing_component(self, kind: Kind, owner: ComponentSpec, option: Option) -> object:
        """Report a component that the recipe lacks, at the first stage that needs it."""
        if option.name in self.missing:
            return LEFT_OUT
        self.missing.add(option.name)
        what = f"needs {with_article(option.name)}, and the recipe has none"
        hint = f"add a table [{option.name}]; {self._registered(kind)}"
        return self.problem("missing-component", owner.key, what, hint)

    def _default(self, option: Option, key: Key) -> object:
        """Return a default; one that names components is validated like any other table."""
        if takes_component(self.registry, option.annotation):
            return self.value(option.annotation, option.default, key)
        return option.default

    def value(self, annotation: Annotation, value: object, key: Key) -> object:
        """Validate one option's value by its annotation."""
        if not takes_component(self.registry, annotation):
            return self._plain_value(annotation, value, key)
        if value is None:
            return None
        annotation = without_none(annotation)
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return self._constrained(annotation, value, key)
        if origin is Partial:
            return self._partial(args[0], value, key)
        if origin is Weighted:
            return self._weighted(args[0], value, key)
        if kind := self.registry.kind_of(annotation):
            return self.component(kind, value, key)
        return self._list(args[0], value, key)

    def _list(self, annotation: Annotation, value: object, key: Key) -> object:
        if not isinstance(value, (list, tuple)):
            return self.problem("wrong-type", key, expected("a list", value))
        items = [self.value(annotation, item, (*key, index)) for index, item in enumerate(value)]
        self._refuse_repeated(items, key)
        return [item for item in items if item is not LEFT_OUT]

    def _plain_value(self, annotation: Annotation, value: object, key: Key) -> object:
        """Structure a value that names no components."""
        try:
            with relative_to(self.folder(key)) if self.folder else nullcontext():
                return structure(as_typed(value, self.texts.get(key), annotation), annotation)
        except Mismatch as mismatch:
            kind, parts = self.kinds.get(str(key[0])), [mismatch, *mismatch.others]
            unread = not self.needs_data and kind is not None and kind.data
            if unread and all(part.code == "missing-file" for part in parts):
                return [Path(path) for path in value] if isinstance(value, list) else Path(str(value))
            for part in parts:
                self.problem(part.code, (*key, *part.key), part.what)
            return LEFT_OUT

    def _constrained(self, annotation: Annotation, value: object, key: Key) -> object:
        found = self.value(get_args(annotation)[0], value, key)
        try:
            if isinstance(found, list) and isinstance(value, (list, tuple)) and len(found) == len(value):
                check_constraints(found, annotation, value)
        except Mismatch as mismatch:
            return self.problem(mismatch.code, key, mismatch.what)
        return found

    def _refuse_repeated(self, items: list[object], key: Key) -> None:
        """A list holds each component once; how much one counts is its weight."""
        tables = [_without_weight(item) for item in items]
        for index, item in enumerate(items):
            if tables[index] is not None and tables[index] in tables[:index]:
                what = f"a duplicate of {dotted((*key[-1:], tables.index(tables[index])))}"
                weight = "; weight says how much it counts" if isinstance(item, Weighted) else ""
                self.problem("duplicate", (*key, index), what, f"write it once{weight}")

    def _partial(self, annotation: Annotation, value: object, key: Key) -> object:
        kind = self.registry.kind_of(annotation)
        if kind is None or (callable(value) and not isinstance(value, (str, Mapping))):
            return value
        return self.component(kind, value, key, partial=True)

    def _weighted(self, annotation: Annotation, value: object, key: Key) -> object:
        if isinstance(value, Weighted):
            return value
        fields = {}
        if isinstance(value, Mapping):
            fields = {name: value[name] for name in WEIGHTS if name in value}
            value = {name: item for name, item in value.items() if name not in fields}
        checked: dict[str, Any] = {
            name: self.option(WEIGHTS[name], item, (*key, name), dotted(key)) for name, item in fields.items()
        }
        kind = self.registry.kind_of(annotation)
        if kind is None:
            return Weighted(self.value(annotation, value, key), **checked)
        component = self.component(kind, value, key, beside=WEIGHTS)
        return LEFT_OUT if component is LEFT_OUT else Weighted(component, **checked)

    def _reference(self, kind: Kind, table: Mapping[str, object], key: Key) -> object:
        for name in [name for name in table if name != "ref"]:
            code: Code = "exclusive-options" if name == "use" else "unknown-option"
            what = "use and ref exclude each other" if name == "use" else f"unknown option {name!r}"
            self.problem(code, (*key, name), f"{what}: with ref, a table holds nothing else")
        written, key = table["ref"], (*key, "ref")
        if not isinstance(written, str):
            return self.problem("wrong-type", key, expected("the name of a table at the top", written))
        name = written
        if name not in self.kinds:
            return self._no_component(kind, name, key) if self.all_known else Reference(name)
        if self.kinds[name] is not kind:
            found = with_article(self.kinds[name].name)
            what = f"expected {with_article(kind.name)}, [{name}] is {found}"
            return self.problem("wrong-kind", key, what)
        return Reference(name)

    def _no_component(self, kind: Kind, name: str, key: Key) -> object:
        """Report a reference to a component that the recipe does not have."""
        known = [other for other in self.kinds if self.kinds[other] is kind]
        near = did_you_mean(name, known) or did_you_mean(name, self.kinds)
        what = f"there is no [{name}] in the recipe{near}"
        return self.problem("missing-component", key, what, f"of kind {kind.name} it has: {listing(known)}")

    def _explain(self, owner: str, option: Option) -> str:
        """Return an option with its default, its type and its help."""
        text = f"{owner}: {describe_option(self.registry, option)}"
        return f"{text}: {option.help.rstrip('.')}" if option.help else text

    def _registered(self, kind: Kind) -> str:
        return f"registered: {listing(self.registry.names(kind.name))}"

    def problem(self, code: Code, key: Key, what: str, hint: str = "", warning: bool = False) -> object:
        """Report a problem at a key; returns ``LEFT_OUT``."""
        self.problems.append(Problem(Where(key), what, hint, warning, code=code))
        return LEFT_OUT


def names_code(name: object) -> bool:
    """Return whether a key is one by which other tools name code to import."""
    dunder = str(name).startswith("_") and str(name).endswith("_")
    return str(name).startswith("@") or dunder or name in _CODE


def _keys(kind: Kind, key: Key) -> tuple[str, ...]:
    """Return the keys that the table of any component of a kind may have."""
    return ("use", "ref", "from") if len(key) == 1 and not kind.stage else ("use", "ref")


def _without_weight(item: object) -> dict[str, object] | None:
    """Return the table of a component, whatever its weight; None if it is none."""
    if isinstance(item, Weighted) and isinstance(item.component, ComponentSpec):
        return {**item.component.to_dict(), "start": item.start}
    return item.to_dict() if isinstance(item, ComponentSpec) else None
