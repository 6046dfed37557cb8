"""A recipe: components and stages, as written and checked against the registry."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import tomli_w
from attrs import define, evolve, field, fields

from uldm_core.errors import MistakeError, Problem, around, expected
from uldm_core.paths import whole
from uldm_core.recipe.document import Document
from uldm_core.recipe.overrides import apply_overrides
from uldm_core.recipe.reader import FORMAT, Reader
from uldm_core.recipe.run_options import RunOptions
from uldm_core.recipe.shipped import find
from uldm_core.recipe.variables import substitute
from uldm_core.registry import Registry, default
from uldm_core.spec.component_spec import ComponentSpec, plain
from uldm_core.spec.structure import path_of, plain_values


@define
class Recipe:
    """A recipe as written, with its overrides; ``resolve`` checks it and makes it runnable.

    Args:
        document: its tables.
        name: of its file, or of the run that it is of.
        run: the run's folder that it was named by: there it is run.
    """

    document: Document
    name: str = "recipe"
    run: Path | None = None

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
        """Read a recipe and apply ``KEY=VALUE`` overrides.

        Args:
            path: a file, a run's folder, or the name of a recipe that ships with uldm or a plugin.
            overrides: such as ``stages.first.steps=100``.

        Raises:
            MistakeError: the file, or one that it extends, is missing or not TOML.
        """
        file, overrides = find(path), list(overrides)
        document = read_whole(file)
        apply_overrides(document, overrides)
        if file.name != "recipe.toml" or not (file.parent / "stages").is_dir():
            return cls(document, file.stem)
        named = path_of(path).is_dir() and not any(text.strip().startswith("run.out") for text in overrides)
        return cls(document, file.absolute().parent.name, file.parent if named else None)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], name: str = "recipe") -> Recipe:
        """Make a recipe from Python values; its errors are located by key.

        Paths are taken as text, and numpy's and torch's scalars as Python's, as TOML would have them.

        Raises:
            MistakeError: the recipe that it extends is missing or not TOML; it could not be written as TOML.
        """
        try:
            values = plain_values(data)
            json.dumps(values, ensure_ascii=False, default=str).encode("utf-8")
        except UnicodeEncodeError as error:
            what = f"{error.object[: error.end][-50:]!a} is not UTF-8, as a recipe has to be"
            raise MistakeError(what, hint="rename the file or folder", code="bad-name") from error
        except (RecursionError, ValueError) as error:  # ValueError: an integer of too many digits
            what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise MistakeError(what, code="toml-syntax") from error
        return cls(with_base(Document(values), Path()), name)

    def to_dict(self) -> dict[str, Any]:
        """Return the tables as they were written, overrides applied."""
        return deepcopy(self.document.data)

    def save(self, path: str | Path) -> Path:
        """Write the recipe as TOML; its comments are not kept."""
        with whole(path_of(path)) as file:
            tomli_w.dump(self.document.data, file)
        return path_of(path)

    def resolve(self, registry: Registry | None = None, *, data: bool = True) -> ResolvedRecipe:
        """Return the checked recipe.

        Args:
            registry: what components there are; the default one unless another is given.
            data: whether the data is going to be read; if not, the paths of datasets need not exist.

        Raises:
            MistakeError: there are problems; it holds all of them.
        """
        resolved, problems = self.read(registry, data=data)
        if any(not problem.warning for problem in problems):
            raise MistakeError(*problems)
        return evolve(resolved, warnings=problems)

    def read(
        self, registry: Registry | None = None, *, data: bool = True
    ) -> tuple[ResolvedRecipe, list[Problem]]:
        """Return what can be read of the recipe, and everything that is wrong with its tables.

        Nothing is built: ``uldm_core.check`` finds what the components themselves refuse.

        Args:
            registry: as of ``resolve``.
            data: as of ``resolve``.
        """
        document = substitute(self.document)
        reader = Reader(
            registry=registry or default(),
            data=document.data,
            texts=document.texts,
            folder=document.folder,
            needs_data=data,
        )
        reader.read()
        resolved = ResolvedRecipe(
            self, document, reader.seed, reader.run, reader.components, reader.stages, reader.trackers
        )
        own = document.problems
        unfilled = {problem.where.key for problem in own}
        if not reader.all_known and "vars" not in self.document.data:  # one of these tables may be meant
            own = [problem for problem in own if problem.code != "unknown-variable"]
        others = [found for found in reader.problems if unfilled.isdisjoint(around(found.where.key))]
        return resolved, in_order(map(document.placed, [*own, *others]))


def read_whole(path: Path, behind: tuple[Path, ...] = ()) -> Document:
    """Read a recipe and those that it extends, merged; ``behind`` are the files that extend this one.

    Raises:
        MistakeError: a file is missing or not TOML, or a recipe extends itself.
    """
    return with_base(Document.read(path), path.parent, (*behind, path.resolve()))


def with_base(document: Document, folder: Path, behind: tuple[Path, ...] = ()) -> Document:
    """Return a document merged with the one it ``extends``: a path in ``folder``, or a shipped recipe."""
    if "extends" not in document.data:
        return document
    named = document.data.pop("extends")
    try:
        if not isinstance(named, str) or not named:
            raise MistakeError(expected("the path of a recipe", named), code="wrong-type")
        path = find(named, folder)
        if path.resolve() in behind:
            names = " -> ".join(file.name for file in (*behind[behind.index(path.resolve()) :], path))
            raise MistakeError(f"a cycle: {names}", code="cycle")
    except MistakeError as error:
        raise error.at(document.where(("extends",))) from error
    base = read_whole(path, behind)
    base.merge(document)
    base.whole = document.whole
    return base


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Sort problems by file and line, those of overrides last, and drop repeated ones."""
    return sorted(
        dict.fromkeys(problems),
        key=lambda found: (found.where.line is None, found.where.source or "", found.where.line or 0),
    )


@define
class ResolvedRecipe:
    """A checked recipe: the specs of its components and stages, in the order written.

    Args:
        recipe: as written.
        document: its tables, with variables filled in.
        seed: of the run.
        run: the ``[run]`` table.
        components: by name.
        stages: by name.
        trackers: of the run, those that always log first.
        warnings: problems that do not keep it from running.
    """

    recipe: Recipe
    document: Document
    seed: int = 0
    run: RunOptions = field(factory=RunOptions)
    components: dict[str, ComponentSpec] = field(factory=dict)
    stages: dict[str, ComponentSpec] = field(factory=dict)
    trackers: list[ComponentSpec] = field(factory=list)
    warnings: list[Problem] = field(factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved recipe: defaults filled in, references written out, versions noted."""
        components = {
            name: {"kind": component.kind.name, **component.to_dict()}
            for name, component in self.components.items()
        }
        stages = {name: stage.to_dict() for name, stage in self.stages.items()}
        run = {option.name: plain(getattr(self.run, option.name)) for option in fields(RunOptions)}
        top = {"uldm": FORMAT, "seed": self.seed, "run": run, "versions": self.versions()}
        return {**top, **components, "stages": stages}

    def versions(self) -> dict[str, str]:
        """Return which distribution brought each component, and its version."""
        parts = [part.component for spec in self.specs() for part in spec.nested()]
        components = {component.path: component.origin for component in parts}
        return {path: components[path] for path in sorted(components) if components[path]}

    def specs(self) -> list[ComponentSpec]:
        """Return the specs of everything that is built: components, stages and listed trackers."""
        return [*self.components.values(), *self.stages.values(), *self.run.tracker_specs]

    def to_toml(self) -> str:
        """Return the resolved recipe as TOML; running it again does the same."""
        return tomli_w.dumps(self.to_dict())

    def save(self, path: str | Path) -> Path:
        """Write the resolved recipe as TOML."""
        return Recipe.from_dict(self.to_dict()).save(path)

    def placed(self, problem: Problem) -> Problem:
        """Return a problem with the place of its key, and the variables that the value there came from."""
        return self.document.placed(problem)

    def located(self, error: MistakeError) -> MistakeError:
        """Return an error raised while building, with the places of its keys."""
        return MistakeError(*map(self.placed, error.problems))
