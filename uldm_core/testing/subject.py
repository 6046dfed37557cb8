"""The component under check: how it is built, and what it can be asked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

from attrs import define, field
from torch import nn

from uldm_core import registry
from uldm_core.errors import MistakeError, did_you_mean, listing
from uldm_core.registry.component import Component
from uldm_core.registry.lookup import Registry
from uldm_core.spec.building import build as build_of
from uldm_core.spec.options import MISSING, options_of

T = TypeVar("T")


@define
class Subject:
    """A component of a kind, made anew as often as a check asks.

    Args:
        kind: the kind's name.
        factory: makes it; the options that it takes by keyword, a check may vary.
        name: what reports call it.
        optional: options that the factory takes and may be left out.
        required: options that it takes and needs.
        may_be_module: whether it can turn out to be an ``nn.Module``.
        copies: whether deep copies of it are as good as new builds; nobody knows until it was tried.
        originals: what was built once, to be copied, by its options.
    """

    kind: str
    factory: Callable[..., Any]
    name: str
    optional: frozenset[str]
    required: frozenset[str]
    may_be_module: bool = True
    copies: bool = field(default=False, init=False)
    originals: dict[Hashable, Any] = field(factory=dict, init=False)
    _found: dict[str, Any] = field(factory=dict, init=False)

    def inferred(self, option: str) -> bool:
        """Whether a check may set the option."""
        return option in self.optional or option in self.required

    def found(self, what: str, candidates: Iterable[T], works: Callable[[T], object]) -> T:
        """Return the first candidate that works, and remember it; the last one's error if none does."""
        if what not in self._found:
            self._found[what] = _first_that_works(candidates, works)
        found: T = self._found[what]
        return found


def subject_of(kind: str, factory: Callable[..., Any], name: str = "") -> Subject:
    """Return the subject that a factory makes; of a class, nested components get their defaults."""
    registry.default().kind(kind)
    if inspect.isclass(factory):
        own = _registry_with(Component(kind, "under-check", factory))
        return registered(kind, "under-check", registry=own, called=name or factory.__name__)
    parameters = [
        parameter
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    required = frozenset(p.name for p in parameters if p.default is p.empty)
    optional = frozenset(p.name for p in parameters) - required
    return Subject(kind, factory, name or getattr(factory, "__name__", repr(factory)), optional, required)


def registered(
    kind: str,
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    registry: Registry | None = None,
    called: str = "",
) -> Subject:
    """Return the subject that the registry builds from a name, its record's example and further options."""
    own = registry or _default()
    component = own.get(kind, name)
    given = {**component.example, **(options or {})}
    target = component.load()
    known = options_of(target)
    for option in given:
        if option not in known:
            raise MistakeError(
                f"unknown option {option!r}{did_you_mean(option, known)}",
                hint=f"{component.path} takes: {listing(list(known))}",
            )

    def build(*args: Any, **varied: Any) -> Any:
        return build_of(own, kind, name, *args, **{**given, **varied})

    free = {option: known[option].default for option in known if option not in given}
    required = frozenset(option for option, default in free.items() if default is MISSING)
    may_be_module = not inspect.isclass(target) or issubclass(target, nn.Module)
    return Subject(kind, build, called or component.path, frozenset(free) - required, required, may_be_module)


def _default() -> Registry:
    return registry.default()


def _registry_with(component: Component) -> Registry:
    """Return a registry of all that is registered, and one component more."""
    own = Registry()
    own.kinds.update(registry.default().kinds)
    for other in [*registry.default().components(), component]:
        own.register(other)
    return own


def _first_that_works(candidates: Iterable[T], works: Callable[[T], object]) -> T:
    error: Exception | None = None
    for candidate in candidates:
        try:
            works(candidate)
        except Exception as failure:
            error = error or failure
        else:
            return candidate
    raise error or LookupError("there is nothing to try")
