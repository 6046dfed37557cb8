"""``[vars]`` and ``"${vars.x}"``: a value that is written once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import define, field

from uldm_core.errors import (
    Code,
    Key,
    Problem,
    Where,
    around,
    did_you_mean,
    dotted,
    expected,
    listing,
    nearest,
    shortened,
)
from uldm_core.recipe.compare import flattened

_REFERENCE = re.compile(r"\$\{\s*vars\.([^}\s]+)\s*\}")
_FOREIGN = re.compile(r"\$\{[^}]*\}?")


MOST = 100_000
"""The most values and characters that variables may make in all: a few lines could fill the memory."""
DEEPEST = 50
"""The most variables that may be made of each other."""


class _TooLargeError(Exception):
    """Variables make too much."""


@define
class Filled:
    """A recipe's tables with variables filled in.

    Args:
        data: the tables, without ``[vars]``.
        problems: what was wrong.
        origins: of values that came from variables: the key of each, and the variables'.
    """

    data: dict[str, Any]
    problems: list[Problem] = field(factory=list)
    origins: dict[Key, list[Key]] = field(factory=dict)

    def origin(self, key: Key) -> list[Key]:
        """Return the variables that the value at a key came from."""
        return next((self.origins[outer] for outer in around(key) if outer in self.origins), [])


def substitute(data: Mapping[str, object]) -> Filled:
    """Fill in the variables, and report what is wrong and which are unused.

    A string that is one reference takes the variable's value with its type; inside a longer string its text.
    """
    rest = {name: value for name, value in data.items() if name != "vars"}
    variables = data.get("vars", {})
    if not isinstance(variables, dict):
        return Filled(rest, [Problem(Where(("vars",)), expected("a table", variables), code="wrong-type")])
    filler = _Filler(variables)
    try:
        filled = {name: filler.fill(value, (name,)) for name, value in rest.items()}
    except _TooLargeError:
        what = "grow too large as they are filled in"
        hint = f"variables make no more than {MOST} values, and lie no more than {DEEPEST} deep"
        return Filled({}, [Problem(Where(("vars",)), what, hint, code="bad-variable")])
    return Filled(filled, filler.problems or list(filler.unused()), filler.origins)


@define
class _Filler:
    variables: dict[str, object]
    problems: list[Problem] = field(factory=list)
    origins: dict[Key, list[Key]] = field(factory=dict)
    used: set[Key] = field(factory=set)
    made: int = 0

    @property
    def leaves(self) -> list[Key]:
        """The keys of the variables, those in tables one by one."""
        return list(flattened(self.variables)) if self.variables else []

    def fill(self, value: object, key: Key, within: tuple[str, ...] = ()) -> object:
        """Fill in a value; ``within`` are the variables whose value it is."""
        self.made += bool(within)
        if self.made > MOST or len(within) > DEEPEST:
            raise _TooLargeError
        if isinstance(value, dict):
            return {name: self.fill(item, (*key, name), within) for name, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item, (*key, index), within) for index, item in enumerate(value)]
        return self._text(value, key, within) if isinstance(value, str) else value

    def _text(self, text: str, key: Key, within: tuple[str, ...]) -> object:
        if "${" not in text:
            return text
        if foreign := _FOREIGN.search(_REFERENCE.sub("", text)):
            near = nearest(foreign[0].strip("${} ").removeprefix("vars."), self._names())
            hint = 'only "${vars.NAME}" is filled in, from the table [vars]'
            hint = f'write "${{vars.{near[0]}}}"' if near else hint
            return self._problem("bad-variable", key, f"{foreign[0]!r} is no variable", hint, text)
        values = {name: self._value(name, key, within, text) for name in _REFERENCE.findall(text)}
        if whole := _REFERENCE.fullmatch(text):
            return values[whole[1]]
        for name, value in values.items():
            if isinstance(value, (dict, list)):
                what = f"vars.{name} is {shortened(value)}, which cannot be part of a text"
                return self._problem("bad-variable", key, what, "", text)
        texts = {name: str(v).lower() if isinstance(v, bool) else str(v) for name, v in values.items()}
        filled = _REFERENCE.sub(lambda found: texts[found[1]], text)
        self.made += len(filled)
        return filled

    def _names(self) -> list[str]:
        return [dotted(leaf) for leaf in self.leaves]

    def _value(self, name: str, key: Key, within: tuple[str, ...], text: str) -> object:
        """Return a variable's value, variables in it filled in."""
        parts = filter(None, re.split(r"\.|\[|\]\.?", name))
        path: Key = tuple(int(part) if part.isdecimal() else part for part in parts)
        value: Any = self.variables
        for depth, part in enumerate(path):
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                what = f"there is no variable {name!r}{did_you_mean(name, self._names())}"
                hint = f"{dotted(('vars', *path[:depth]))} is {shortened(value)}"
                hint = hint if depth else f"[vars] has: {listing(self._names())}"
                return self._problem("unknown-variable", key, what, hint, text)
        if name in within:
            what = f"a cycle of variables: {' -> '.join((*within, name))}"
            return self._problem("cycle", key, what, "", text)
        self.used.add(path)
        self.origins.setdefault(key, []).append(("vars", *path))
        if isinstance(value, dict) and "use" in value:
            hint = "make it a table at the top, which is one component wherever it is used: { ref = ... }"
            what = f"vars.{name} is a component, not a value"
            return self._problem("bad-variable", key, what, hint, text)
        return self.fill(value, key, (*within, name))

    def unused(self) -> Iterator[Problem]:
        """Yield a problem for each variable that nothing uses."""
        for leaf in self.leaves:
            if not any(leaf[: len(path)] == path or path[: len(leaf)] == leaf for path in self.used):
                hint = f'write "${{vars.{dotted(leaf)}}}" where it is wanted, or take it out'
                near = did_you_mean(dotted(leaf), [dotted(path) for path in self.used])
                what = f"nothing uses this variable{near}"
                yield Problem(Where(("vars", *leaf)), what, hint, True, code="unused")

    def _problem(self, code: Code, key: Key, what: str, hint: str, text: object) -> object:
        self.problems.append(Problem(Where(key), what, hint, code=code))
        return text
