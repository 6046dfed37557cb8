"""What a stage is handed: its place, its machine, its randomness, and ears for its progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from attrs import define, field

from uldm_core.engine import randomness
from uldm_core.engine.device import Device
from uldm_core.engine.progress import Reporter, Silent
from uldm_core.engine.signals import Stop
from uldm_core.engine.trackers import Trackers
from uldm_core.paths import copy, inside
from uldm_core.run_folder.folder import StageFolder


@define
class Context:
    """A stage's surroundings while it runs.

    Args:
        name: the stage's name in the recipe.
        seed: the run's seed.
        machine: device and precision.
        folder: the stage's folder.
        products: where earlier stages left the artifacts they make, by name.
        reporter: told of progress.
        stop: asked whether to stop.
        trackers: told of scalars and images.
        beat: called as often as there is a sign of life.
    """

    name: str
    seed: int
    machine: Device
    folder: StageFolder
    products: Mapping[str, Path] = field(factory=dict)
    reporter: Reporter = field(factory=Silent)
    stop: Stop = field(factory=Stop)
    trackers: Trackers = field(factory=Trackers)
    beat: Callable[[], None] = lambda: None
    published: list[str] = field(factory=list, init=False)
    resumed_at: int | None = field(default=None, init=False)
    _started: float = field(factory=time.monotonic, init=False)

    @property
    def device(self) -> torch.device:
        """Where tensors live."""
        return self.machine.device

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for forward passes."""
        return self.machine.autocast()

    def generator(self, *path: str | int) -> torch.Generator:
        """Return a CPU generator for a place within this stage, a step say."""
        return randomness.generator(self.seed, self.name, *path)

    def batch(self, size: int, batch_size: int, step: int) -> torch.Tensor:
        """Return the indices of a step's batch, int64 [batch_size]; see ``randomness.batch_indices``."""
        return randomness.batch_indices(size, batch_size, self.seed, self.name, step)

    def artifact(self, name: str) -> Path:
        """Return where to write an artifact of this stage; its folder exists."""
        path = self.folder.artifact(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def publish(self, name: str) -> None:
        """Put a copy of an artifact where a person looks first: the run's own folder."""
        copy(self.folder.artifact(name), inside(self.folder.path.parent.parent, name))
        self.published.append(name)

    def show(self, name: str, images: torch.Tensor, step: int = 0) -> None:
        """Show images to whoever tracks the run, as a grid of ten a row.

        Args:
            name: what they are; the same name at another step shows how they change.
            images: uint8 [N, C, H, W].
            step: after how many steps.
        """
        shown = images.detach().cpu()
        self.trackers.notify(lambda tracker: tracker.images(self.name, step, name, shown))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Tell whoever tracks the run what was measured after so many steps."""
        self.trackers.notify(lambda tracker: tracker.scalars(self.name, step, values))
        self.beat()

    def message(self, text: str) -> None:
        """Show a line to whoever started the run."""
        self.reporter.message(text)

    def check_stop(self) -> None:
        """Raise ``Interrupted`` if the run is to stop."""
        self.stop.check()

    def goes_on(self, step: int, total: int) -> None:
        """Tell whoever tracks the run that the stage is at ``step`` of ``total``, and goes on from there."""
        self.resumed_at = step
        self.trackers.notify(lambda tracker: tracker.stage(self.name, step, total))

    def begin(self, doing: str, total: int, done: int = 0) -> None:
        """Tell that the stage begins ``doing`` something, with ``done`` of ``total`` steps or images done."""
        self._started = time.monotonic()
        self.reporter.started(self.name, doing, total, done)

    def advance(self, done: int) -> None:
        """Tell how many images are done; raises ``Interrupted`` if the run is to stop."""
        rate = done / max(time.monotonic() - self._started, 1e-9)
        self.reporter.advanced(done, {}, rate)
        self.beat()
        self.stop.check()
