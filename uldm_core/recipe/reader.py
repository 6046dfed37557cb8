"""Reading a recipe's tables: nouns, stages and what stands beside them, each checked against the registry."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from annotated_types import Ge
from attrs import Attribute, define, field, fields

from uldm_core.errors import (
    Key,
    Problem,
    Where,
    did_you_mean,
    dotted,
    expected,
    listing,
    nearest,
    shortened,
    with_article,
)
from uldm_core.kinds import Kind
from uldm_core.recipe.graph import graph_problems
from uldm_core.recipe.run_options import RunOptions
from uldm_core.recipe.runs import noun_of_run
from uldm_core.registry.component import Component
from uldm_core.registry.lookup import Registry
from uldm_core.spec.annotations import describe_type, takes_component
from uldm_core.spec.component_spec import ComponentSpec, Reference
from uldm_core.spec.options import Mismatch, as_typed, located, say_type, say_value, structure
from uldm_core.spec.validator import Validator, names_code

FORMAT = 1
RESERVED = ("uldm", "extends", "seed", "vars", "run", "versions", "stages")
"""The keys at the top of a recipe that are no components."""
_SEED = Annotated[int, Ge(0)]
NAME = re.compile(r"[A-Za-z0-9_\-]+")


@define
class Reader:
    """Reads one recipe's tables, variables filled in, and collects problems.

    Args:
        registry: what components there are.
        data: the tables.
        texts: of what the command line sets, as typed.
        problems: what is wrong, located by key.
        seed: of the run.
        run: the ``[run]`` table.
        nouns: components by name.
        stages: by name, in the order written.
        meant: what tables with misspelt names are meant to be: nouns, or ``stages``.
        guessed: nouns whose kind is misspelt, so that nobody calls them unused as well.
        missing: kinds of nouns that are likely there, misspelt, so that nobody misses them as well.
        folder: what a path at a key is relative to.
        needs_data: whether the paths of datasets must exist.
    """

    registry: Registry
    data: Mapping[str, Any]
    texts: Mapping[Key, str] = field(factory=dict)
    problems: list[Problem] = field(factory=list)
    seed: int = 0
    run: RunOptions = field(factory=RunOptions)
    components: dict[str, ComponentSpec] = field(factory=dict)
    stages: dict[str, ComponentSpec] = field(factory=dict)
    meant: dict[str, str] = field(factory=dict)
    guessed: set[str] = field(factory=set)
    missing: dict[str, Kind] = field(factory=dict)
    folder: Callable[[Key], Path] = lambda key: Path()
    needs_data: bool = True

    def read(self) -> None:
        """Read everything; of a format that is not known, nothing."""
        if not self._known_format():
            return
        says = f"seed = 0 ({say_type(_SEED)}): every random number follows from it"
        self.seed = self._structured(_SEED, self.data.get("seed", 0), ("seed",), 0, says)
        self.run = self._run_options()
        kinds = self._noun_kinds()
        meant = {self.meant.get(name, name): kind for name, kind in kinds.items()}
        validator = Validator(
            self.registry,
            {**self.missing, **meant},
            texts=self.texts,
            problems=self.problems,
            folder=self.folder,
            data=self.needs_data,
            versions=self._versions(),
        )
        components = {
            self.meant.get(name, name): self._noun(validator, kind, name) for name, kind in kinds.items()
        }
        tables = self._table("stages")
        stages = {name: self._stage(validator, ("stages", name), tables) for name in tables}
        for key, beside in self._stages_elsewhere():
            self._stage(validator, key, beside)
        validator.settle()
        self._refuse_aliases(components)
        self.components = {**_planned(components), **validator.implied}
        self.stages = _planned(stages)
        self._check_versions()
        self.problems += graph_problems(
            self.components,
            self.stages,
            whole=len(self.stages) == len(stages) and self._holds_all_stages(),
            spared=self.guessed,
        )

    def _holds_all_stages(self) -> bool:
        """Whether the stages are where they belong."""
        return isinstance(self.data.get("stages", {}), dict) and "stages" not in self.meant.values()

    def _stages_elsewhere(self) -> list[tuple[Key, dict[Any, Any]]]:
        """Return the stages in a list or below a misspelt ``[stages]``: each by key, with those beside it."""
        misspelt = [name for name, meant in self.meant.items() if meant == "stages"]
        tables: dict[str, Any] = {name: self.data[name] for name in misspelt}
        if isinstance(self.data.get("stages"), list):
            tables["stages"] = dict(enumerate(self.data["stages"]))
        return [
            ((name, part), table)
            for name, table in tables.items()
            for part, stage in table.items()
            if isinstance(stage, dict) and "use" in stage
        ]

    def _known_format(self) -> bool:
        version = self.data.get("uldm", FORMAT)
        if version == FORMAT and type(version) is int:
            return True
        newer = type(version) is int and version > FORMAT
        what = f"recipe format {version!r} is not known to this uldm, which reads format {FORMAT}"
        self._complain(
            ("uldm",), what, "upgrade uldm: pip install -U uldm" if newer else f"write uldm = {FORMAT}"
        )
        return False

    def _run_options(self) -> RunOptions:
        table = self._table("run")
        known: dict[str, Attribute[Any]] = {option.name: option for option in fields(RunOptions)}
        for name in [name for name in table if name not in known]:
            what = f"unknown option {name!r}{did_you_mean(name, known)}"
            inferred = "; ".join(map(self._say_run_option, known.values()))
            self._complain(("run", name), what, f"[run] takes: {inferred}")
        given = {
            name: self._run_option(option, table[name]) for name, option in known.items() if name in table
        }
        self._refuse_unknown_device(given.get("device", "auto"))
        return RunOptions(**given)

    def _refuse_unknown_device(self, device: str) -> None:
        """A device that no machine has is a mistake in the recipe; one that this machine lacks is not."""
        import torch

        try:
            known = device == "auto" or torch.device(device).type != "meta"  # which holds no numbers
        except RuntimeError:
            known = False
        if not known:
            self._complain(
                ("run", "device"), f"unknown device {device!r}", "such as auto, cpu, cuda, cuda:1, mps"
            )

    def _run_option(self, option: Attribute[Any], value: Any) -> Any:
        """Structure an option of ``[run]``; components listed there are planned."""
        annotation, key = _run_annotation(option), ("run", option.name)
        hint = f"[run]: {self._say_run_option(option)}"
        if not takes_component(self.registry, annotation):
            return self._structured(annotation, value, key, option.default, hint)
        validator = Validator(
            self.registry, problems=self.problems, folder=self.folder, versions=self._versions()
        )
        planned = validator.value(annotation, value, key)
        items = planned if isinstance(planned, list) else []
        specs = [item for item in items if isinstance(item, ComponentSpec)]
        self._refuse_listed_twice(specs)
        return specs

    def _say_run_option(self, option: Attribute[Any]) -> str:
        """Write an option of ``[run]`` with its default and its type."""
        said = describe_type(self.registry, _run_annotation(option))
        return f"{option.name} = {say_value(option.default)} ({said})"

    def _refuse_listed_twice(self, specs: Sequence[ComponentSpec]) -> None:
        """Refuse the same component with other options; the very same is a duplicate, refused already."""
        for index, spec in enumerate(specs):
            twins = [other for other in specs[:index] if other.component == spec.component]
            if twins and spec.to_dict() not in [twin.to_dict() for twin in twins]:
                self._complain(spec.key, f"{spec.component.path} is listed twice", "once is enough")

    @property
    def trackers(self) -> list[ComponentSpec]:
        """Who is told of the run: those that always are, unless listed with options, and those listed."""
        listed: list[Any] = list(self.run.trackers)
        named = [spec.component for spec in listed]
        others = [c for c in self.registry.components("tracker") if c.always and c not in named]
        kind = self.registry.kind("tracker")
        return [*(ComponentSpec(kind, component, ("run", "trackers"), {}) for component in others), *listed]

    def _table(self, name: str) -> dict[str, Any]:
        table = self.data.get(name, {})
        if isinstance(table, dict):
            return table
        self._complain((name,), expected("a table", table), "write [stages.NAME]" if name == "stages" else "")
        return {}

    def _noun_kinds(self) -> dict[str, Kind]:
        if "extends" in self.data:
            self._complain(
                ("extends",), "comes too late: only a file can extend another", "write it into the file"
            )
        kinds = {name: self._kind_of_noun(name) for name in self.data if name not in RESERVED}
        return {name: kind for name, kind in kinds.items() if kind is not None}

    def _kind_of_noun(self, name: str) -> Kind | None:
        """What its ``kind`` says, else what its own name is or ends in (``small_denoiser``)."""
        table = self.data[name]
        kinds = {kind.name: kind for kind in self.registry.kinds.values() if kind.top_level}
        kind = self.registry.kinds.get(name)
        if kind and kind.listed:
            what = f"{with_article(name)} is no component of the recipe's own"
            self._complain((name,), what, f"list it in {kind.listed}")
            return None
        endings = [kind for kind in kinds if name == kind or str(name).endswith(f"_{kind}")]
        by_name = kinds[max(endings, key=len)] if endings else None
        if isinstance(table, dict) and "kind" in table:
            return self._kind_said(name, table["kind"], kinds, by_name)
        return by_name or self._not_a_noun(name, table, kinds)

    def _kind_said(
        self, name: str, said: Any, kinds: Mapping[str, Kind], by_name: Kind | None
    ) -> Kind | None:
        if by_name and by_name.name == name and said in list(kinds) and said != name:
            what = f"[{name}] is {with_article(name)}, it cannot be {with_article(said)}"
            self._complain((name, "kind"), what, "leave kind out, or give the table another name")
            return by_name
        if said in list(kinds):
            return kinds[said]
        what = f"unknown kind {shortened(said)}{did_you_mean(str(said), kinds)}"
        self._complain((name, "kind"), what, f"the kinds are: {listing(list(kinds))}")
        self.guessed.add(name)
        return by_name or next((kinds[near] for near in nearest(str(said), kinds)), None)

    def _not_a_noun(self, name: str, table: Any, kinds: Mapping[str, Kind]) -> Kind | None:
        """Complain of a key that is none; return the kind that it is likely meant to be."""
        verbs = [component.name for component in self.registry.components() if self._is_verb(component)]
        if isinstance(table, dict) and table.get("use") in verbs:
            self._complain((name,), f"{table['use']!r} is a stage", f"write [stages.{name}]")
            return None
        bearers = {c.kind for c in self.registry.components() if c.name == name and c.kind in kinds}
        near = [*bearers] if len(bearers) == 1 else nearest(str(name), [*RESERVED, *kinds])
        self._complain((name,), *self._strange(name, table, kinds, bearers))
        free = [other for other in near if other in kinds and other not in self.data]
        use = table.get("use") if isinstance(table, dict) else None
        free = [other for other in free if use in self.registry.names(other)] or free
        if near[:1] == ["stages"] and isinstance(table, dict):
            self.meant[name] = "stages"
        elif len(free) == 1 and isinstance(table, dict) and (use or bearers):
            self.meant[name] = free[0]
            return kinds[free[0]]
        self.missing |= {other: kinds[other] for other in free}
        return None

    def _strange(
        self, name: str, table: Any, kinds: Mapping[str, Kind], bearers: Collection[str]
    ) -> tuple[str, str]:
        """Say that a key at the top is none, and what it may be meant to be."""
        near = did_you_mean(str(name), [*RESERVED, *kinds])
        if len(bearers) == 1:
            (kind,) = bearers
            return f"unknown table {name!r}: it is {with_article(kind)}", f'write [{kind}] and use = "{name}"'
        if name in {option.name for option in fields(RunOptions)}:
            return f"unknown key {name!r}", "write it into the table [run]"
        if isinstance(table, (dict, str)):
            hint = f'name it as its kind, or write kind = "..."; the kinds are: {listing(list(kinds))}'
            return f"unknown {'table' if isinstance(table, dict) else 'key'} {name!r}{near}", hint
        hint = f"at the top stand {listing(RESERVED)} and components: {listing(list(kinds))}"
        return f"unknown key {name!r}{near}", hint

    def _is_verb(self, component: Component) -> bool:
        return self.registry.kinds[component.kind].stage

    def _noun(self, validator: Validator, kind: Kind, name: str) -> Any:
        if name not in self.meant:
            self._check_name((name,), name)
        table = self.data[name]
        if not isinstance(table, dict):
            return validator.component(kind, table, (name,))
        table = {option: value for option, value in table.items() if option != "kind"}
        if name in self.meant and "use" not in table:
            table["use"] = name
        if "from" not in table:
            return self._component(validator, kind, table, (name,), self.data)
        folder = self.folder((name, "from"))
        table["from"] = _home(as_typed(table["from"], self.texts.get((name, "from")), str))
        taken, problem = noun_of_run(table, name, kind, folder)
        if problem:
            return self._complain((name, "from"), *problem)
        planned = validator.component(kind, taken, (name,))
        if isinstance(planned, ComponentSpec):
            planned.source = str(located(table["from"], folder))
        return planned

    def _stage(self, validator: Validator, key: Key, tables: Mapping[Any, Any]) -> Any:
        self._check_name(key, str(key[-1]))
        kind = next(kind for kind in self.registry.kinds.values() if kind.stage)
        return self._component(validator, kind, tables[key[-1]], key, tables)

    def _component(
        self, validator: Validator, kind: Kind, table: Any, key: Key, siblings: Mapping[str, Any]
    ) -> Any:
        """Plan a component; a table without ``use`` of nearly a sibling's name is taken for a slip."""
        name = str(key[-1])
        others = [str(other) for other in siblings if other != key[-1] and other not in RESERVED]
        near = nearest(name, others)
        says = isinstance(table, dict) and (
            table.keys() & {"use", "ref"} or any(map(names_code, table)) or validator.slip(kind, table, key)
        )
        if near and isinstance(table, dict) and not says:
            meant = " or ".join(repr(dotted((*key[:-1], other))) for other in near)
            what = f"there is no {kind.name} {name!r} (did you mean {meant}?)"
            known = listing(self.registry.names(kind.name))
            return self._complain(key, what, f'write use = "..." to make one: {known}')
        return validator.component(kind, table, key)

    def _check_name(self, key: Key, name: str) -> None:
        """A name is a file's and a folder's as well."""
        if not NAME.fullmatch(name):
            self._complain(key, f"{name!r} cannot be a name", "use letters, digits, _ and -")

    def _refuse_aliases(self, components: Mapping[str, Any]) -> None:
        """A noun is a component of its own."""
        for name, noun in components.items():
            if isinstance(noun, Reference):
                what = "a table at the top is a component of its own, it cannot be another one"
                self._complain((name, "ref"), what, 'write use = "..."')

    def _check_versions(self) -> None:
        """Say which components are of another version than the recipe was resolved with."""
        listed: Any = self.run.trackers
        specs = (*self.components.values(), *self.stages.values(), *listed)
        here = {c.path: c.origin for spec in specs for c in spec.records()}
        for path, said in self._table("versions").items():
            if path in here and said != here[path]:
                what = f"{path} was of {said} when this was written, and is of {here[path] or 'none'} now"
                self._complain(("versions", path), what, "results may differ", warning=True)

    def _versions(self) -> dict[str, Any]:
        versions = self.data.get("versions")
        return versions if isinstance(versions, dict) else {}

    def _structured(self, annotation: Any, value: Any, key: Key, fallback: Any, hint: str) -> Any:
        try:
            return structure(as_typed(value, self.texts.get(key), annotation), annotation)
        except Mismatch as mismatch:
            for part in mismatch.parts():
                self._complain((*key, *part.key), part.what, hint)
            return fallback

    def _complain(self, key: Key, what: str, hint: str = "", warning: bool = False) -> None:
        self.problems.append(Problem(Where(key), what, hint, warning))


def _home(path: Any) -> Any:
    """Put a home folder in the place of ``~`` and ``~user``."""
    return os.path.expanduser(path) if isinstance(path, str) else path


def _planned(specs: Mapping[str, Any]) -> dict[str, ComponentSpec]:
    return {name: spec for name, spec in specs.items() if isinstance(spec, ComponentSpec)}


def _run_annotation(option: Attribute[Any]) -> Any:
    return get_type_hints(RunOptions, include_extras=True)[option.name]
