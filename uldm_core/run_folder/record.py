"""What is known of a stage's result: its key, its record, and what was adjusted on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Lt
from attrs import field, frozen

from uldm_core.errors import Key, MistakeError, must_match
from uldm_core.recipe.compare import differences
from uldm_core.spec.structure import structure

if TYPE_CHECKING:
    Number = float
else:
    Number = Real  # infinity and nan too
Steps = Annotated[int, Ge(0), Lt(1 << 53)]


@frozen
class StageKey:
    """What a stage's result depends on: a hash of everything but its number of steps, and that number.

    ``made_of`` is what was hashed, and the ``code``, to tell what has changed; and the names of classes.
    ``adjustable`` are the stage's options whose numbers may change in mid-training.
    """

    content: str = field(validator=must_match(r"[0-9A-Za-z]{1,128}", like="0a1b2c3d4e5f6071"))
    steps: Steps = 0
    made_of: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)
    adjustable: Sequence[str] = field(default=(), eq=False, repr=False)

    def __str__(self) -> str:
        return f"{self.content}-{self.steps}" if self.steps else self.content

    @property
    def code(self) -> Mapping[str, str]:
        """Digests of the source files that the stage depends on; none in keys of earlier versions."""
        found: Mapping[str, str] = self.made_of.get("code", {})
        return found

    def same_work(self, other: StageKey) -> bool:
        """Whether results are the same but for the number of steps; code counts where both know theirs."""
        return self.content == other.content and (self.code == other.code or not (self.code and other.code))

    def same(self, other: StageKey) -> bool:
        """Whether the results are the same."""
        return self.steps == other.steps and self.same_work(other)

    def changes(self, earlier: StageKey) -> dict[Key, tuple[object, object]]:
        """Return what differs from an earlier key: old and new value; None for one that is not there."""
        found = {each.key: (each.left, each.right) for each in differences(earlier.made_of, self.made_of)}
        found = {key: pair for key, pair in found.items() if key[:1] != ("class_names",)}
        return {key: pair for key, pair in found.items() if earlier.code or key[:1] != ("code",)}

    def adjustments(self, earlier: StageKey) -> dict[Key, tuple[object, object]]:
        """Return what differs from an earlier key, if a training can go on with it; else nothing."""
        changes = self.changes(earlier)
        options = {("stage", option) for option in self.adjustable}
        may = (key[:2] in options and _numbers(*values) for key, values in changes.items())
        return changes if all(may) else {}


def _numbers(old: object, new: object) -> bool:
    """Whether both are numbers, or as many numbers: these leave an optimizer's state as it is."""
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_numbers, old, new))
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (old, new))


@frozen
class Adjustment:
    """Options of a stage that were changed after a step of its training: old and new value of each."""

    step: Steps
    options: dict[str, tuple[Any, Any]]


def adjusted_from(step: int, adjusted: Sequence[Adjustment]) -> list[Adjustment]:
    """Return the adjustments of a training that goes on from a step: what was later is from there on now."""
    kept = [each for each in adjusted if each.step <= step]
    options: dict[str, tuple[Any, Any]] = {}
    for each in adjusted[len(kept) :]:
        for option, (old, new) in each.options.items():
            options[option] = options.get(option, (old,))[0], new
    if not step:  # from its start, it is none
        return []
    return [*kept, Adjustment(step, options)] if options else kept


@frozen
class StageRecord:
    """The content of ``stage.json``.

    Args:
        key: what its result depends on.
        done: whether the result is there.
        seconds: the time that it took.
        summary: the numbers that the stage returned.
        files: the size in bytes of each file of the result, by its path in the folder.
        digests: of the content of each of these files, and of the log and the images beside them; none in
            records of earlier versions.
        used: the digest of each product of earlier stages that it was made of, by the product's name.
        published: the artifacts of which there are copies in the run's own folder.
    """

    key: StageKey
    done: bool = False
    seconds: Annotated[float, Ge(0)] = 0.0
    summary: dict[str, Number] = field(factory=dict)
    files: dict[str, int] = field(factory=dict)
    digests: dict[str, str] = field(factory=dict)
    used: dict[str, str] = field(factory=dict)
    published: list[str] | None = None
    adjusted: list[Adjustment] = field(factory=list)


_MADE_OF = {
    **dict.fromkeys(("stage", "nouns"), dict[str, object]),
    **dict.fromkeys(("from", "weights", "sources", "code"), dict[str, str]),
    "class_names": dict[str, list[str]],
}


def record_of(data: dict[str, Any]) -> StageRecord:
    """Return the record of a ``stage.json``; raises an error of ``MISREAD`` if it is none."""
    try:
        record: StageRecord = structure(data, StageRecord)
        for name, wanted in _MADE_OF.items():
            structure(record.key.made_of.get(name, {}), wanted, ("made_of", name))
    except MistakeError as error:
        raise ValueError(str(error)) from error
    return record
