"""How many bytes a stage is going to write: weights, checkpoints, and artifacts whose size it knows."""

from __future__ import annotations

from torch import nn

from uldm_core.preflight import measure
from uldm_core.preflight.preflight import Preflight, trains
from uldm_core.protocols import HasArtifactSize, HasCheckpointSize
from uldm_core.recipe import ResolvedRecipe
from uldm_core.recipe.graph import trained_by


def stored_bytes(resolved: ResolvedRecipe, found: Preflight, name: str) -> int:
    """Return the bytes that a stage is going to write; what cannot be built without values counts nothing.

    A checkpoint has the weights, two averages of their gradients, and one of the weights that later stages
    get, and what else the trainer says. There is one more than are kept: the one that is being written.
    """
    stage, built, policy = resolved.stages[name], found.tried.made, resolved.run.checkpoint
    checkpoints = policy.keep + bool(policy.best) + 1
    maker, later = built.get(stage.key), trained_by(stage)
    need = maker.artifact_bytes if isinstance(maker, HasArtifactSize) else 0
    need += checkpoints * maker.checkpoint_bytes if isinstance(maker, HasCheckpointSize) else 0
    for component, spec in resolved.components.items():
        module = built.get(spec.key)
        if isinstance(module, nn.Module) and trains(stage, spec):
            weights = measure.size_of([*measure.parameters_of(module), *module.buffers()])
            kept = weights if component in later else 0
            state = 2 * measure.size_of(measure.trainable(module))
            need += kept + checkpoints * (weights + kept + state)
    return need
