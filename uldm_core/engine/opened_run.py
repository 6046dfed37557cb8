"""Opening a run: its components with their trained weights, and what it made."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from attrs import define, field

from uldm_core.engine.components import RunComponents
from uldm_core.engine.context import Context
from uldm_core.engine.device import Device, choose_device
from uldm_core.engine.progress import Reporter, Silent
from uldm_core.engine.signals import Stop
from uldm_core.errors import MistakeError, RunWarning, listing
from uldm_core.protocols import Dataset, Unfinished
from uldm_core.recipe import Recipe, ResolvedRecipe
from uldm_core.registry.lookup import Registry
from uldm_core.run_folder.checkpoint import Checkpoints
from uldm_core.run_folder.consistency import changed_code, class_names_of, shape_of, stale_stages
from uldm_core.run_folder.data import Unopened
from uldm_core.run_folder.files import command_for
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.keys import products, results_of, steps_of, used_by
from uldm_core.run_folder.pretrained import pretrained_of
from uldm_core.run_folder.record import StageRecord


@define
class TrainedRun:
    """A run's recipe and components, with the weights of every stage that is done and belongs to the recipe.

    Of a trainer that is not done, if it is ``Unfinished``, they are those of its last checkpoint.

    Args:
        resolved: the recipe.
        folder: the run's.
        device: where its components are.
        store: builds them. Datasets are opened when their images are asked for.
        artifacts: what its stages made, by name.
        refused: why a component or an artifact cannot be used, by name.
        trained: the components that have the weights of a stage.
        unfinished: the stage whose last checkpoint a component is of, by the component's name.
    """

    resolved: ResolvedRecipe
    folder: RunFolder
    device: Device
    store: RunComponents
    artifacts: dict[str, Path] = field(factory=dict)
    refused: dict[str, str] = field(factory=dict)
    trained: set[str] = field(factory=set)
    unfinished: dict[str, str] = field(factory=dict)

    @classmethod
    def open(
        cls, path: Path, *, overrides: tuple[str, ...] = (), registry: Registry | None = None
    ) -> TrainedRun:
        """Open ``runs/<name>``; the data need not be there.

        What an unfinished stage trains is as its last checkpoint has it. That is warned of by ``RunWarning``,
        and so is code of components that has changed since they were trained.

        Raises:
            MistakeError: it is no run, or its recipe is wrong.
        """
        resolved = Recipe.load(RunFolder(path).recipe, overrides).resolve(registry, data=False)
        device = choose_device(resolved.run)
        run = cls(resolved, RunFolder(path), device, RunComponents.of(resolved, device))
        run._leave_data_unopened()
        for name in [name for name, spec in resolved.components.items() if spec.source]:
            try:
                run.store.weights[name] = pretrained_of(name, resolved, run.folder)
            except MistakeError as error:
                run.refused[name] = error.problems[0].what
        run._take_results()
        for problem in run.folder.damage():
            warnings.warn(f"{problem.where}: {problem.what}", RunWarning, stacklevel=2)
        if changed := changed_code(resolved, run.folder):
            many = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            message = f"{path}: the code of {changed[0]}{many} has changed since it was trained"
            warnings.warn(message, RunWarning, stacklevel=2)
        for stage in dict.fromkeys(run.unfinished.values()):
            step, steps = run._checkpoints(stage).last(), steps_of(resolved.stages[stage])
            message = (
                f"{path} is unfinished (stage {stage}, step {step} of {steps}): its last checkpoint is used"
            )
            warnings.warn(message, RunWarning, stacklevel=2)
        return run

    def component(self, name: str) -> Any:
        """Return a component by its name in the recipe.

        Raises:
            MistakeError: there is none, or what it was trained with is not what the recipe has now.
        """
        if name not in self.resolved.components:
            others = listing(list(self.resolved.components))
            raise MistakeError(f"{self.folder.path} has no {name}; it has: {others}")
        self._refuse([name])
        return self.store.component(name)

    def stage(self, use: str) -> tuple[str, Any]:
        """Return the last stage that uses the component ``use``, with its name.

        Raises:
            MistakeError: the recipe has none, or what it acts on does not belong to the recipe.
        """
        names = [name for name, stage in self.resolved.stages.items() if stage.component.name == use]
        if not names:
            raise MistakeError(f"{self.folder.path}: its recipe has no stage with use = {use!r}")
        self._refuse(used_by(self.resolved.stages[names[-1]], self.resolved, needs=False))
        try:
            return names[-1], self.store.build(self.resolved.stages[names[-1]])
        except MistakeError as error:
            raise self.resolved.located(error) from error

    def artifact(self, name: str) -> Path:
        """Return where an artifact of the run lies.

        Raises:
            MistakeError: it is not there, or does not belong to the recipe.
        """
        self._refuse([name])
        if name not in self.artifacts:
            raise MistakeError(f"{self.folder.path} has no {name} yet", hint=self._how_to_resume())
        return self.artifacts[name]

    def require_trained(self, *components: str) -> None:
        """Raise ``MistakeError`` unless each component that some stage trains has its weights."""
        self._refuse(components)
        for name, stage in self.resolved.stages.items():
            for component in set(products(stage)) & set(components) - self.trained:
                what = f"{self.folder.path}: {component} is not trained yet (stage {name})"
                raise MistakeError(what, hint=self._how_to_resume())

    def context(
        self, name: str, seed: int, reporter: Reporter | None = None, stop: Stop | None = None
    ) -> Context:
        """Return the context for doing a stage's work outside a run."""
        folder = self.folder.stage(name)
        return Context(name, seed, self.device, folder, self.artifacts, reporter or Silent(), stop or Stop())

    def _refuse(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self.refused:
                raise MistakeError(f"{self.folder.path}: {self.refused[name]}", hint=self._how_to_resume())
            if name in self.unfinished:
                self._use_checkpoint(self.unfinished[name])

    def _use_checkpoint(self, stage: str) -> None:
        """Give what an unfinished stage trains the weights of its last checkpoint."""
        checkpoints = self._checkpoints(stage)
        found = checkpoints.newest(
            lambda what: warnings.warn(f"stages.{stage}: {what}", RunWarning, stacklevel=5)
        )
        if found is None:
            what = f"{self.folder.path}: stages.{stage} is not done, and no checkpoint of it is whole"
            raise MistakeError(what, hint=self._how_to_resume())
        self.unfinished = {name: other for name, other in self.unfinished.items() if other != stage}
        trainer: Unfinished = self.store.build(self.resolved.stages[stage])
        with checkpoints.fitting(found[0]):
            trainer.take(found[1])

    def _checkpoints(self, stage: str) -> Checkpoints:
        return self.folder.stage(stage).checkpoints

    def _how_to_resume(self) -> str:
        return f"resume it: {command_for(self.folder.path)}"

    def _leave_data_unopened(self) -> None:
        for name, spec in self.resolved.components.items():
            if spec.kind.data and (shape := shape_of(name, self.resolved, self.folder)):
                names = class_names_of(name, self.resolved, self.folder)
                self.store.built[name] = Unopened(*shape, partial(self._open, name), names)

    def _open(self, dataset: str) -> Dataset:
        unopened = self.store.built.pop(dataset)
        try:
            opened: Dataset = self.store.component(dataset)
            return opened
        except MistakeError as error:
            raise self.resolved.located(error) from error
        finally:
            self.store.built.setdefault(dataset, unopened)

    def _take_results(self) -> None:
        """Take the weights and artifacts of each stage that is done; what is stale or damaged is refused."""
        stale = stale_stages(self.resolved, self.folder, dict(self.store.weights), begun=True)
        for name, stage in self.resolved.stages.items():
            folder, (trained, made) = self.folder.stage(name), results_of(stage)
            record = folder.record()
            if record is None or not record.done:
                if name not in stale:
                    self._note_unfinished(name, record)
                continue
            for product, path in folder.handed_on(trained, made).items():
                if product in made and not folder.is_recorded(record, path):
                    continue  # an earlier version of the stage did not make it
                was = f"{product} was {'trained' if product in trained else 'made'}"
                if why := f"{was} {stale[name]}" if name in stale else folder.damage(record, [path]):
                    self.refused[product] = why
                    continue
                self.refused.pop(product, None)
                self.unfinished.pop(product, None)
                if product in trained:
                    self.store.use_weights(product, path)
                    self.trained.add(product)
                else:
                    self.artifacts[product] = path

    def _note_unfinished(self, name: str, record: StageRecord | None) -> None:
        """Note what a stage trains that has a checkpoint and can be used before it is done."""
        stage = self.resolved.stages[name]
        usable = isinstance(stage.component.load(), Unfinished)
        if record and usable and self._checkpoints(name).last():
            trained = results_of(stage)[0]
            self.unfinished |= dict.fromkeys(trained, name)
            self.trained |= {*trained}
            for component in trained:
                self.refused.pop(component, None)
