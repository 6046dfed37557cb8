"""The run's own log: what was measured as lines of JSON, images as PNGs."""

from __future__ import annotations

import json
from collections.abc import Mapping

from torch import Tensor

from uldm_core.paths import listed, make_folder
from uldm_core.protocols import RunStart
from uldm_core.run_folder.files import MISREAD, read_bytes, write_bytes, write_text
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.lines import append_lines
from uldm_core.run_folder.stage_folder import StageFolder
from uldm_plugins.shared.images import png_of_grid


class Jsonl:
    """Writes ``stages/<stage>/metrics.jsonl`` and ``stages/<stage>/images/<name>/<step>.png``.

    Where a stage resumes from a checkpoint, what was written after its step is dropped: it comes again.
    """

    def begin(self, run: RunStart) -> None:
        """Take note of the run's folder."""
        self.folder = RunFolder(run.folder)

    def stage(self, name: str, step: int, total: int) -> None:
        """Drop what was written after ``step``."""
        folder = self.folder.stage(name)
        _cut_metrics(folder, step)
        for kept in listed(folder.images):
            for shown, image in folder.shown(kept.name):
                if shown > step:
                    image.unlink()

    def scalars(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Add a line."""
        path = self.folder.stage(stage).metrics
        make_folder(path.parent)
        append_lines(path, [json.dumps({"step": step, **values})])

    def images(self, stage: str, step: int, name: str, images: Tensor) -> None:
        """Write a PNG of the grid."""
        path = self.folder.stage(stage).inside("images", *name.split("/"), f"{step:08d}.png")
        write_bytes(path, png_of_grid(images))

    def stage_done(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Do nothing: the engine keeps ``stage.json``."""

    def end(self, state: str) -> None:
        """Do nothing: the engine keeps ``run.json``."""


def _cut_metrics(folder: StageFolder, step: int) -> None:
    """Drop lines after a step, and one that a crash cut short."""
    if folder.metrics.is_file():
        lines = read_bytes(folder.metrics).decode("utf-8", "replace").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        write_text(folder.metrics, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line).get("step", 0))
    except MISREAD:  # cut short, or no line of a log
        return float("inf")
