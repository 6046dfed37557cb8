"""How many bytes a stage is going to write: weights, checkpoints, and artifacts whose size it knows."""

from __future__ import annotations

from torch import nn

from uldm_core.preflight import measure
from uldm_core.preflight.preflight import Preflight, optimizer_of, state_bytes
from uldm_core.protocols import HasArtifactSize
from uldm_core.recipe import ResolvedRecipe
from uldm_core.recipe.graph import trained_by

CHECKPOINTS = 3
"""Two of a training are kept while a third one is written."""


def stored_bytes(resolved: ResolvedRecipe, found: Preflight, name: str) -> int:
    """Return the bytes that a stage is going to write; what cannot be built without values counts nothing.

    A checkpoint has the weights, the optimizer's state, and an average of the weights that the stage trains.
    """
    stage, built = resolved.stages[name], found.tried.components
    maker, trained = built.get(stage.key), trained_by(stage)
    need = maker.artifact_bytes if isinstance(maker, HasArtifactSize) else 0
    for component, spec in resolved.components.items():
        module, optimizer = built.get(spec.key), optimizer_of(stage, spec)
        if isinstance(module, nn.Module) and (optimizer or component in trained):
            weights = measure.size_of([*measure.parameters_of(module), *module.buffers()])
            steps = measure.trainable(module) if optimizer else []
            state = state_bytes(found.tried, optimizer, steps) if optimizer and steps else 0
            kept = weights if component in trained else 0
            need += kept + CHECKPOINTS * (weights + kept + state)
    return need
