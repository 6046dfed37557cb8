"""The ``[run]`` table of a recipe; the command line derives its flags from the same signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Interval
from attrs import frozen

from uldm_core.protocols import Tracker
from uldm_core.spec.annotations import Matches

if TYPE_CHECKING:
    from uldm_core.spec.component_spec import ComponentSpec

MOST_THREADS = 1024
_SECONDS = {"s": 1, "min": 60, "h": 3600}
Duration = Annotated[str, Matches(r"(?=.*[1-9])[0-9]+(\.[0-9]+)? *(s|min|h)", "'90 s', '2 min' or '1 h'")]


@frozen
class CheckpointPolicy:
    """When a training saves its state, and which checkpoints stay.

    Args:
        every: so many steps, or a time: ``90 s``, ``2 min``, ``1 h``; a time grows as saving takes long.
        keep: how many of the last ones stay.
        best: a logged value, ``loss`` or ``STAGE.loss``: the checkpoint where it is lowest stays as well.
    """

    every: Annotated[int, Ge(1)] | Duration = "30 s"
    keep: Annotated[int, Ge(1)] = 2
    best: str = ""

    @property
    def steps(self) -> int:
        """The steps from one to the next, 0 if it is a time."""
        return self.every if isinstance(self.every, int) else 0

    @property
    def seconds(self) -> float:
        """The seconds from one to the next, 0 if it is a number of steps."""
        if isinstance(self.every, int):
            return 0.0
        unit = self.every.lstrip("0123456789. ")
        return float(self.every.removesuffix(unit)) * _SECONDS[unit]


@frozen
class RunOptions:
    """The ``[run]`` table: where and how a recipe runs; none but ``on_nan`` changes what is computed.

    Args:
        device: where it runs: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ...; ``auto`` takes CUDA, then MPS,
            then the CPU.
        precision: what networks multiply in; ``auto`` takes bfloat16 where the hardware multiplies it.
        threads: CPU threads; 0 leaves torch's own choice.
        compile: compile the trained networks with ``torch.compile``.
        deterministic: on a GPU, train with algorithms that give the same bits each time, so that a training
            that is cut ends exactly as one that is not. On a CPU all do.
        out: the run's folder; empty for ``runs/<name of the recipe's file>``.
        checkpoint: when a training saves its state, and which checkpoints stay.
        on_nan: what a training does whose numbers are no longer finite: it stops, or it goes back to its last
            checkpoint and on from there with half the learning rate, three times at most.
        trackers: that are notified of the run, beside those that always are; component specs.
    """

    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Annotated[int, Interval(ge=0, le=MOST_THREADS)] = 0
    compile: bool = False
    deterministic: bool = False
    out: str = ""
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    on_nan: Literal["stop", "rollback"] = "stop"
    trackers: Sequence[Tracker] = ()

    @property
    def tracker_specs(self) -> list[ComponentSpec]:
        """The specs of the listed trackers."""
        from uldm_core.spec.component_spec import ComponentSpec

        return [spec for spec in self.trackers if isinstance(spec, ComponentSpec)]
