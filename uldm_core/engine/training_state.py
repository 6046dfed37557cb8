"""The state of a training: saved, loaded and taken back; one that is not finite is neither."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from attrs import define, field
from torch import Tensor

from uldm_core.engine.context import Context
from uldm_core.engine.finite import not_finite
from uldm_core.errors import RunError, listing
from uldm_core.protocols import Adjustable, RateScaled, Trainer
from uldm_core.run_folder.checkpoint import Checkpoints

MOST_OF_THE_TIME = 0.02
"""The largest share of a training's time that saving takes where ``[run] checkpoint`` gives a time."""
MOST_ROLLBACKS = 3
_RATE = "rate_factor"


class NotFiniteError(Exception):
    """A number of a training is no longer finite.

    Args:
        what: which, and when.
        step: after so many steps it is so.
    """

    def __init__(self, what: str, step: int) -> None:
        self.what, self.step = what, step
        super().__init__(what)


@define
class TrainingState:
    """A trainer's state and its checkpoints.

    What is not finite before the first step (a mask of -inf, say) may stay so. Until there is a checkpoint
    the state of the start is kept in memory, to go back to.
    """

    trainer: Trainer
    context: Context
    saved: int = field(default=0, init=False)
    rate_factor: float = field(default=1.0, init=False)
    never_finite: frozenset[str] = field(init=False)
    start: Any = field(init=False)
    _void: list[int] = field(factory=list, init=False)
    _saved_at: float = field(factory=time.monotonic, init=False)
    _seconds: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        state = self._read()
        self.never_finite = frozenset(not_finite(state))
        self.start = None if self._checkpoints.steps() else _copied(state)

    def resume(self) -> int:
        """Load the last checkpoint that is whole and finite, and return its step; 0 if there is none."""
        found = self._checkpoints.newest(self._warn, self._flaw)
        self.saved, state = found or (0, None)
        self._void = [step for step in self._checkpoints.steps() if step > self.saved]
        if found:
            self._checkpoints.restore(self.saved, state, self.trainer.stateful())
            self._scale_rates(self._checkpoints.notes(self.saved).get(_RATE, 1.0))
            if not self._void:  # what a crash after the last save has left
                self._prune()
        return self.saved

    def check_logs(self) -> None:
        """Warn of files of the log that are not as they were when the checkpoint was saved."""
        for path in self.context.folder.changed_logs(self._checkpoints.logged(self.saved)):
            self._warn(f"{path} has changed since step {self.saved} was saved: it is not made again")

    def rewind(self) -> int:
        """Go back to the last checkpoint, or to the start, and return its step."""
        factor = self.rate_factor
        if not self.resume() and self.start is not None:
            for name, part in self.trainer.stateful().items():
                part.load_state_dict(_copied(self.start[name]))
        self._scale_rates(factor)
        return self.saved

    def may_roll_back(self) -> bool:
        """Whether the training goes on from its last checkpoint when a number is no longer finite."""
        left = self.rate_factor > 0.5**MOST_ROLLBACKS
        wanted = self.context.options.on_nan == "rollback"
        there = self.start is not None or bool(self._checkpoints.steps())
        return wanted and left and there and bool(self._scaled())

    def roll_back(self, error: NotFiniteError) -> int:
        """Go back, halve the learning rates and return the step."""
        self.rate_factor /= 2
        step = self.rewind()
        rate = f"the learning rate times {self.rate_factor:g}"
        self._warn(f"{error.what}: the training goes back to step {step}, with {rate}")
        self.context.event("rolled_back", step=error.step, to=step, factor=self.rate_factor, what=error.what)
        return step

    def due(self, step: int) -> bool:
        """Whether the state after ``step`` steps is to be saved."""
        policy = self.context.options.checkpoint
        if policy.steps:
            return step % policy.steps == 0
        since = time.monotonic() - self._saved_at
        return since > max(policy.seconds, self._seconds / MOST_OF_THE_TIME)

    def save(self, step: int, values: Mapping[str, float]) -> None:
        """Write a checkpoint, and remove those that are not to be kept.

        Args:
            step: so many are done.
            values: the metrics of the last one.

        Raises:
            NotFiniteError: the state is not finite.
        """
        began = time.monotonic()
        state = self._read()
        if bad := self._bad(state):
            first = self.saved + 1
            when = f"at step {step}" if first >= step else f"at a step from {first} to {step}"
            raise NotFiniteError(f"{bad} became nan or infinite {when}", step)
        best = self._best()
        notes = {best: values[best]} if best in values else {}
        if self.rate_factor < 1:
            notes[_RATE] = self.rate_factor
        self._checkpoints.save(step, state, notes, self.context.folder.logged())
        self._prune()
        self.saved, self._void, self.start = step, [], None
        self._saved_at = time.monotonic()
        self._seconds = self._saved_at - began
        self.context.event("checkpoint", step=step, seconds=round(self._seconds, 3))
        if best and best not in values:
            known = listing(list(values))
            self._warn(f"no {best!r} is logged, so no checkpoint is kept as the best; logged are {known}")

    def bad(self) -> str:
        """Return the name of the first tensor that is not finite and should be, or nothing."""
        return self._bad(self._read())

    def error(self, what: str, first: str = "") -> RunError:
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
        where = f"; it begins in {first}" if first else ""
        what = f"stages.{self.context.name}: {what}{where}; this state is not saved"
        return RunError(what, hint=f"{means} usually helps; {then}")

    @property
    def _checkpoints(self) -> Checkpoints:
        return self.context.folder.checkpoints

    def _best(self) -> str:
        """Return the logged value of which the lowest is best in this stage; empty if there is none."""
        stage, dot, name = self.context.options.checkpoint.best.partition(".")
        if not dot:
            return stage
        return name if stage == self.context.name else ""

    def _prune(self) -> None:
        self._checkpoints.prune(self.context.options.checkpoint.keep, self._best(), self._void)

    def _scaled(self) -> list[RateScaled]:
        return [part for part in self.trainer.stateful().values() if isinstance(part, RateScaled)]

    def _scale_rates(self, factor: float) -> None:
        """Have the optimizers multiply their learning rates by a factor, a half to the power of 0 to 3."""
        powers = [0.5**times for times in range(MOST_ROLLBACKS + 1)]
        self.rate_factor = factor if factor in powers else 1.0
        for part in self._scaled():
            part.rate_factor = self.rate_factor

    def _warn(self, what: str) -> None:
        self.context.warn(f"stages.{self.context.name}: {what}")

    def _read(self) -> dict[str, object]:
        return {name: part.state_dict() for name, part in self.trainer.stateful().items()}

    def _bad(self, state: Mapping[str, object]) -> str:
        return next((name for name in not_finite(state) if name not in self.never_finite), "")

    def _flaw(self, state: Any) -> str:
        bad = self._bad(state)
        return f"{bad} is not finite" if bad else ""


def _copied(value: Any) -> Any:
    """Return a nested state with a copy of each tensor, in the memory of the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {name: _copied(item) for name, item in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value
