"""What went wrong, where, and how to mend it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from attrs import evolve, frozen

Key = tuple[str | int, ...]


def dotted(key: Key) -> str:
    """Write a key as a person would: ``('stages', 'first', 'losses', 0)`` -> ``stages.first.losses[0]``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@frozen
class Where:
    """A place: a key of a recipe and, where it came from a file, the file and line."""

    key: Key = ()
    source: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = self.source or ""
        if self.line is not None:
            place += f":{self.line}"
        return ": ".join(part for part in (place, dotted(self.key)) if part)


@frozen
class Problem:
    """One thing that is wrong, the place of it, and the mend if there is one to name.

    A ``warning`` keeps nothing from running.
    """

    where: Where
    what: str
    hint: str = ""
    warning: bool = False

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if str(self.where) else self.what
        return f"{text}\n    {self.hint}" if self.hint else text

    def within(self, key: Key) -> Problem:
        """Return the same problem, seen from a place ``key`` further out."""
        return evolve(self, where=evolve(self.where, key=key + self.where.key))


class UldmError(Exception):
    """A mistake a person can mend. Carries one or more problems; never shown as a traceback."""

    def __init__(self, *problems: Problem | str, hint: str = "") -> None:
        self.problems: tuple[Problem, ...] = tuple(
            Problem(Where(), problem, hint) if isinstance(problem, str) else problem for problem in problems
        )
        super().__init__(*self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class MistakeError(UldmError):
    """A mistake in a recipe, a command or a call: exit code 2."""


class RunError(UldmError):
    """Something failed while running: exit code 1."""


class UnavailableError(ValueError):
    """What a component needs is neither here nor to be had now: files, the network, an optional package.

    A component raises it where it is built, saying what is wanted and where to put it. Nothing is wrong with
    the component: checks pass over it, and say so.
    """


def is_unavailable(error: BaseException) -> bool:
    """Return whether an error, or a cause of it, says that what a component needs is not here."""
    cause = error.__cause__
    return isinstance(error, UnavailableError) or (cause is not None and is_unavailable(cause))


def must_match(pattern: str, like: str) -> Callable[[Any, Any, Any], None]:
    """Return a validator of an attrs field: a string that the pattern matches whole, such as ``like``."""

    def validate(instance: object, attribute: Any, value: Any) -> None:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"{attribute.name} must be such as {like!r}, got {value!r}")

    return validate


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three of ``known`` that ``name`` may be a slip of, the likeliest first.

    One that is much likelier than the others stands alone.
    """
    folded = {other.casefold(): other for other in known}
    cutoff = 0.6 if len(name) > 3 else 0.5
    near = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=cutoff)
    likeness = [difflib.SequenceMatcher(None, other, name.casefold()).ratio() for other in near]
    return [folded[other] for other, ratio in zip(near, likeness) if ratio > likeness[0] - 0.15]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x', 'y' or 'z'?)"`` with the nearest of ``known``, or an empty string."""
    *others, last = [repr(other) for other in nearest(name, known)] or [""]
    return f" (did you mean {' or '.join(filter(None, [', '.join(others), last]))}?)" if last else ""


def expected(wanted: str, value: object) -> str:
    """Say what was expected and what is there instead."""
    return f"expected {wanted}, got {shortened(value)}"


def shortened(value: object, most: int = 100) -> str:
    """Return a value's ``repr``, cut short if need be."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = "a very large number"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def with_article(noun: str) -> str:
    """Return ``"a loss"``, ``"an optimizer"``."""
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def listing(names: Sequence[str]) -> str:
    """Join names for a message, or say that there are none."""
    return ", ".join(names) if names else "none"
