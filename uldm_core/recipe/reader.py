"""Reading a recipe's tables, each checked against the registry."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from attrs import define, field

from uldm_core.errors import (
    Key,
    MistakeError,
    did_you_mean,
    expected,
    listing,
    shortened,
    with_article,
)
from uldm_core.kinds import Kind
from uldm_core.paths import inside
from uldm_core.recipe.document import Document
from uldm_core.recipe.graph import graph_problems
from uldm_core.recipe.run_options import RunOptions
from uldm_core.spec.component_spec import ComponentSpec, Reference
from uldm_core.spec.options import Option, options_of
from uldm_core.spec.structure import LEFT_OUT, as_typed, located, path_of
from uldm_core.spec.validator import Validator

FORMAT = 1
KEPT = "pretrained"
"""The folder of a run that holds copies of the weights it started from."""
RESERVED = ("uldm", "extends", "seed", "vars", "run", "versions", "stages")
"""The keys at the top of a recipe that are not components."""
NAME = re.compile(r"[A-Za-z0-9_\-]{1,200}")
"""Of a component or a stage: names of files are made of it, of 255 bytes at most."""
_SEED = Option("seed", Annotated[int, Ge(0)], 0, "every random number follows from it")


@define(kw_only=True)
class Reader(Validator):
    """Reads one recipe's tables, variables filled in, and collects problems.

    Args:
        data: the tables.
        seed: of the run.
        run: the ``[run]`` table.
        components: by name.
        stages: by name, in the order written.
    """

    folder: Callable[[Key], Path] = lambda key: Path()
    data: Mapping[str, Any] = field(factory=dict)
    seed: int = 0
    run: RunOptions = field(factory=RunOptions)
    components: dict[str, ComponentSpec] = field(factory=dict)
    stages: dict[str, ComponentSpec] = field(factory=dict)

    def read(self) -> None:
        """Read everything; of a format that is not known, nothing."""
        if not self._known_format():
            return
        self.kinds, self.versions = self._kinds(), self._table("versions")
        seed = self.option(_SEED, self.data.get("seed", 0), ("seed",), "recipe")
        self.seed = 0 if seed is LEFT_OUT else seed
        self.run = self._run_options()
        tables = self._table("stages")  # first, since they say which components are missing
        stages = {name: self._stage(name, tables) for name in tables}
        components = {name: self._component(kind, name) for name, kind in self.kinds.items()}
        self.components, self.stages = {**_specs(components), **self.implied}, _specs(stages)
        self._check_versions()
        self._check_best()
        right = all(problem.warning for problem in self.problems)
        self.problems += graph_problems(self.components, self.stages, right=right)

    def _known_format(self) -> bool:
        version = self.data.get("uldm", FORMAT)
        if version == FORMAT and type(version) is int:
            return True
        newer = type(version) is int and version > FORMAT
        what = f"recipe format {version!r} is not known to this uldm, which reads format {FORMAT}"
        hint = "upgrade uldm: pip install -U uldm" if newer else f"write uldm = {FORMAT}"
        self.problem("unsupported-format", ("uldm",), what, hint)
        return False

    def _table(self, name: str) -> dict[str, object]:
        table = self.data.get(name, {})
        if isinstance(table, dict):
            return table
        hint = "write [stages.NAME]" if name == "stages" else ""
        self.problem("wrong-type", (name,), expected("a table", table), hint)
        return {}

    def _run_options(self) -> RunOptions:
        table, options = self._table("run"), options_of(RunOptions)
        self._refuse_unknown("[run]", ("run",), options.values(), table, ())
        values: dict[str, Any] = {
            name: self.option(option, table[name], ("run", name), "[run]")
            for name, option in options.items()
            if name in table
        }
        run = RunOptions(**{name: value for name, value in values.items() if value is not LEFT_OUT})
        self._refuse_unknown_device(run.device)
        self._refuse_listed_twice(run.tracker_specs)
        return run

    def _check_best(self) -> None:
        """``best = "STAGE.NAME"`` names a stage of the recipe."""
        stage, dot, _ = self.run.checkpoint.best.partition(".")
        if dot and stage not in self._table("stages"):
            what = f"there is no stage {stage!r}{did_you_mean(stage, self.stages)}"
            hint = f"the stages are: {listing(list(self.stages))}"
            self.problem("out-of-range", ("run", "checkpoint", "best"), what, hint)

    def _refuse_unknown_device(self, device: str) -> None:
        """A device that no computer has is a mistake; one that this computer lacks is not."""
        import torch

        try:
            known = device == "auto" or torch.device(device).type != "meta"  # which holds no numbers
        except RuntimeError:
            known = False
        if not known:
            hint = "such as auto, cpu, cuda, cuda:1, mps"
            self.problem("out-of-range", ("run", "device"), f"unknown device {device!r}", hint)

    def _refuse_listed_twice(self, specs: Sequence[ComponentSpec]) -> None:
        """Refuse the same component with other options; the very same is a duplicate, refused already."""
        for index, spec in enumerate(specs):
            twins = [other for other in specs[:index] if other.component == spec.component]
            if twins and spec.to_dict() not in [twin.to_dict() for twin in twins]:
                what = f"{spec.component.path} is listed twice"
                self.problem("duplicate", spec.key, what, "once is enough")

    @property
    def trackers(self) -> list[ComponentSpec]:
        """The trackers of the run: those that always log, unless listed with options, and those listed."""
        listed = self.run.tracker_specs
        named = [spec.component for spec in listed]
        others = [c for c in self.registry.components("tracker") if c.always and c not in named]
        kind = self.registry.kind("tracker")
        return [*(ComponentSpec(kind, component, ("run", "trackers"), {}) for component in others), *listed]

    def _kinds(self) -> dict[str, Kind]:
        """Return the kind of each component at the top."""
        if "extends" in self.data:
            what = "comes too late: only a file can extend another"
            self.problem("bad-override", ("extends",), what, "write it into the file")
        kinds = {name: self._kind(name) for name in self.data if name not in RESERVED}
        return {name: kind for name, kind in kinds.items() if kind is not None}

    def _kind(self, name: str) -> Kind | None:
        """Return the kind of a table: its ``kind``, else what its name is or ends in (``small_denoiser``)."""
        table = self.data[name]
        kinds = {kind.name: kind for kind in self.registry.kinds.values() if kind.top_level}
        written = table.get("kind") if isinstance(table, dict) else None
        endings = [kind for kind in kinds if name == kind or str(name).endswith(f"_{kind}")]
        if written is None and not endings:
            self._refuse_table(name, table, kinds)
            return None
        if written is None:
            return kinds[max(endings, key=len)]
        if written not in list(kinds):
            what = f"unknown kind {shortened(written)}{did_you_mean(written, kinds)}"
            self.problem("wrong-kind", (name, "kind"), what, f"the kinds are: {listing(list(kinds))}")
            self.all_known = False
            return None
        if name in kinds and name != written:
            what = f"[{name}] is {with_article(name)}, it cannot be {with_article(written)}"
            self.problem("wrong-kind", (name, "kind"), what, "leave kind out, or give the table another name")
        return kinds[name if name in kinds else written]

    def _refuse_table(self, name: str, table: object, kinds: Mapping[str, Kind]) -> None:
        """Report a key at the top that is no component, and what may be meant."""
        self.all_known &= not isinstance(table, (dict, str))  # else it may be a component
        near = did_you_mean(name, [*RESERVED, *kinds])
        what = f"unknown {'table' if isinstance(table, dict) else 'key'} {name!r}{near}"
        hint = f'name it as its kind, or write kind = "..."; the kinds are: {listing(list(kinds))}; '
        hint += f"the other keys at the top are: {listing(RESERVED)}"
        use = table.get("use", name) if isinstance(table, dict) else name
        meant = {name} & self.registry.kinds.keys() or {
            c.kind for c in self.registry.components() if c.name == use
        }
        if name in options_of(RunOptions):
            hint = "write it into the table [run]"
        elif not near and len(meant) == 1:
            kind = self.registry.kinds[meant.pop()]
            place = f"[stages.{name}]" if kind.stage else f'[{kind.name}] and use = "{use}"'
            what += f": {use!r} is {with_article(kind.name)}" if use != kind.name else ""
            hint = f"list it in {kind.listed}" if kind.listed else f"write {place}"
        self.problem("unknown-table", (name,), what, hint)

    def _component(self, kind: Kind, name: str) -> object:
        self._check_name((name,))
        table = self.data[name]
        if isinstance(table, dict):
            table = {option: value for option, value in table.items() if option != "kind"}
            if "from" in table:
                return self._component_of_run(kind, name, table)
        others = [other for other in self.data if other not in (name, *RESERVED)]
        found = self.component(kind, table, (name,), siblings=others)
        if isinstance(found, Reference):
            what = "a table at the top is a component of its own, it cannot be another one"
            self.problem("wrong-kind", (name, "ref"), what, 'write use = "..."')
        return found

    def _component_of_run(self, kind: Kind, name: str, table: dict[str, Any]) -> object:
        """Read a component that comes from another run, which has it by the same name.

        Without ``use`` it is the run's own component; options that are written beside ``from`` change it.
        With ``use`` it is the component of these options, and only the weights are the run's. If this recipe
        is of a run that has kept these weights, the run that they came from need not exist.
        """
        key = (name, "from")
        run = as_typed(table.pop("from"), self.texts.get(key), str)
        if not isinstance(run, str):
            what = expected("a run's folder", run)
            return self.problem("wrong-type", key, what, "such as runs/mnist_latent")
        folder = located(path_of(run), self.folder(key))
        kept = "use" in table and os.path.isfile(self.folder(key) / KEPT / f"{name}.safetensors")
        if os.path.isfile(folder / "recipe.toml"):
            theirs = self._table_of_run(kind, name, run, folder)
            if theirs is None:
                return LEFT_OUT
            table = table if table.keys() & {"use", "ref"} else {**theirs, **table}
        elif not kept:
            hint = f"looked for {folder / 'recipe.toml'}; make it with: uldm run RECIPE"
            return self.problem("missing-file", key, f"there is no run {run!r}", hint)
        spec = self.component(kind, table, (name,))
        if isinstance(spec, ComponentSpec):
            spec.source = str(folder)
        return spec

    def _table_of_run(self, kind: Kind, name: str, run: str, folder: Path) -> dict[str, Any] | None:
        """Return the options of a component in a run's recipe; None, with a problem, if it does not fit."""
        key = (name, "from")
        try:
            tables = Document.read(inside(folder, "recipe.toml")).data
        except MistakeError as error:
            what = f"the recipe of {run} cannot be read"
            self.problem("unreadable-file", key, what, str(error.problems[0]))
            return None
        kinds = {
            n: table["kind"] for n, table in tables.items() if isinstance(table, dict) and "kind" in table
        }
        if name not in kinds:
            what = f"{run} has no [{name}]{did_you_mean(name, kinds)}"
            hint = f"it has: {listing(list(kinds))}; give the component the name it has there"
            self.problem("missing-component", key, what, hint)
            return None
        if kinds[name] != kind.name:
            what = f"expected {with_article(kind.name)}, [{name}] of {run} is {with_article(kinds[name])}"
            self.problem("wrong-kind", key, what)
            return None
        return {option: value for option, value in tables[name].items() if option not in ("kind", "from")}

    def _stage(self, name: str, tables: Mapping[str, object]) -> object:
        self._check_name(("stages", name))
        kind = next(kind for kind in self.registry.kinds.values() if kind.stage)
        others = [other for other in tables if other != name]
        return self.component(kind, tables[name], ("stages", name), siblings=others)

    def _check_name(self, key: Key) -> None:
        """Refuse a name that cannot be a file's and a folder's as well."""
        if not NAME.fullmatch(str(key[-1])):
            hint = "use at most 200 letters, digits, _ and -"
            self.problem("bad-name", key, f"{shortened(key[-1])} cannot be a name", hint)

    def _check_versions(self) -> None:
        """Warn of components of another version than the recipe was resolved with."""
        specs = (*self.components.values(), *self.stages.values(), *self.run.tracker_specs)
        here = {part.component.path: part.component.origin for spec in specs for part in spec.nested()}
        for path, then in self.versions.items():
            if path in here and then != here[path]:
                what = f"{path} was of {then} when this was written, and is of {here[path] or 'none'} now"
                self.problem("other-version", ("versions", path), what, "results may differ", warning=True)


def _specs(found: Mapping[str, object]) -> dict[str, ComponentSpec]:
    return {name: spec for name, spec in found.items() if isinstance(spec, ComponentSpec)}
