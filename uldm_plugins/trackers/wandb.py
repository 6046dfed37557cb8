"""Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from uldm_core.protocols import RunStart
from uldm_plugins.shared.images import grid_of_ten
from uldm_plugins.trackers.shared import kept_id, tagged


class Wandb:
    """Logs to Weights & Biases, or into ``wandb/`` of the run's folder, for ``wandb sync`` later on.

    Steps are counted stage by stage: the axis of ``first/loss`` is ``first/step``. A resumed run
    is resumed there too.

    Args:
        project: the project's name.
        entity: whose it is; empty for the account's default.
        mode: ``auto`` goes online if there is a key (WANDB_API_KEY, ``wandb login``), else offline; the
            library's own WANDB_MODE comes first.
        tags: of the run.
    """

    def __init__(
        self,
        project: str = "uldm",
        entity: str = "",
        mode: Literal["auto", "online", "offline"] = "auto",
        tags: list[str] = [],  # noqa: B006 - read only
    ) -> None:
        self.project = project
        self.entity = entity
        self.mode = mode
        self.tags = tags

    def begin(self, run: RunStart) -> None:
        """Start or resume the run; the resolved recipe is its config."""
        import wandb

        self.run = wandb.init(
            project=self.project,
            entity=self.entity or None,
            name=run.name,
            id=kept_id(run.folder, "wandb", "id"),
            resume="allow",
            dir=run.folder,
            config={**run.recipe, "command": run.command},
            tags=self.tags,
            mode=_chosen_mode() if self.mode == "auto" else self.mode,
            settings=wandb.Settings(silent=True, console="off", save_code=False),
        )

    def stage(self, name: str, step: int, total: int) -> None:
        """Have the stage's values counted by its own steps."""
        self.run.define_metric(f"{name}/step", hidden=True)
        self.run.define_metric(f"{name}/*", step_metric=f"{name}/step")

    def scalars(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Log the values at the stage's step."""
        self.run.log(tagged(stage, {**values, "step": step}))

    def images(self, stage: str, step: int, name: str, images: Tensor) -> None:
        """Log the grid as one image."""
        import wandb

        shown: dict[str, Any] = {f"{stage}/{name}": wandb.Image(grid_of_ten(images)), f"{stage}/step": step}
        self.run.log(shown)

    def stage_done(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Put the stage's summary into the run's."""
        self.run.summary.update(tagged(stage, {"seconds": seconds, **summary}))

    def end(self, state: str) -> None:
        """Finish the run; a stopped one waits to be resumed."""
        if state == "stopped":
            self.run.mark_preempting()
        self.run.finish(exit_code=0 if state == "done" else 1)


def _chosen_mode() -> Any:
    """Return WANDB_MODE, else ``online`` where there is a key."""
    import wandb

    return os.environ.get("WANDB_MODE") or ("online" if wandb.setup().settings.api_key else "offline")
