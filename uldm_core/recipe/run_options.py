"""The ``[run]`` table of a recipe; the command line derives its flags from the same signature."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Interval
from attrs import frozen

from uldm_core.protocols import Tracker
from uldm_core.spec.component_spec import ComponentSpec

MOST_THREADS = 1024


@frozen
class RunOptions:
    """The ``[run]`` table: where and how a recipe runs; nothing in it changes what is computed.

    Args:
        device: where it runs: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ...; ``auto`` takes CUDA, then MPS,
            then the CPU.
        precision: what networks multiply in; ``auto`` takes bfloat16 where the hardware multiplies it.
        threads: CPU threads; 0 leaves torch's own choice.
        compile: compile the trained networks with ``torch.compile``.
        out: the run's folder; empty for ``runs/<name of the recipe's file>``.
        trackers: that are notified of the run, beside those that always are; component specs.
    """

    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Annotated[int, Interval(ge=0, le=MOST_THREADS)] = 0
    compile: bool = False
    out: str = ""
    trackers: Sequence[Tracker] = ()

    @property
    def tracker_specs(self) -> list[ComponentSpec]:
        """The specs of the listed trackers."""
        return [spec for spec in self.trackers if isinstance(spec, ComponentSpec)]
