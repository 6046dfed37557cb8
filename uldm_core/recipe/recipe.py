"""A recipe: nouns and verbs, checked against the registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tomli_w
from annotated_types import Ge
from attrs import Attribute, asdict, define, field, fields, frozen

from uldm_core.blueprint import Blueprint, Planner, Reference, nouns_behind
from uldm_core.errors import Key, MistakeError, Problem, Where, did_you_mean, listing
from uldm_core.kinds import Kind
from uldm_core.options import Mismatch, structure
from uldm_core.recipe.document import Document
from uldm_core.recipe.overrides import apply_overrides
from uldm_core.recipe.variables import substitute
from uldm_core.registry import Registry, default

FORMAT = 1
_RESERVED = ("uldm", "seed", "run", "stages")


@frozen
class RunOptions:
    """The ``[run]`` table: where and how a recipe runs; nothing in it changes what is computed.

    Args:
        device: ``auto`` takes CUDA, then MPS, then the CPU.
        precision: ``auto`` takes bfloat16 where the processor multiplies it in hardware.
        threads: CPU threads; 0 leaves torch's own choice.
        compile: compile the trained networks with ``torch.compile``.
        out: the run's folder; empty for ``runs/<name of the recipe's file>``.
    """

    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Annotated[int, Ge(0)] = 0
    compile: bool = False
    out: str = ""


@define
class Recipe:
    """A recipe as written, with its overrides; ``check`` finds its problems, ``plan`` makes it runnable."""

    document: Document
    name: str = "recipe"

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
        """Read a recipe's file and apply ``KEY=VALUE`` overrides."""
        document = Document.read(Path(path))
        apply_overrides(document, overrides)
        return cls(document, Path(path).stem)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], name: str = "recipe") -> Recipe:
        """Make a recipe from Python values; its errors are located by key."""
        return cls(Document(dict(data)), name)

    def check(self, registry: Registry | None = None) -> list[Problem]:
        """Return everything that is wrong, each at its place; an empty list if nothing is."""
        return self._plan(registry or default())[1]

    def plan(self, registry: Registry | None = None) -> Plan:
        """Return the checked recipe; raises ``MistakeError`` with all problems at once."""
        plan, problems = self._plan(registry or default())
        if problems:
            raise MistakeError(*problems)
        return plan

    def _plan(self, registry: Registry) -> tuple[Plan, list[Problem]]:
        data, problems = substitute(self.document.data)
        reader = _Reader(registry, data, problems)
        plan = reader.read(self)
        placed = [self.document.placed(problem) for problem in reader.problems]
        placed.sort(key=lambda problem: problem.where.line or 0)
        return plan, placed


@define
class Plan:
    """A checked recipe: blueprints of its nouns and stages, in the order written."""

    recipe: Recipe
    seed: int = 0
    run: RunOptions = field(factory=RunOptions)
    nouns: dict[str, Blueprint] = field(factory=dict)
    stages: dict[str, Blueprint] = field(factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved recipe: defaults filled in, references written out."""
        nouns = {name: {"kind": noun.kind.name, **noun.to_dict()} for name, noun in self.nouns.items()}
        stages = {name: stage.to_dict() for name, stage in self.stages.items()}
        return {"uldm": FORMAT, "seed": self.seed, "run": asdict(self.run), **nouns, "stages": stages}

    def to_toml(self) -> str:
        """Return the resolved recipe as TOML; running it again does the same."""
        return tomli_w.dumps(self.to_dict())

    def blame(self, error: MistakeError) -> MistakeError:
        """Return an error met while building, with the places of its keys."""
        return MistakeError(*map(self.recipe.document.placed, error.problems))


@define
class _Reader:
    """Reads one recipe's tables into a plan, collecting problems."""

    registry: Registry
    data: dict[str, Any]
    problems: list[Problem]

    def read(self, recipe: Recipe) -> Plan:
        self._check_format()
        kinds = self._noun_kinds()
        planner = Planner(self.registry, kinds, problems=self.problems)
        nouns = {name: planner.component(kind, self._noun(name), (name,)) for name, kind in kinds.items()}
        stages = {
            name: planner.component(self._stage_kind(), table, ("stages", name))
            for name, table in self._stages()
        }
        self._check_nouns(nouns)
        nouns = {**planner.implied, **nouns}
        plan = Plan(recipe, self._seed(), self._run_options(), _planned(nouns), _planned(stages))
        self.problems += _misplaced_stages(plan)
        return plan

    def _check_format(self) -> None:
        version = self.data.get("uldm", FORMAT)
        if version != FORMAT:
            what = f"recipe format {version!r} is not known to this uldm, which reads format {FORMAT}"
            self._complain(("uldm",), what, "upgrade uldm, or write uldm = 1")

    def _seed(self) -> int:
        return int(self._structured(Annotated[int, Ge(0)], self.data.get("seed", 0), ("seed",), 0))

    def _run_options(self) -> RunOptions:
        table = self.data.get("run", {})
        if not isinstance(table, dict):
            self._complain(("run",), "expected a table")
            return RunOptions()
        known: dict[str, Attribute[Any]] = {option.name: option for option in fields(RunOptions)}
        for name in [name for name in table if name not in known]:
            what = f"unknown option {name!r}{did_you_mean(name, known)}"
            self._complain(("run", name), what, f"[run] takes: {listing(list(known))}")
        hints = get_type_hints(RunOptions, include_extras=True)
        return RunOptions(
            **{
                name: self._structured(hints[name], table[name], ("run", name), option.default)
                for name, option in known.items()
                if name in table
            }
        )

    def _noun_kinds(self) -> dict[str, Kind]:
        kinds = {name: self._kind_of_noun(name) for name in self.data if name not in _RESERVED}
        return {name: kind for name, kind in kinds.items() if kind is not None}

    def _kind_of_noun(self, name: str) -> Kind | None:
        """What its ``kind`` says, else what its own name is or ends in (``small_denoiser``)."""
        table = self.data[name]
        kinds = {kind.name: kind for kind in self.registry.kinds.values() if not kind.verb}
        if isinstance(table, dict) and "kind" in table:
            said = str(table["kind"])
            if said not in kinds:
                what = f"unknown kind {said!r}{did_you_mean(said, kinds)}"
                self._complain((name, "kind"), what, f"the kinds are: {listing(list(kinds))}")
            return kinds.get(said)
        endings = [kind for kind in kinds if name == kind or name.endswith(f"_{kind}")]
        if not endings:
            self._complain(
                (name,),
                f"unknown table {name!r}{did_you_mean(name, [*_RESERVED, 'vars', *kinds])}",
                f'name it as its kind, or write kind = "..."; the kinds are: {listing(list(kinds))}',
            )
            return None
        return kinds[max(endings, key=len)]

    def _noun(self, name: str) -> Any:
        table = self.data[name]
        return {k: v for k, v in table.items() if k != "kind"} if isinstance(table, dict) else table

    def _check_nouns(self, nouns: Mapping[str, Any]) -> None:
        """A noun is a component of its own, and none is made from itself."""
        for name, noun in nouns.items():
            if isinstance(noun, Reference):
                what = "a table at the top is a component of its own, it cannot be another one"
                self._complain((name, "ref"), what, 'write use = "..."')
            elif isinstance(noun, Blueprint) and name in nouns_behind(noun, nouns):
                self._complain((name,), "is made from itself, by way of its references")

    def _stages(self) -> list[tuple[str, Any]]:
        stages = self.data.get("stages", {})
        if not isinstance(stages, dict):
            self._complain(("stages",), "expected tables [stages.NAME]")
            return []
        return list(stages.items())

    def _stage_kind(self) -> Kind:
        return next(kind for kind in self.registry.kinds.values() if kind.verb)

    def _structured(self, annotation: Any, value: Any, key: Key, fallback: Any) -> Any:
        try:
            return structure(value, annotation)
        except Mismatch as mismatch:
            self._complain((*key, *mismatch.key), mismatch.what)
            return fallback

    def _complain(self, key: Key, what: str, hint: str = "") -> None:
        self.problems.append(Problem(Where(key), what, hint))


def _planned(blueprints: Mapping[str, Any]) -> dict[str, Blueprint]:
    return {name: blueprint for name, blueprint in blueprints.items() if isinstance(blueprint, Blueprint)}


def _misplaced_stages(plan: Plan) -> list[Problem]:
    """A stage may need what only an earlier stage makes, and act on what only an earlier stage trains."""
    problems, made = [], set()
    for name, stage in plan.stages.items():
        target = _class_of(stage)
        for product in target.needs:
            if product not in made:
                makers = [other for other, b in plan.stages.items() if product in _class_of(b).makes]
                hint = f"move it behind [stages.{makers[0]}]" if makers else f"no stage makes {product}"
                problems.append(
                    Problem(Where(("stages", name)), f"needs {product}, which no earlier stage makes", hint)
                )
        made |= set(target.makes)
    return problems


def _class_of(stage: Blueprint) -> Any:
    return stage.component.load()
