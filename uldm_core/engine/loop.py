"""The training loop: one for every trainer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from attrs import define, field
from torch import Tensor

from uldm_core.engine.context import Context
from uldm_core.engine.randomness import seeded
from uldm_core.engine.replay import first_not_finite, take_step
from uldm_core.engine.training_state import NotFiniteError, TrainingState
from uldm_core.errors import DataError, RunError
from uldm_core.protocols import Diagnosing, OneShotStage, Previewing, Trainer, is_trainer
from uldm_core.registry.component import format_failure

LOG_EVERY_STEPS = 10
DIAGNOSE_EVERY_STEPS = 100


def do_stage(stage: Trainer | OneShotStage, context: Context) -> Mapping[str, float]:
    """Train, or do a stage that is done in one go, and return its summary; raises what ``train`` does."""
    if is_trainer(stage):
        return train(stage, context)
    context.resume(0, 0)
    return stage.run(context)


def train(trainer: Trainer, context: Context) -> Mapping[str, float]:
    """Run a trainer from its last checkpoint, or from the start, to its last step.

    Nothing in a step waits for the device: metrics are read every ``LOG_EVERY_STEPS`` steps, those of the
    steps between as well, and the state is checked whenever it is saved.

    Raises:
        Interrupted: the run was asked to stop; the state is saved.
        RunError: a metric or the state is not finite, or the dataset failed.
    """
    trainer.prepare(context)
    state = TrainingState(trainer, context)
    step = state.resume()
    while True:
        try:
            _train_from(step, trainer, context, state)
            break
        except NotFiniteError as error:
            if not state.may_roll_back():
                where = first_not_finite(trainer, context, state, error.step)
                raise state.error(error.what, where) from None
            step = state.roll_back(error)
    lowered = {"rate_factor": state.rate_factor} if state.rate_factor < 1 else {}
    return {**trainer.finish(context), **lowered}


def _train_from(step: int, trainer: Trainer, context: Context, state: TrainingState) -> None:
    """Do the steps after the first ``step``; raises what ``train`` does, and ``NotFiniteError``."""
    context.resume(step, trainer.steps)
    state.check_logs()
    context.begin("training steps", trainer.steps, step)
    log = _Log(state, step)
    previews = _preview_steps(trainer)
    while step < trainer.steps:
        try:
            log.take(step + 1, take_step(trainer, context, step))
        except DataError as error:
            raise _without_data(error, step, log, state) from error
        step += 1
        last = step == trainer.steps
        if step % LOG_EVERY_STEPS == 0 or last:
            log.write()
        if step in previews and not _preview(trainer, context, step):
            previews = set()
        if isinstance(trainer, Diagnosing) and (step % DIAGNOSE_EVERY_STEPS == 0 or last):
            for what, fix in trainer.diagnose(context.curves):
                context.warn(f"stages.{context.name}: {what}", fix)
        if last or context.stop.requested or state.due(step):
            state.save(step, log.check())
            context.stop.check()


def _without_data(error: DataError, step: int, log: _Log, state: TrainingState) -> RunError:
    """Save the state after ``step`` steps, and return the error of the next one's data."""
    values = log.check()
    if step > state.saved:
        state.save(step, values)
    then = f"the state is saved; with the data as it was, `uldm run` resumes from step {step}"
    hint = then if step else "nothing was trained yet"
    return RunError(f"stages.{state.context.name}: step {step + 1}: {error}", hint=hint)


def _preview_steps(trainer: Trainer) -> set[int]:
    """Return the steps after which a trainer shows previews: evenly spaced, the last step among them."""
    count = trainer.previews if isinstance(trainer, Previewing) else 0
    return {-(-trainer.steps * place // count) for place in range(1, count + 1)}


def _preview(trainer: Any, context: Context, step: int) -> bool:
    """Have a trainer show a preview; return whether it could. Training continues with the same numbers."""
    try:
        with seeded(context.seed, context.name, "preview", step):
            trainer.preview(step, context)
    except Exception as error:
        what = f"stages.{context.name} trains on without previews: {format_failure(error)}"
        context.warn(what)
        return False
    return True


@define
class _Log:
    """Passes metrics to trackers and the reporter; raises an error of one that is not finite."""

    state: TrainingState
    last_step: int
    last_time: float = field(factory=time.monotonic)
    unread: list[tuple[int, dict[str, Tensor]]] = field(factory=list)
    values: dict[str, float] = field(factory=dict)

    def take(self, step: int, metrics: Mapping[str, Tensor]) -> None:
        """Keep a step's metrics until they are read, without their graphs and so without its memory."""
        self.unread.append((step, {name: value.detach() for name, value in metrics.items()}))

    def write(self) -> None:
        """Log the metrics of the last step; check those of all steps since the last time."""
        read = self._read()
        step, values = read[-1]
        now = time.monotonic()
        rate = (step - self.last_step) * self.state.trainer.batch_size / max(now - self.last_time, 1e-9)
        self.last_step, self.last_time = step, now
        self.state.context.log(step, {**values, "images_per_second": round(rate, 1)})
        self._check(read)
        self.state.context.reporter.advanced(step, values, rate)

    def check(self) -> Mapping[str, float]:
        """Return the last step's metrics; raises ``NotFiniteError`` if one since the last time is not."""
        self._check(self._read())
        return self.values

    def _check(self, read: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        for step, values in read:
            for name, value in values.items():
                if not math.isfinite(value):
                    raise NotFiniteError(f"{name} is {value} at step {step}", step)
            self.values = dict(values)

    def _read(self) -> list[tuple[int, dict[str, float]]]:
        """Fetch all scalars from the device at once."""
        scalars = [value.float().reshape(()) for _, metrics in self.unread for value in metrics.values()]
        numbers = iter(torch.stack(scalars).tolist() if scalars else ())
        read = [(step, {name: next(numbers) for name in metrics}) for step, metrics in self.unread]
        self.unread.clear()
        return read
