"""The training loop: one for every trainer."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from attrs import define, field
from torch import Tensor

from uldm_core.component import say_failure
from uldm_core.engine.context import Context
from uldm_core.engine.randomness import derive, seeded
from uldm_core.errors import RunError
from uldm_core.protocols import Trainer

LOG_EVERY_STEPS = 10
CHECKPOINT_EVERY_SECONDS = 120.0


def train(trainer: Trainer, context: Context) -> Mapping[str, float]:
    """Run a trainer from its last checkpoint, or from the start, to its last step.

    Nothing in a step waits for the device: metrics are read every ``LOG_EVERY_STEPS`` steps.

    Raises:
        Interrupted: the run was asked to stop; the state is saved.
        RunError: a metric is not finite.
    """
    trainer.prepare(context)
    step = _resume(trainer, context)
    context.goes_on(step, trainer.steps)
    context.begin("training steps", trainer.steps, step)
    log = _Log(context, trainer.batch_size, step)
    previews = _preview_steps(trainer)
    saved_at = time.monotonic()
    while step < trainer.steps:
        torch.manual_seed(derive(context.seed, context.name, step))
        metrics = trainer.step(step)
        step += 1
        if step % LOG_EVERY_STEPS == 0 or step == trainer.steps:
            log.write(step, metrics)
        if step in previews and not _preview(trainer, context, step):
            previews.clear()
        due = time.monotonic() - saved_at > CHECKPOINT_EVERY_SECONDS
        if due or step == trainer.steps or context.stop.signum:
            _save(trainer, context, step)
            saved_at = time.monotonic()
            context.stop.check()
    return trainer.finish()


def _resume(trainer: Trainer, context: Context) -> int:
    step = context.folder.checkpoint() or 0
    if step:
        context.folder.restore(step, trainer.stateful())
    return step


def _preview_steps(trainer: Any) -> set[int]:
    """Return after which steps a trainer shows itself: evenly over the training, the last one among them."""
    count = trainer.previews if hasattr(trainer, "preview") else 0
    return {-(-trainer.steps * place // count) for place in range(1, count + 1)}


def _preview(trainer: Any, context: Context, step: int) -> bool:
    """Have a trainer show itself; return whether it could. Training goes on with the same numbers."""
    try:
        with seeded(context.seed, context.name, "preview", step):
            trainer.preview(step)
    except Exception as error:
        what = f"stages.{context.name} trains on without previews: {say_failure(error)}"
        context.reporter.message(f"warning: {what}")
        return False
    return True


def _save(trainer: Trainer, context: Context, step: int) -> None:
    state = {name: part.state_dict() for name, part in trainer.stateful().items()}
    context.folder.write_checkpoint(step, state)


@define
class _Log:
    """Tells the metrics to trackers and the reporter; refuses to go on with numbers that are none."""

    context: Context
    batch_size: int
    last_step: int
    last_time: float = field(factory=time.monotonic)

    def write(self, step: int, metrics: Mapping[str, Tensor]) -> None:
        values = _read(metrics)
        now = time.monotonic()
        rate = (step - self.last_step) * self.batch_size / max(now - self.last_time, 1e-9)
        self.last_step, self.last_time = step, now
        self.context.log(step, {**values, "images_per_second": round(rate, 1)})
        for name, value in values.items():
            if not math.isfinite(value):
                raise RunError(
                    f"stages.{self.context.name}: {name} is {value} at step {step}",
                    hint="a lower learning rate, or precision float32, usually helps; "
                    "the last checkpoint is kept",
                )
        self.context.reporter.advanced(step, values, rate)


def _read(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Fetch all scalars from the device at once."""
    if not metrics:
        return {}
    stacked = torch.stack([value.detach().float().reshape(()) for value in metrics.values()])
    return dict(zip(metrics, stacked.tolist()))
