"""Event files for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomli_w
from torch import Tensor

from uldm_core.paths import inside
from uldm_core.protocols import RunStart
from uldm_plugins.shared.images import array_of_grid


class TensorBoard:
    """Writes event files into ``tensorboard/`` of the run's folder; ``tensorboard --logdir runs`` shows them.

    Each stage is a run of TensorBoard's, since each counts its own steps; the recipe is a text of the first.
    """

    def begin(self, run: RunStart) -> None:
        """Take note of the folder and the recipe."""
        self.folder = run.folder
        self.recipe = tomli_w.dumps(dict(run.recipe))
        self.writers: dict[str, Any] = {}

    def stage(self, name: str, step: int, total: int) -> None:
        """Open the stage's files; what earlier ones hold behind ``step`` is not shown any more."""
        folder = inside(self.folder, "tensorboard", name)
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder), purge_step=step + 1)
        if not self.writers:
            writer.add_text("recipe", _as_code(self.recipe), step)
        self.writers[name] = writer

    def scalars(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Add each value at the step."""
        for name, value in values.items():
            self.writers[stage].add_scalar(name, value, step)

    def images(self, stage: str, step: int, name: str, images: Tensor) -> None:
        """Add the grid as one image."""
        self.writers[stage].add_image(name, array_of_grid(images), step, dataformats="HWC")
        self.writers[stage].flush()

    def stage_done(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Add the summary and close the stage's files."""
        self.scalars(stage, 0, {"seconds": seconds, **summary})
        self.writers[stage].close()

    def end(self, state: str) -> None:
        """Close what is open."""
        for writer in self.writers.values():
            writer.close()


def _as_code(text: str) -> str:
    """Return text as a block of Markdown that is shown as it is."""
    return "".join(f"    {line}\n" for line in text.splitlines())
