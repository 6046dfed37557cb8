"""What is wrong, where, and how to fix it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from pathlib import PurePath
from typing import Any, Literal, get_args

from attrs import evolve, field, frozen
from attrs.validators import in_

Key = tuple[str | int, ...]

Code = Literal[
    "toml-syntax",
    "missing-file",
    "unreadable-file",
    "unsupported-format",
    "bad-override",
    "bad-name",
    "unknown-table",
    "unknown-variable",
    "bad-variable",
    "unknown-component",
    "unavailable-component",
    "missing-component",
    "wrong-kind",
    "names-code",
    "unknown-option",
    "missing-option",
    "exclusive-options",
    "wrong-type",
    "out-of-range",
    "duplicate",
    "cycle",
    "wrong-order",
    "component-error",
    "shape-mismatch",
    "unavailable-file",
    "too-few-images",
    "too-little-memory",
    "unused",
    "untrained",
    "shared-backbone",
    "other-version",
    "other",
]
"""What sort of problem it is, for programs: ``docs/problems.md`` explains each."""

CODES: tuple[Code, ...] = get_args(Code)


def dotted(key: Key) -> str:
    """Write a key as TOML does: ``('stages', 'first', 'losses', 0)`` -> ``stages.first.losses[0]``."""
    text = ""
    for part in key:
        bare = re.fullmatch(r"[A-Za-z0-9_\-]+", str(part))
        name = part if bare else json.dumps(part, ensure_ascii=False)
        text += f"[{part}]" if isinstance(part, int) else f".{name}"
    return text.removeprefix(".")


def around(key: Key) -> Iterator[Key]:
    """Yield a key and those of the tables around it, the innermost first."""
    return (key[:end] for end in range(len(key), 0, -1))


@frozen
class Where:
    """The place of a problem: a key of a recipe and, if it came from a file, the file and line."""

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
    """One thing that is wrong.

    Args:
        where: its place.
        what: is wrong, in one line.
        hint: how to fix it; may be empty.
        warning: whether everything runs all the same.
        code: what sort of problem it is. Programs use this, never the text.
        cause: the exception that a component raised, if any.
    """

    where: Where
    what: str
    hint: str = ""
    warning: bool = False
    code: Code = field(default="other", validator=in_(CODES), kw_only=True)
    cause: BaseException | None = field(default=None, kw_only=True, eq=False, repr=False)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if str(self.where) else self.what
        return f"{text}\n    {self.hint}" if self.hint else text

    def within(self, key: Key) -> Problem:
        """Return the same problem with ``key`` put in front of its own key."""
        return evolve(self, where=evolve(self.where, key=key + self.where.key))


class RunWarning(UserWarning):
    """Something odd about a run's folder, which can be used all the same."""


class UldmError(Exception):
    """A mistake that a person can fix. Carries one or more problems; not shown as a traceback.

    Its ``__cause__`` is that of the first problem that has one, unless it is raised ``from`` another.
    """

    def __init__(self, *problems: Problem | str, hint: str = "", code: Code = "other") -> None:
        self.problems: tuple[Problem, ...] = tuple(
            Problem(Where(), problem, hint, code=code) if isinstance(problem, str) else problem
            for problem in problems
        )
        super().__init__(*self.problems)
        self.__cause__ = next((problem.cause for problem in self.problems if problem.cause), None)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class MistakeError(UldmError):
    """A mistake in a recipe, a command or a call: exit code 2."""

    def at(self, where: Where) -> MistakeError:
        """Return the same mistake, with its problems at a place."""
        return MistakeError(*(evolve(problem, where=where) for problem in self.problems))


class RunError(UldmError):
    """Something failed while running: exit code 1."""


class DataError(RunError):
    """A dataset cannot give what it holds: a file is damaged or gone.

    A trainer's ``step`` raises it before it changes anything, so the state of the last step can be saved.
    """


class OptionError(ValueError):
    """An option of a component has a value that does not fit.

    A constructor may raise any ``ValueError`` itself. What it calls raises this one, so that the error is not
    taken for a bug in the component.
    """


class UnavailableError(OptionError):
    """Something that a component needs cannot be had now: files, the network, an optional package.

    A component raises it while it is built; the message says what is missing and where to put it. Nothing is
    wrong with the component, so contract checks skip it and report that they did.
    """


def is_unavailable(error: BaseException) -> bool:
    """Return whether an error, or a cause of it, is an ``UnavailableError``."""
    cause = error.__cause__
    return isinstance(error, UnavailableError) or (cause is not None and is_unavailable(cause))


def must_match(pattern: str, like: str) -> Callable[[object, Any, Any], None]:
    """Return a validator of an attrs field: a string that the pattern matches whole, such as ``like``."""

    def validate(instance: object, attribute: Any, value: object) -> None:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"{attribute.name} must be such as {like!r}, got {value!r}")

    return validate


def nearest(name: object, known: Iterable[str]) -> list[str]:
    """Return up to three of ``known`` that are spelt like ``name``, the nearest first.

    One that is much nearer than the others is returned alone.
    """
    import difflib  # rarely needed, and it would slow down every start

    name, folded = str(name), {other.casefold(): other for other in known}
    cutoff = 0.6 if len(name) > 3 else 0.5
    near = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=cutoff)
    likeness = [difflib.SequenceMatcher(None, other, name.casefold()).ratio() for other in near]
    return [folded[other] for other, ratio in zip(near, likeness) if ratio > likeness[0] - 0.15]


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x', 'y' or 'z'?)"`` with the nearest of ``known``, or an empty string."""
    *others, last = [repr(other) for other in nearest(name, known)] or [""]
    return f" (did you mean {' or '.join(filter(None, [', '.join(others), last]))}?)" if last else ""


def expected(wanted: str, value: object) -> str:
    """Return what was expected and what is there instead."""
    return f"expected {wanted}, got {shortened(value)}"


def in_toml(value: object, quoted: Callable[[str], str] = repr) -> str:
    """Write a value as TOML does, on one line; ``None`` becomes ``nothing``.

    Args:
        value: any; what TOML cannot write is written as Python does.
        quoted: writes a string.
    """
    if isinstance(value, Mapping):
        items = ", ".join(f"{dotted((str(name),))} = {in_toml(item, quoted)}" for name, item in value.items())
        return f"{{ {items} }}" if items else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(in_toml(item, quoted) for item in value)}]"
    if isinstance(value, bool) or value is None:
        return "nothing" if value is None else str(value).lower()
    if isinstance(value, (str, PurePath)):
        return quoted(str(value))
    return value.isoformat() if isinstance(value, (date, time)) else repr(value)


def shortened(value: object, most: int = 100) -> str:
    """Return a value as TOML writes it, cut short if need be."""
    try:
        text = in_toml(value)
    except ValueError:  # an integer of more digits than Python writes
        text = "a very large number"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def with_article(component: str) -> str:
    """Return ``"a loss"``, ``"an optimizer"``."""
    return f"{'an' if component[:1] in 'aeiou' else 'a'} {component}"


def listing(names: Sequence[str]) -> str:
    """Join names for a message; ``none`` if there are none."""
    return ", ".join(names) or "none"
