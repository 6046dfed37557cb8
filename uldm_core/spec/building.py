"""From a checked component spec to the component itself, nested ones first.

Recipes and ``registry.build`` both go this way: a ``Validator`` turns a table into a ``ComponentSpec``,
which a ``Builder`` builds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from attrs import Factory, define, evolve, frozen

from uldm_core.errors import Key, MistakeError, Problem, Where
from uldm_core.registry.component import Component
from uldm_core.registry.lookup import Registry
from uldm_core.spec.component_spec import ComponentSpec, Reference
from uldm_core.spec.docstrings import summary_of
from uldm_core.spec.options import Option, Partial, Weighted, options_of
from uldm_core.spec.validator import Validator


@frozen
class Description:
    """What one component is and takes."""

    component: Component
    options: tuple[Option, ...]
    doc: str


def describe(registry: Registry, kind: str, name: str) -> Description:
    """Return a component's options, read from its signature (this imports it)."""
    component = registry.get(kind, name)
    target = component.load()
    return Description(component, tuple(options_of(target).values()), summary_of(target))


def validate(
    registry: Registry,
    kind: str,
    spec: Any,
    options: Mapping[str, Any],
    *,
    factory: bool = False,
    components: Mapping[str, ComponentSpec] | None = None,
) -> ComponentSpec:
    """Check a component's options without building it; ``nouns`` are a recipe's, if it stands in one.

    Raises:
        MistakeError: with everything that is wrong.
    """
    table = {"use": spec} if isinstance(spec, str) else dict(spec)
    kinds = {name: noun.kind for name, noun in (components or {}).items()}
    validator = Validator(registry, kinds, implies=False)
    found: ComponentSpec = validator.component(
        registry.kind(kind), {**table, **options}, (kind,), factory=factory
    )
    if validator.problems:
        raise MistakeError(*validator.problems)
    return found


def build(registry: Registry, kind: str, spec: str | Mapping[str, Any], /, *args: Any, **options: Any) -> Any:
    """Build a component of a registry; see ``uldm_core.registry.build``."""
    return Builder().build(validate(registry, kind, spec, options), *args)


def partial(registry: Registry, kind: str, spec: str | Mapping[str, Any], /, **options: Any) -> Partial[Any]:
    """Return a component of a registry that its owner finishes; see ``uldm_core.registry.partial``."""
    built: Partial[Any] = Builder().build(validate(registry, kind, spec, options, factory=True))
    return built


class _Objecting(Partial[Any]):
    """A factory whose component's own objection, when it is finished, is located in the recipe."""

    def __init__(self, target: Callable[..., Any], key: Key, options: Mapping[str, Any]) -> None:
        super().__init__(target, **options)
        self.key = key

    def __call__(self, *args: Any) -> Any:
        try:
            return super().__call__(*args)
        except ValueError as error:
            raise MistakeError(Problem(Where(self.key), str(error), cause=error)) from error


@define
class Builder:
    """Builds blueprints: nested components before their owners, every noun once.

    Args:
        nouns: the recipe's nouns.
        place: called with each noun's name and the component; returns it ready for use (on its device).
        seeded: gives the context in which the named noun's weights are drawn.
    """

    components: Mapping[str, ComponentSpec] = Factory(dict)
    place: Callable[[str, Any], Any] = lambda name, component: component
    seeded: Callable[[str], AbstractContextManager[Any]] = lambda name: nullcontext()
    built: dict[str, Any] = Factory(dict)

    def component(self, name: str) -> Any:
        """Return the noun of that name, building it the first time."""
        if name not in self.built:
            with self.seeded(name):
                component = self.build(self.components[name])
            self.built[name] = self.place(name, component)
        return self.built[name]

    def around(self, name: str) -> Any:
        """Return the noun that another one's options follow from."""
        return self.component(name)

    def build(self, spec: ComponentSpec, *args: Any) -> Any:
        """Build a component and everything nested in it; ``args`` are what its owner passes."""
        options = {name: self._finished(value) for name, value in spec.options.items()}
        target = spec.component.load()
        options |= self._surroundings(spec, options_of(target), options)
        if spec.factory:
            return _Objecting(target, spec.key, options)
        try:
            return target(*args, **options)
        except ValueError as error:  # the component's own objection to its options
            problem = Problem(Where(spec.key), str(error) or repr(error), cause=error)
            raise MistakeError(problem) from error

    def _finished(self, value: Any) -> Any:
        if isinstance(value, ComponentSpec):
            return self.build(value)
        if isinstance(value, Reference):
            return self.component(value.name)
        if isinstance(value, Weighted):
            return evolve(value, component=self._finished(value.component))
        return [self._finished(item) for item in value] if isinstance(value, list) else value

    def _surroundings(
        self, spec: ComponentSpec, options: Mapping[str, Option], written: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Derive the options that follow from other nouns; a written one must agree."""
        derived = {}
        for name, surrounding in spec.kind.inferred.items():
            if name not in options or not all(noun in self.components for noun in surrounding.components):
                continue
            derived[name] = surrounding.derive(*map(self.around, surrounding.components))
            if name in written and written[name] != derived[name]:
                raise MistakeError(
                    Problem(
                        Where((*spec.key, name)),
                        f"is {written[name]!r}, but {surrounding.description} is {derived[name]!r}",
                        "leave it out: it is filled in",
                    )
                )
        return derived
