"""Opening a finished run: its components with their trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import define

from uldm_core.engine.context import Context
from uldm_core.engine.folder import RunFolder
from uldm_core.engine.keys import products
from uldm_core.engine.machine import Machine, choose_machine
from uldm_core.engine.progress import Reporter, Silent
from uldm_core.engine.signals import Stop
from uldm_core.engine.workshop import Workshop
from uldm_core.errors import MistakeError, listing
from uldm_core.recipe import Plan, Recipe
from uldm_core.registry import Registry


@define
class TrainedRun:
    """A run's plan and components, with the weights of every stage that is done."""

    plan: Plan
    folder: RunFolder
    machine: Machine
    workshop: Workshop

    @classmethod
    def open(
        cls, path: Path, *, overrides: tuple[str, ...] = (), registry: Registry | None = None
    ) -> TrainedRun:
        """Open ``runs/<name>``; raises ``MistakeError`` if it is no run."""
        plan = Recipe.load(RunFolder(path).recipe, overrides).plan(registry)
        machine = choose_machine(plan.run)
        run = cls(plan, RunFolder(path), machine, Workshop(plan, machine))
        for name, stage in plan.stages.items():
            run._take_weights(name, products(stage))
        return run

    def noun(self, name: str) -> Any:
        """Return a component by its name in the recipe."""
        if name not in self.plan.nouns:
            raise MistakeError(f"{self.folder.path} has no {name}; it has: {listing(list(self.plan.nouns))}")
        return self.workshop.builder.noun(name)

    def stage(self, verb: str) -> tuple[str, Any]:
        """Return the last stage that uses the component ``verb``, with its name.

        Raises:
            MistakeError: the recipe has none, or what it acts on is not trained yet.
        """
        names = [name for name, stage in self.plan.stages.items() if stage.component.name == verb]
        if not names:
            raise MistakeError(f"{self.folder.path}: its recipe has no stage with use = {verb!r}")
        return names[-1], self.workshop.build_stage(names[-1])

    def require_trained(self, *nouns: str) -> None:
        """Raise ``MistakeError`` unless each noun that some stage trains has its weights."""
        for name, stage in self.plan.stages.items():
            for noun in set(products(stage)) & set(nouns) - set(self.workshop.weights):
                raise MistakeError(
                    f"{self.folder.path}: {noun} is not trained yet (stage {name})",
                    hint=f"go on with: uldm run {self.folder.path / 'recipe.toml'} --out {self.folder.path}",
                )

    def context(
        self, name: str, seed: int, reporter: Reporter | None = None, stop: Stop | None = None
    ) -> Context:
        """Return the surroundings for doing a stage's work outside a run."""
        folder = self.folder.stage(name)
        return Context(name, seed, self.machine, folder, {}, reporter or Silent(), stop or Stop())

    def _take_weights(self, stage: str, names: list[str]) -> None:
        record = self.folder.stage(stage).record()
        for noun in names if record and record.done else []:
            path = self.folder.stage(stage).weights(noun)
            if path.is_file():
                self.workshop.take(noun, path)
