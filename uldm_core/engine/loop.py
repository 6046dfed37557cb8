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
from uldm_core.engine.finite import not_finite
from uldm_core.engine.randomness import derive, seeded
from uldm_core.errors import DataError, RunError
from uldm_core.protocols import Adjustable, OneShotStage, Previewing, Trainer, is_trainer
from uldm_core.registry.component import format_failure

LOG_EVERY_STEPS = 10
CHECKPOINT_EVERY_SECONDS = 120.0


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
    state = _State(trainer, context)
    step = state.resume()
    context.resume(step, trainer.steps)
    context.begin("training steps", trainer.steps, step)
    log = _Log(state, step)
    previews = _preview_steps(trainer)
    saved_at = time.monotonic()
    while step < trainer.steps:
        torch.manual_seed(derive(context.seed, context.name, step))
        try:
            log.take(step + 1, trainer.step(step, context))
        except DataError as error:
            log.check()
            raise state.without_data(error, step) from error
        step += 1
        if step % LOG_EVERY_STEPS == 0 or step == trainer.steps:
            log.write()
        if step in previews and not _preview(trainer, context, step):
            previews = set()
        due = time.monotonic() - saved_at > CHECKPOINT_EVERY_SECONDS
        if due or step == trainer.steps or context.stop.signum:
            log.check()
            state.save(step)
            saved_at = time.monotonic()
            context.stop.check()
    return trainer.finish(context)


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
        context.reporter.message(f"warning: {what}")
        return False
    return True


@define
class _State:
    """A trainer's state and its checkpoints: one that is not finite is neither saved nor loaded.

    What is not finite before the first step (a mask of -inf, say) may stay so.
    """

    trainer: Trainer
    context: Context
    saved: int = field(default=0, init=False)
    never_finite: frozenset[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.never_finite = frozenset(not_finite(self._read()))

    def resume(self) -> int:
        """Load the last checkpoint and return its step, 0 without one; ``RunError`` if it is not finite."""
        folder = self.context.folder
        self.saved = folder.checkpoints.last() or 0
        if self.saved:
            state = folder.checkpoints.load(self.saved)
            if bad := self._bad(state):
                what = f"{bad} is not finite in the checkpoint of step {self.saved}"
                hint = f"remove {folder.checkpoints.path} and run again: it begins at step 0"
                raise RunError(f"stages.{self.context.name}: {what}", hint=hint)
            folder.checkpoints.restore(self.saved, state, self.trainer.stateful())
        return self.saved

    def save(self, step: int) -> None:
        """Write a checkpoint; raises ``RunError`` if the state is not finite."""
        state = self._read()
        if bad := self._bad(state):
            first = self.saved + 1
            when = f"at step {step}" if first >= step else f"at a step from {first} to {step}"
            raise self.not_finite_error(f"{bad} became nan or infinite {when}")
        self.context.folder.checkpoints.save(step, state)
        self.saved = step

    def not_finite_error(self, what: str) -> RunError:
        """Return the error of a state that is not finite, with what to do."""
        exact = self.context.run_device.precision is torch.float32
        means = "a lower learning rate" if exact else "a lower learning rate, or precision float32,"
        if not self.saved:
            then = "there is no checkpoint yet, so `uldm run` begins at step 0"
        elif isinstance(self.trainer, Adjustable):
            then = f"`uldm run` resumes with it from the checkpoint of step {self.saved}"
        else:
            other = "" if exact else f", with another precision from the checkpoint of step {self.saved}"
            then = f"with other options `uldm run` begins at step 0{other}"
        what = f"stages.{self.context.name}: {what}; this state is not saved"
        return RunError(what, hint=f"{means} usually helps; {then}")

    def without_data(self, error: DataError, step: int) -> RunError:
        """Save the state after ``step`` steps, and return the error of the next one's data."""
        if step > self.saved:
            self.save(step)
        then = f"the state is saved; with the data as it was, `uldm run` resumes from step {step}"
        hint = then if step else "nothing was trained yet"
        return RunError(f"stages.{self.context.name}: step {step + 1}: {error}", hint=hint)

    def _read(self) -> dict[str, object]:
        return {name: part.state_dict() for name, part in self.trainer.stateful().items()}

    def _bad(self, state: Mapping[str, object]) -> str:
        """Return the name of the first tensor that is not finite and should be, or nothing."""
        return next((name for name in not_finite(state) if name not in self.never_finite), "")


@define
class _Log:
    """Passes metrics to trackers and the reporter; raises an error of one that is not finite."""

    state: _State
    last_step: int
    last_time: float = field(factory=time.monotonic)
    unread: list[tuple[int, dict[str, Tensor]]] = field(factory=list)

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

    def check(self) -> None:
        """Raise ``RunError`` if a metric since the last time is not finite."""
        self._check(self._read())

    def _check(self, read: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        for step, values in read:
            for name, value in values.items():
                if not math.isfinite(value):
                    raise self.state.not_finite_error(f"{name} is {value} at step {step}")

    def _read(self) -> list[tuple[int, dict[str, float]]]:
        """Fetch all scalars from the device at once."""
        scalars = [value.float().reshape(()) for _, metrics in self.unread for value in metrics.values()]
        numbers = iter(torch.stack(scalars).tolist() if scalars else ())
        read = [(step, {name: next(numbers) for name in metrics}) for step, metrics in self.unread]
        self.unread.clear()
        return read
