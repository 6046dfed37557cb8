"""Where the broken and the sound components are written down."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from attrs import frozen


@frozen
class Mutant:
    """A broken component: its docstring says the mistake, ``killed_by`` the check that names that fault."""

    kind: str
    killed_by: str
    factory: Callable[..., Any]

    @property
    def name(self) -> str:
        return self.factory.__name__

    @property
    def mistake(self) -> str:
        return (inspect.getdoc(self.factory) or "").partition("\n")[0]


@frozen
class Sound:
    """A correct component that is none of ours, and the checks that it would have to declare as expected."""

    kind: str
    factory: Callable[..., Any]
    xfail: dict[str, str]


MUTANTS: list[Mutant] = []
SOUND: list[Sound] = []


def mutant(kind: str, killed_by: str) -> Callable[[Any], Any]:
    """Write down a class or factory function as broken."""

    def note(factory: Any) -> Any:
        assert factory.__doc__, f"{factory.__name__} must say its mistake"
        MUTANTS.append(Mutant(kind, killed_by, factory))
        return factory

    return note


def sound(kind: str, **xfail: str) -> Callable[[Any], Any]:
    """Write down a class or factory function as correct, but for the checks declared."""

    def note(factory: Any) -> Any:
        SOUND.append(Sound(kind, factory, xfail))
        return factory

    return note
