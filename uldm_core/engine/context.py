"""What the engine gives a stage: its folder, device, randomness, and where it reports to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from attrs import define, field

from uldm_core.engine import randomness
from uldm_core.engine.device import Device
from uldm_core.engine.progress import Reporter, Silent
from uldm_core.engine.signals import Stop
from uldm_core.engine.trackers import Trackers
from uldm_core.paths import copy, inside, make_folder, sync
from uldm_core.recipe.run_options import RunOptions
from uldm_core.run_folder.events import EventLog
from uldm_core.run_folder.stage_folder import StageFolder


@define
class Context:
    """What a stage is given while it runs; see ``protocols.Context``.

    Args:
        name: the stage's name in the recipe.
        seed: the run's seed.
        run_device: device and precision.
        folder: the stage's folder.
        products: the artifacts of earlier stages, by name.
        reporter: shows progress.
        stop: says whether to stop.
        trackers: log scalars and images.
        beat: called while the stage makes progress.
        events: the run's event log.
        options: of the ``[run]`` table.
        key: what the stage's result depends on; see ``StageKey``.
        curves: the values logged since the stage began or resumed, by name.
    """

    name: str
    seed: int
    run_device: Device
    folder: StageFolder
    products: Mapping[str, Path] = field(factory=dict)
    reporter: Reporter = field(factory=Silent)
    stop: Stop = field(factory=Stop)
    trackers: Trackers = field(factory=Trackers)
    beat: Callable[[], None] = lambda: None
    events: EventLog = field(factory=EventLog)
    options: RunOptions = field(factory=RunOptions)
    key: str = ""
    curves: dict[str, list[float]] = field(factory=dict, init=False)
    published: list[str] = field(factory=list, init=False)
    _warned: set[str] = field(factory=set, init=False)
    _started: float = field(factory=time.monotonic, init=False)

    @property
    def device(self) -> torch.device:
        """Where tensors live."""
        return self.run_device.device

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for forward passes."""
        return self.run_device.autocast()

    def generator(self, *path: str | int) -> torch.Generator:
        """Return a CPU generator for a place within this stage, a step say."""
        return randomness.generator(self.seed, self.name, *path)

    def batch(self, size: int, batch_size: int, step: int) -> torch.Tensor:
        """Return the indices of a step's batch, int64 [batch_size]; see ``randomness.batch_indices``."""
        return randomness.batch_indices(size, batch_size, self.seed, self.name, step)

    def artifact(self, name: str) -> Path:
        """Return where to write an artifact of this stage; its folder exists."""
        path = self.folder.artifact(name)
        make_folder(path.parent)
        return path

    def publish(self, name: str) -> None:
        """Copy an artifact to the top of the run's folder."""
        copy(self.folder.artifact(name), inside(self.folder.path.parent.parent, name))
        self.published.append(name)

    def show(self, name: str, images: torch.Tensor, step: int = 0) -> None:
        """Pass images to the trackers, uint8 [N, C, H, W]; a name at several steps shows how they change."""
        shown = images.detach().cpu()
        self.trackers.notify(
            lambda tracker: tracker.images(self.name, step, name, shown), self.name, shown.nbytes
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass the values measured after ``step`` steps to the trackers."""
        for name, value in values.items():
            self.curves.setdefault(name, []).append(value)
        self.trackers.notify(lambda tracker: tracker.scalars(self.name, step, values), self.name)
        self.beat()

    def message(self, text: str) -> None:
        """Show a line to whoever started the run."""
        self.reporter.message(text)

    def warn(self, what: str, fix: str = "") -> None:
        """Show a warning, with what to do; the same advice only once. The run adds it to its event log."""
        if (fix or what) not in self._warned:
            self._warned.add(fix or what)
            self.message(f"warning: {what}" + (f"\n    {fix}" if fix else ""))

    def event(self, name: str, **values: object) -> None:
        """Add an event of this stage to the run's event log; what was logged before it is on disk first."""
        if self.folder.metrics.is_file():
            sync(self.folder.metrics)
        self.events.append(name, stage=self.name, **values)

    def check_stop(self) -> None:
        """Raise ``Interrupted`` if the run is to stop."""
        self.stop.check()

    def interruptible(self) -> AbstractContextManager[None]:
        """Return a context in which a signal ends the stage at once, as between two of its batches."""
        return self.stop.interrupting()

    def resume(self, step: int, total: int) -> None:
        """Notify the trackers that the stage runs, from ``step`` of ``total``."""
        self.curves.clear()
        self.event("stage", step=step, total=total, key=self.key)
        self.trackers.notify(lambda tracker: tracker.stage(self.name, step, total))

    def begin(self, doing: str, total: int, done: int = 0) -> None:
        """Report that the stage begins ``doing`` something, ``done`` of ``total`` steps or images done."""
        self._started = time.monotonic()
        self.reporter.started(self.name, doing, total, done)

    def advance(self, done: int) -> None:
        """Report the number of images done; raises ``Interrupted`` if the run is to stop."""
        rate = done / max(time.monotonic() - self._started, 1e-9)
        self.reporter.advanced(done, {}, rate)
        self.beat()
        self.stop.check()
