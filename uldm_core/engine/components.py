"""The nouns of a run: each built once, on the run's device, with the weights that its stages gave it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from uldm_core.engine.device import Device
from uldm_core.engine.finite import not_finite
from uldm_core.engine.randomness import seeded
from uldm_core.errors import MistakeError, RunError
from uldm_core.recipe import ResolvedRecipe
from uldm_core.run_folder.data import Unopened
from uldm_core.run_folder.files import damaged, read_tensors, why, write_tensors
from uldm_core.run_folder.pretrained import misfits
from uldm_core.run_folder.pretrained import origins as find_origins
from uldm_core.spec.building import Builder
from uldm_core.spec.component_spec import ComponentSpec


class ComponentStore:
    """Builds a recipe's nouns and stages, and keeps their trained weights.

    Args:
        resolved: the recipe.
        machine: where the nouns go.
        origins: the weights of other runs that nouns start from; looked for there unless given.
    """

    def __init__(
        self, resolved: ResolvedRecipe, machine: Device, origins: Mapping[str, Path] | None = None
    ) -> None:
        self.resolved = resolved
        self.machine = machine
        self.weights: dict[str, Path] = {}
        self.origins = dict(find_origins(resolved) if origins is None else origins)
        self.builder = Builder(resolved.components, place=self._place, seeded=self._seeded)

    def build_stage(self, name: str) -> Any:
        """Build a stage and the nouns it acts on; nested modules of its own go to the device too."""
        try:
            with self._seeded(f"stages.{name}"):
                return self.builder.build(self.resolved.stages[name])
        except MistakeError as error:
            raise self.resolved.located(error) from error

    def trained(self, stage: ComponentSpec) -> dict[str, Any]:
        """Return the nouns a stage trains."""
        verb: Any = stage.component.load()
        references = stage.references()
        names = [references[option] for option in verb.trains if option in references]
        return {name: self.builder.component(name) for name in names}

    def leave_unopened(self, dataset: str, channels: int, size: int) -> None:
        """Have a dataset opened only when its images are asked for, since its shape is known."""

        def open_it() -> Any:
            del self.builder.built[dataset]
            try:
                return self.builder.component(dataset)
            except MistakeError as error:
                raise self.resolved.located(error) from error
            finally:
                self.builder.built.setdefault(dataset, unopened)

        unopened = self.builder.built[dataset] = Unopened(channels, size, open_it)

    def save(self, noun: str, path: Path) -> None:
        """Write a noun's weights."""
        write_tensors(path, self.builder.component(noun).state_dict())

    def take(self, noun: str, path: Path) -> None:
        """Have a noun use these weights, now or when it is built."""
        self.weights[noun] = path
        if noun in self.builder.built:
            self._load(self.builder.built[noun], path)

    def _place(self, name: str, component: Any) -> Any:
        weights = self.weights.get(name, self.origins.get(name))
        if weights:
            self._load(component, weights)
        return self.machine.place(component)

    def _load(self, component: torch.nn.Module, path: Path) -> None:
        weights, meant = read_tensors(path), not_finite(component.state_dict())
        if bad := [name for name in not_finite(weights) if name not in meant]:
            raise RunError(
                f"{path}: {bad[0]} is not finite", hint="remove the folder of that stage, and train it again"
            )
        try:
            component.load_state_dict(weights)
        except Exception as error:  # each component has its own way to say so
            first = "; ".join(islice(misfits(component, path), 3)) or why(error)
            raise damaged(path, f"not weights of the recipe's {type(component).__name__}: {first}") from error

    def _seeded(self, name: str) -> AbstractContextManager[None]:
        return seeded(self.resolved.seed, "nouns", name)
