"""The components of a run: on its device, each with weights of its own draw or from a file."""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import TypeVar

from attrs import define
from torch import nn

from uldm_core.engine.device import Device
from uldm_core.engine.finite import not_finite
from uldm_core.engine.randomness import seeded
from uldm_core.errors import RunError
from uldm_core.recipe import ResolvedRecipe
from uldm_core.run_folder.files import damaged, format_error, read_tensors
from uldm_core.run_folder.pretrained import misfits
from uldm_core.spec.building import ComponentStore

T = TypeVar("T")


@define(kw_only=True)
class RunComponents(ComponentStore):
    """Builds a recipe's components and stages on a device.

    Args:
        seed: of the run; with a component's name it says which weights are drawn.
        device: where components are placed, wherever they are nested.
    """

    seed: int
    device: Device

    @classmethod
    def of(cls, resolved: ResolvedRecipe, device: Device) -> RunComponents:
        """Return the store of a recipe's components; none has weights from a file yet."""
        return cls(components=resolved.components, seed=resolved.seed, device=device)

    def seeded(self, place: str) -> AbstractContextManager[None]:
        """Seed torch's generator for a component, by its name."""
        return seeded(self.seed, "nouns", place)

    def place(self, component: T) -> T:
        """Move a component and all that it holds to the device."""
        return self.device.place(component)

    def load(self, component: nn.Module, path: Path) -> None:
        """Load a component's weights.

        Raises:
            MistakeError: they are missing, damaged, or not of this component.
            RunError: they are not finite where the component's own are.
        """
        weights, meant = read_tensors(path), not_finite(component.state_dict())
        if bad := [name for name in not_finite(weights) if name not in meant]:
            raise RunError(
                f"{path}: {bad[0]} is not finite", hint="remove the folder of that stage, and train it again"
            )
        try:
            component.load_state_dict(weights)
        except Exception as error:  # each component has its own way to say so
            first = "; ".join(islice(misfits(component, path), 3)) or format_error(error)
            raise damaged(path, f"not weights of the recipe's {type(component).__name__}: {first}") from error
