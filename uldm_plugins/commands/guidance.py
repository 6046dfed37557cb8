"""The guidance that ``uldm sample`` draws with."""

from __future__ import annotations

import warnings
from typing import Any

from uldm_core import MistakeError, registry
from uldm_core.engine.opened_run import TrainedRun
from uldm_core.errors import RunWarning
from uldm_core.protocols import HasWeight
from uldm_core.spec.building import validate
from uldm_plugins.stages.guided import kept_average, needs_average
from uldm_plugins.stages.sample import Sample


def guide(stage: Sample, trained: TrainedRun, use: str, weight: float | None, unfinished: bool) -> str:
    """Have a stage draw with guidance of a weight, or with its own; return a description of it.

    Args:
        stage: draws.
        trained: the run.
        use: the name of the stage's own guidance.
        weight: instead of its own; 1 is none. Where the stage has no guidance it gets what the run can have.
        unfinished: the run is: where no weaker denoiser is kept yet, a warning says so, and there is none.

    Raises:
        MistakeError: there is nothing to guide by.
    """
    if weight is not None:
        use = _reweighted(stage, trained, use, weight)
    if unfinished and leave_out_early(stage, trained):
        use = "none"
    weight = stage.guidance.weight if isinstance(stage.guidance, HasWeight) else None
    if use == "none" or weight == 1:
        return "no guidance"
    return f"guidance {use}" + ("" if weight is None else f" with weight {weight:g}")


def leave_out_early(stage: Sample, trained: TrainedRun) -> bool:
    """Have a stage draw without guidance where no weaker denoiser is kept, with a warning; return whether."""
    lacking = needs_average(stage.guidance) and not kept_average(trained.artifacts)
    if lacking:
        what = f"{trained.folder.path} has no weaker denoiser yet: drawn without guidance"
        warnings.warn(what, RunWarning, stacklevel=3)
        _replace(stage, trained, "none")
    return lacking


def _reweighted(stage: Sample, trained: TrainedRun, use: str, weight: float) -> str:
    """Give a stage guidance of a weight: its own with another, or what can be had; return its name."""
    if isinstance(stage.guidance, HasWeight):
        stage.guidance.weight = weight
        return use
    if weight == 1:
        return _replace(stage, trained, "none")
    if use != "none":
        raise MistakeError(f"--guidance {weight:g}: guidance/{use} has no weight")
    if kept_average(trained.artifacts):
        return _replace(stage, trained, "auto", weight=weight)
    if stage.condition:
        classes = stage.condition.classes
        return _replace(stage, trained, "classifier_free", weight=weight, classes=classes)
    raise MistakeError(
        f"--guidance {weight:g}: this run has neither a weaker denoiser nor a condition to lead away by",
        hint="train its denoiser to the end, with train_diffusion's option weaker above 0",
    )


def _replace(stage: Sample, trained: TrainedRun, use: str, **options: Any) -> str:
    spec = validate(registry.default(), "guidance", {"use": use, **options}, {})
    stage.guidance = trained.store.build(spec)
    return use
