"""Trackio."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout

from torch import Tensor

from uldm_core.protocols import RunStart
from uldm_plugins.shared.images import grid_of_ten
from uldm_plugins.trackers.shared import kept_id, tagged


class Trackio:
    """Logs to Trackio, which keeps all runs in one place on this computer; ``trackio show`` shows them.

    That place is the library's own (TRACKIO_DIR names it), so that runs can be compared. A run's name ends
    in letters of its own: a resumed run is resumed by its name.

    Args:
        project: the project's name.
        space: of Hugging Face, ``user/name``, to log to instead; empty for this computer.
    """

    def __init__(self, project: str = "uldm", space: str = "") -> None:
        self.project = project
        self.space = space

    def begin(self, run: RunStart) -> None:
        """Start or resume the run; the resolved recipe is its config."""
        with _quietly():
            import trackio

            self.run = trackio.init(
                self.project,
                name=f"{run.name}-{kept_id(run.folder, 'trackio', 'id')}",
                space_id=self.space or None,
                config={**run.recipe, "command": run.command},
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def stage(self, name: str, step: int, total: int) -> None:
        """Do nothing: a value that comes again at a step is another value of it."""

    def scalars(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Log the values at the stage's step."""
        with _quietly():
            self.run.log(tagged(stage, values), step=step)

    def images(self, stage: str, step: int, name: str, images: Tensor) -> None:
        """Log the grid as one image."""
        with _quietly():
            import trackio

            self.run.log({f"{stage}/{name}": trackio.Image(grid_of_ten(images))}, step=step)

    def stage_done(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Log the stage's summary."""
        self.scalars(stage, 0, {"seconds": seconds, **summary})

    def end(self, state: str) -> None:
        """Write what is not written yet."""
        with _quietly():
            import trackio

            self.run.log({"state": state})
            trackio.finish()  # type: ignore[no-untyped-call]  # the library has no types


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the library from printing to standard output, and from using up Python's random numbers."""
    state = random.getstate()
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        random.setstate(state)
