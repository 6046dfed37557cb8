"""How samples are drawn, as a stage ``tune`` chose it, and drawing in that way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from math import inf
from pathlib import Path
from typing import Any, TypeVar

from attrs import asdict, field, fields, frozen
from attrs.validators import and_, ge, instance_of, lt, optional
from torch import Tensor

from uldm_core.errors import RunError, listing
from uldm_core.protocols import Denoiser, Guidance, HasSteps, HasWeight, Sampler
from uldm_core.run_folder.files import read_json, write_json
from uldm_plugins.stages.guided import WEAKER, all_averages, with_weights

T = TypeVar("T")
TUNED = "tuned.json"
"""The artifact of what a stage ``tune`` chose."""
TRAINED = "trained"
"""The name of the weights that the training left in the denoiser, whatever average they are."""


def _rising(self: object, attribute: object, value: Any) -> None:
    if value is None:
        return
    numbers = isinstance(value, tuple) and len(value) == 2 and all(isinstance(n, (int, float)) for n in value)
    if not numbers or not 0 <= value[0] <= value[1] < inf:
        raise ValueError(f"'interval' must be two numbers from 0 up, the second not below: {value}")


def _tuple_of(value: Any) -> tuple[float, float] | None:
    found: tuple[float, float] | None = tuple(value) if isinstance(value, list) else value
    return found


@frozen
class Choice:
    """How samples are drawn.

    Args:
        guidance: its class's name.
        sampler: its class's name.
        weight: of the guidance; None if it has none.
        interval: the noise levels in which the guidance acts; None is everywhere.
        average: the average of the denoiser's weights.
        steps: of the sampler; None if it has none.
    """

    guidance: str = ""
    sampler: str = ""
    weight: float | None = field(
        default=None, validator=optional(and_(instance_of((int, float)), ge(0), lt(inf)))
    )
    interval: tuple[float, float] | None = field(default=None, converter=_tuple_of, validator=_rising)
    average: str = field(default=TRAINED, validator=instance_of(str))
    steps: int | None = field(default=None, validator=optional(and_(instance_of(int), ge(1))))

    @classmethod
    def of(cls, guidance: Guidance, sampler: Sampler) -> Choice:
        """Return how samples are drawn with a guidance and a sampler as they are."""
        weighted = guidance if isinstance(guidance, HasWeight) else None
        return cls(
            guidance=type(guidance).__name__,
            sampler=type(sampler).__name__,
            weight=weighted.weight if weighted else None,
            interval=weighted.interval if weighted else None,
            steps=sampler.steps if isinstance(sampler, HasSteps) else None,
        )

    def __str__(self) -> str:
        return ", ".join(self._described())

    def _described(self) -> Iterator[str]:
        if self.weight is not None:
            yield f"weight {self.weight:g}"
        if self.interval is not None:
            yield "noise levels {:g} to {:g}".format(*self.interval)
        yield f"average {self.average!r}"
        if self.steps is not None:
            yield f"{self.steps} steps"

    @property
    def numbers(self) -> dict[str, float]:
        """What of it are numbers, by name."""
        low, high = self.interval or (None, None)
        found = {"weight": self.weight, "interval_from": low, "interval_to": high, "steps": self.steps}
        return {name: float(value) for name, value in found.items() if value is not None}

    def guided(self, guidance: Guidance) -> Guidance:
        """Return the guidance with this weight and interval.

        Raises:
            RunError: it is another one than the weight was chosen for.
        """
        if self.weight is None:
            return guidance
        _require_same("guidance", self.guidance, guidance)
        return _with(guidance, weight=self.weight, interval=self.interval)

    def sampled(self, sampler: Sampler) -> Sampler:
        """Return the sampler with so many steps.

        Raises:
            RunError: it is another one than they were chosen for.
        """
        if self.steps is None:
            return sampler
        _require_same("sampler", self.sampler, sampler)
        return _with(sampler, steps=self.steps)

    def averaged(self, denoiser: Denoiser, products: Mapping[str, Path]) -> Denoiser:
        """Return the denoiser with this average of its weights.

        Raises:
            RunError: its training has kept no such average.
        """
        if self.average == TRAINED:
            return denoiser
        kept = kept_averages(products, denoiser)
        if self.average not in kept:
            others = listing([TRAINED, *kept])
            raise RunError(f"the training kept no average {self.average!r}", hint=f"there are: {others}")
        return with_weights(denoiser, kept[self.average])


def _require_same(what: str, chosen_for: str, given: object) -> None:
    if type(given).__name__ != chosen_for:
        raise RunError(
            f"{TUNED} was chosen for the {what} {chosen_for}, and this stage has {type(given).__name__}",
            hint=f"give both stages the same: a table [{what}] at the top of the recipe",
        )


def _with(component: T, **values: object) -> T:
    """Return a copy of a component with other values of its options; also of one that is frozen."""
    other = copy(component)
    for name, value in values.items():
        object.__setattr__(other, name, value)
    return other


def kept_averages(products: Mapping[str, Path], of: Denoiser | None = None) -> dict[str, Sequence[Tensor]]:
    """Return the averages that were kept of a denoiser, the weaker one aside: its parameters, by name."""
    found = all_averages(products, of)
    found.pop(WEAKER, None)
    return {name: found[name] for name in sorted(found)}


def write_tuned(path: Path, choice: Choice, **more: object) -> None:
    """Write a choice, and what else a person may want to know of it."""
    write_json(path, {**asdict(choice), **more})


def read_tuned(path: Path) -> Choice:
    """Read what ``write_tuned`` wrote.

    Raises:
        MistakeError: the file is missing, damaged, or was changed to what cannot be.
    """
    return read_json(path, choice_from) or Choice()


def choice_from(value: Any) -> Choice:
    """Return a choice from JSON; raises ``ValueError`` or ``TypeError`` for what is none."""
    if not isinstance(value, dict):
        raise TypeError("it holds no choice")
    return Choice(**{one.name: value[one.name] for one in fields(Choice) if one.name in value})
