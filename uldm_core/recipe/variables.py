"""``[vars]`` and ``"${vars.x}"``: a number said once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import define, field

from uldm_core.errors import Key, Problem, Where, did_you_mean, dotted, expected, listing, nearest, shortened

_REFERENCE = re.compile(r"\$\{\s*vars\.([^}\s]+)\s*\}")
_FOREIGN = re.compile(r"\$\{[^}]*\}?")
_BARE = re.compile(r"\W*\bvars\.([\w.\-\[\]]*\w)\W*")


MOST = 100_000
"""So many values and letters may variables make, all in all: a few lines could fill the memory."""
DEEPEST = 50
"""So many variables may be made of each other."""


class _TooLargeError(Exception):
    """Variables make too much; the problem is where the outermost of them is used."""


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
        return next(
            (self.origins[key[:end]] for end in range(len(key), 0, -1) if key[:end] in self.origins), []
        )


def substitute(data: Mapping[str, Any]) -> Filled:
    """Fill in the variables, and tell what was wrong and which nothing uses.

    A string that is one reference takes the variable's value with its type; inside a longer string its text.
    """
    rest = {name: value for name, value in data.items() if name != "vars"}
    table = "vars" if "vars" in data else _misspelt(data)
    variables = data.get(table, {})
    if not isinstance(variables, dict):
        return Filled(rest, [Problem(Where(("vars",)), expected("a table", variables))])
    filler = _Filler(variables, table)
    filled = Filled({name: filler.fill_top(value, name) for name, value in rest.items()})
    filled.origins = filler.origins
    filled.problems = [*filler.problems, *(filler.unused() if table == "vars" else ())]
    return filled


def _misspelt(data: Mapping[str, Any]) -> str:
    """Return the table that is likely meant to be ``[vars]``, so that nobody misses its variables as well."""
    tables = [name for name, value in data.items() if isinstance(name, str) and isinstance(value, dict)]
    return next((name for name in tables if nearest(name, ["vars", "stages"]) == ["vars"]), "vars")


@define
class _Filler:
    variables: dict[str, Any]
    table: str = "vars"
    problems: list[Problem] = field(factory=list)
    origins: dict[Key, list[Key]] = field(factory=dict)
    used: set[Key] = field(factory=set)
    made: int = 0
    outermost: Key = ()

    def fill_top(self, value: Any, name: str) -> Any:
        """Fill in what stands at the top; what grows too large stays as it is."""
        self.made = 0
        try:
            return self.fill(value, (name,))
        except _TooLargeError:
            hint = f"variables make no more than {MOST} values, and lie no more than {DEEPEST} deep"
            return self._complain(
                self.outermost, "grows too large as its variables are filled in", hint, value
            )

    def fill(self, value: Any, key: Key, within: tuple[str, ...] = ()) -> Any:
        """Fill in a value; ``within`` are the variables whose value it is."""
        self.made += bool(within)
        if self.made > MOST or len(within) > DEEPEST:
            raise _TooLargeError
        if isinstance(value, dict):
            return {name: self.fill(item, (*key, name), within) for name, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item, (*key, index), within) for index, item in enumerate(value)]
        return self._text(value, key, within) if isinstance(value, str) else value

    def _text(self, text: str, key: Key, within: tuple[str, ...]) -> Any:
        if "${" not in text:
            bare = _BARE.fullmatch(text)
            meant = bare and self._meant(bare[1], exactly=True)
            return self._not_a_variable(text, meant, key, text) if meant else text
        if foreign := _FOREIGN.search(_REFERENCE.sub("", text)):
            return self._not_a_variable(foreign[0], self._meant(foreign[0].strip("${} ")), key, text)
        values = {name: self._value(name, key, within, text) for name in _REFERENCE.findall(text)}
        if whole := _REFERENCE.fullmatch(text):
            return values[whole[1]]
        for name, value in values.items():
            if isinstance(value, (dict, list)):
                what = f"vars.{name} is {shortened(value)}, which cannot stand inside a text"
                return self._complain(key, what, "", text)
        filled = _REFERENCE.sub(lambda found: _as_text(values[found[1]]), text)
        self.made += len(filled)
        return filled

    def _not_a_variable(self, written: str, meant: str | None, key: Key, text: str) -> Any:
        example = f"${{vars.{meant or 'NAME'}}}"
        hint = f'write "{example}"' if meant else f'only "{example}" is filled in, from the table [vars]'
        return self._complain(key, f"{written!r} is no variable", hint, text)

    def _meant(self, name: str, *, exactly: bool = False) -> str | None:
        """Return the variable that a misspelt one is likely meant to be; nobody calls that one unused."""
        known = {dotted(leaf): leaf for leaf, _ in _leaves(self.variables)}
        near = [name] if name in known else [] if exactly else nearest(name.removeprefix("vars."), known)
        if not near:
            return None
        self.used.add(known[near[0]])
        return near[0]

    def _value(self, name: str, key: Key, within: tuple[str, ...], text: str) -> Any:
        """Return a variable's value, variables in it filled in."""
        self.outermost = self.outermost if within else key
        path = tuple(
            int(part) if part.isdecimal() else part for part in re.split(r"\.|\[|\]\.?", name) if part
        )
        value: Any = self.variables
        for depth, part in enumerate(path):
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                known = [dotted(leaf) for leaf, _ in _leaves(self.variables)]
                self._meant(name)
                self.used |= {path[:depth]} if depth else set()
                what = f"there is no variable {name!r}{did_you_mean(name, known)}"
                inside = f"{dotted((self.table, *path[:depth]))} is {shortened(value)}"
                hint = inside if depth else f"[{self.table}] has: {listing(known)}"
                return self._complain(key, what, hint, text)
        if name in within:
            return self._complain(key, f"a cycle of variables: {' -> '.join((*within, name))}", "", text)
        self.used.add(path)
        self.origins.setdefault(key, []).append((self.table, *path))
        if isinstance(value, dict) and "use" in value:
            hint = (
                "make it a table at the top, which is one component however often it is used: { ref = ... }"
            )
            return self._complain(key, f"vars.{name} is a component, not a value", hint, text)
        return self.fill(value, key, (*within, name))

    def unused(self) -> Iterator[Problem]:
        """Yield the variables that nothing uses."""
        for leaf, _ in _leaves(self.variables):
            if not any(leaf[: len(path)] == path or path[: len(leaf)] == leaf for path in self.used):
                hint = f'write "${{vars.{dotted(leaf)}}}" where it is wanted, or take it out'
                near = did_you_mean(dotted(leaf), [dotted(path) for path in self.used])
                yield Problem(Where(("vars", *leaf)), f"nothing uses this variable{near}", hint, warning=True)

    def _complain(self, key: Key, what: str, hint: str, text: Any) -> Any:
        self.problems.append(Problem(Where(key), what, hint))
        return text


def _leaves(table: Mapping[str, Any], at: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield the values of nested tables, with their keys."""
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*at, name))
        else:
            yield (*at, name), value


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
