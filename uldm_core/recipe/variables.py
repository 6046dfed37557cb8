"""``[vars]`` and ``"${vars.x}"``: a number said once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import define, field

from uldm_core.errors import Key, Problem, Where, did_you_mean, dotted, expected, listing, shortened

_REFERENCE = re.compile(r"\$\{\s*vars\.([^}\s]+)\s*\}")
_FOREIGN = re.compile(r"\$\{[^}]*\}?")


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
    variables = data.get("vars", {})
    if not isinstance(variables, dict):
        return Filled(rest, [Problem(Where(("vars",)), expected("a table", variables))])
    filler = _Filler(variables)
    filled = Filled({name: filler.fill(value, (name,)) for name, value in rest.items()})
    filled.origins = filler.origins
    filled.problems = [*filler.problems, *filler.unused()]
    return filled


@define
class _Filler:
    variables: dict[str, Any]
    problems: list[Problem] = field(factory=list)
    origins: dict[Key, list[Key]] = field(factory=dict)
    used: set[Key] = field(factory=set)

    def fill(self, value: Any, key: Key, within: tuple[str, ...] = ()) -> Any:
        """Fill in a value; ``within`` are the variables whose value it is."""
        if isinstance(value, dict):
            return {name: self.fill(item, (*key, name), within) for name, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item, (*key, index), within) for index, item in enumerate(value)]
        return self._text(value, key, within) if isinstance(value, str) and "${" in value else value

    def _text(self, text: str, key: Key, within: tuple[str, ...]) -> Any:
        if foreign := _FOREIGN.search(_REFERENCE.sub("", text)):
            return self._complain(
                key,
                f"{foreign[0]!r} is no variable",
                'only "${vars.NAME}" is filled in, from the table [vars]',
                text,
            )
        values = {name: self._value(name, key, within, text) for name in _REFERENCE.findall(text)}
        if whole := _REFERENCE.fullmatch(text):
            return values[whole[1]]
        for name, value in values.items():
            if isinstance(value, (dict, list)):
                return self._complain(
                    key, f"vars.{name} is {shortened(value)}, which cannot stand inside a text", "", text
                )
        return _REFERENCE.sub(lambda found: _as_text(values[found[1]]), text)

    def _value(self, name: str, key: Key, within: tuple[str, ...], text: str) -> Any:
        """Return a variable's value, variables in it filled in."""
        path = tuple(
            int(part) if part.isdecimal() else part for part in re.split(r"\.|\[|\]\.?", name) if part
        )
        value: Any = self.variables
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                known = [dotted(leaf) for leaf, _ in _leaves(self.variables)]
                what = f"there is no variable {name!r}{did_you_mean(name, known)}"
                return self._complain(key, what, f"[vars] has: {listing(known)}", text)
        if name in within:
            return self._complain(key, f"a cycle of variables: {' -> '.join((*within, name))}", "", text)
        self.used.add(path)
        self.origins.setdefault(key, []).append(("vars", *path))
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
                yield Problem(Where(("vars", *leaf)), "nothing uses this variable", hint, warning=True)

    def _complain(self, key: Key, what: str, hint: str, text: str) -> str:
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
