"""``[vars]`` and ``"${vars.x}"``: a value that is written once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from attrs import define, evolve, field

from uldm_core.errors import (
    Key,
    MistakeError,
    Problem,
    Where,
    did_you_mean,
    dotted,
    expected,
    listing,
    shortened,
)
from uldm_core.recipe.document import Document

_REFERENCE = re.compile(r"\$\{\s*vars\.([^}\s]+)\s*\}")
_FOREIGN = re.compile(r"\$\{[^}]*\}?")
MOST = 100_000
"""The most values and characters that variables may make in all: a few lines could fill the memory."""
DEEPEST = 50
"""The most variables that may be made of each other."""


def substitute(document: Document) -> Document:
    """Return a document with variables filled in, and with what is wrong with them or unused.

    A string that is one reference takes the variable's value with its type; inside a longer string its text.
    """
    rest = {name: value for name, value in document.data.items() if name != "vars"}
    variables = document.data.get("vars", {})
    if not isinstance(variables, dict):
        problem = Problem(Where(("vars",)), expected("a table", variables), code="wrong-type")
        return evolve(document, data=rest, problems=[*document.problems, problem])
    filler = _Filler({dotted(key): (key, value) for key, value in _walk(variables)})
    filled, own, origins = filler.fill(rest, ()), document.texts, filler.origins
    if filler.made > MOST:
        what = "grow too large as they are filled in"
        hint = f"variables make no more than {MOST} values, and lie no more than {DEEPEST} deep"
        filled, filler.problems = {}, [Problem(Where(("vars",)), what, hint, code="bad-variable")]
    return evolve(
        document,
        data=filled,
        problems=[*document.problems, *(filler.problems or filler.unused())],
        texts={**own, **{key: own[names[-1]] for key, names in origins.items() if names[-1] in own}},
        origins=origins,
    )


def _walk(value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield what is in nested tables and lists, with its key."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in parts:
        yield (*key, name), item
        yield from _walk(item, (*key, name))


@define
class _Filler:
    """Fills in variables.

    Args:
        variables: the key and value of each by its dotted name, those in tables and lists too.
        problems: what is wrong.
        origins: as a document has them.
        made: how many values and characters came from variables.
    """

    variables: dict[str, tuple[Key, Any]]
    problems: list[Problem] = field(factory=list)
    origins: dict[Key, list[Key]] = field(factory=dict)
    made: int = 0

    @property
    def names(self) -> list[str]:
        """The names of the variables; those in a table are meant one by one, a list is one."""
        return [
            name
            for name, (key, value) in self.variables.items()
            if not isinstance(value, dict) and not any(isinstance(part, int) for part in key)
        ]

    def fill(self, value: Any, key: Key, within: tuple[str, ...] = ()) -> Any:
        """Fill in a value; ``within`` are the variables whose value it is. What grows too large is left."""
        self.made += MOST if len(within) > DEEPEST else bool(within)
        if self.made > MOST:
            return value
        if isinstance(value, dict):
            return {name: self.fill(item, (*key, name), within) for name, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item, (*key, index), within) for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            return self._text(value, key, within)
        except MistakeError as error:
            self.problems += error.at(Where(key)).problems
            return value

    def _text(self, text: str, key: Key, within: tuple[str, ...]) -> Any:
        """Fill in a string; raises ``MistakeError`` if it refers to no variable."""
        if foreign := _FOREIGN.search(_REFERENCE.sub("", text)):
            near = did_you_mean(foreign[0].strip("${} ").removeprefix("vars."), self.names)
            hint = 'only "${vars.NAME}" is filled in, from the table [vars]'
            raise MistakeError(f"{foreign[0]!r} is no variable{near}", hint=hint, code="bad-variable")
        if whole := _REFERENCE.fullmatch(text):
            return self._value(whole[1], key, within)
        filled = _REFERENCE.sub(lambda found: self._as_text(found[1], key, within), text)
        self.made += len(filled)
        return filled

    def _as_text(self, name: str, key: Key, within: tuple[str, ...]) -> str:
        value = self._value(name, key, within)
        if isinstance(value, (dict, list)):
            what = f"vars.{name} is {shortened(value)}, which cannot be part of a text"
            raise MistakeError(what, code="bad-variable")
        return str(value).lower() if isinstance(value, bool) else str(value)

    def _value(self, name: str, key: Key, within: tuple[str, ...]) -> Any:
        """Return a variable's value, variables in it filled in; raises ``MistakeError`` if there is none."""
        if name not in self.variables:
            what, hint = f"there is no variable {name!r}", f"[vars] has: {listing(self.names)}"
            raise MistakeError(what + did_you_mean(name, self.names), hint=hint, code="unknown-variable")
        if name in within:
            raise MistakeError(f"a cycle of variables: {' -> '.join((*within, name))}", code="cycle")
        path, value = self.variables[name]
        self.origins.setdefault(key, []).append(("vars", *path))
        if isinstance(value, dict) and "use" in value:
            hint = "make it a table at the top, which is one component wherever it is used: { ref = ... }"
            raise MistakeError(f"vars.{name} is a component, not a value", hint=hint, code="bad-variable")
        return self.fill(value, key, (*within, name))

    def unused(self) -> Iterator[Problem]:
        """Yield a problem for each variable that nothing uses."""
        used = {name for names in self.origins.values() for name in names}
        for name in self.names:
            key = ("vars", *self.variables[name][0])
            if not any(key[: len(other)] == other or other[: len(key)] == key for other in used):
                what, hint = "nothing uses this variable", f'write "${{vars.{name}}}" where it is wanted'
                yield Problem(Where(key), what, hint, warning=True, code="unused")
