"""The ``[run]`` table: where and how a recipe runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Interval
from attrs import frozen

from uldm_core.protocols import Tracker
from uldm_core.spec.component_spec import ComponentSpec


@frozen
class RunOptions:
    """The ``[run]`` table; nothing in it changes what is computed.

    Args:
        device: ``auto`` takes CUDA, then MPS, then the CPU.
        precision: ``auto`` takes bfloat16 where the processor multiplies it in hardware.
        threads: CPU threads; 0 leaves torch's own choice.
        compile: compile the trained networks with ``torch.compile``.
        out: the run's folder; empty for ``runs/<name of the recipe's file>``.
        trackers: those that log the run, beside those that always do; specs, once they are validated.
    """

    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Annotated[int, Interval(ge=0, le=1024)] = 0
    compile: bool = False
    out: str = ""
    trackers: Sequence[Tracker] = ()

    @property
    def tracker_specs(self) -> list[ComponentSpec]:
        """The specs of the listed trackers."""
        return [spec for spec in self.trackers if isinstance(spec, ComponentSpec)]
