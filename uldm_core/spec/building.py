"""From a checked component spec to the component itself, nested ones first.

Recipes and ``registry.build`` both go this way: a ``Validator`` turns a table into a ``ComponentSpec``,
which a ``ComponentStore`` builds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from attrs import Factory, define, evolve, frozen

from uldm_core.errors import Key, MistakeError, Problem, Where, dotted
from uldm_core.registry.component import Component
from uldm_core.registry.lookup import Registry
from uldm_core.spec.component_spec import ComponentSpec, Reference
from uldm_core.spec.docstrings import summary_of
from uldm_core.spec.options import Option, Partial, Weighted, options_of
from uldm_core.spec.validator import Validator

T = TypeVar("T")


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
    return ComponentStore().build(validate(registry, kind, spec, options), *args)


def partial(registry: Registry, kind: str, spec: str | Mapping[str, Any], /, **options: Any) -> Partial[Any]:
    """Return a component of a registry that its owner finishes; see ``uldm_core.registry.partial``."""
    built: Partial[Any] = ComponentStore().build(validate(registry, kind, spec, options, factory=True))
    return built


class _LocatedPartial(Partial[Any]):
    """A ``Partial`` whose component's own error, when it is finished, gets its place in the recipe."""

    def __init__(
        self,
        target: Callable[..., Any],
        key: Key,
        options: Mapping[str, Any],
        place: Callable[[Any], Any],
    ) -> None:
        super().__init__(target, **options)
        self.key = key
        self.place = place

    def __call__(self, *args: Any) -> Any:
        try:
            return self.place(super().__call__(*args))
        except ValueError as error:
            raise MistakeError(Problem(Where(self.key), str(error), cause=error)) from error


class MissingComponentError(LookupError):
    """A recipe has no component of a name that one of its components refers to."""


@define
class ComponentStore:
    """Builds components from their specs, nested ones before their owners; each of a recipe's once.

    What it builds stays as its constructor made it. A subclass says how weights are drawn and loaded, where
    components are placed, or how each is made.

    Args:
        components: the recipe's, by name.
        weights: the files of the weights that the recipe's components have, by name.
        built: the recipe's components that are built, by name.
    """

    components: Mapping[str, ComponentSpec] = Factory(dict)
    weights: dict[str, Path] = Factory(dict)
    built: dict[str, Any] = Factory(dict)

    def component(self, name: str) -> Any:
        """Return the recipe's component of that name, with its weights; it is built the first time."""
        if name not in self.built:
            if name not in self.components:
                raise MissingComponentError(name)
            with self.seeded(name):
                component = self.make(self.components[name])
            if name in self.weights:
                self.load(component, self.weights[name])
            self.built[name] = self.place(component)
        return self.built[name]

    def build(self, spec: ComponentSpec, *args: Any) -> Any:
        """Build a component and everything nested in it; ``args`` are what its owner passes."""
        with self.seeded(dotted(spec.key)):
            component = self.make(spec, *args)
        return self.place(component)

    def use_weights(self, name: str, path: Path) -> None:
        """Give one of the recipe's components the weights of a file, now or when it is built."""
        self.weights[name] = path
        if name in self.built:
            self.load(self.built[name], path)

    def seeded(self, place: str) -> AbstractContextManager[None]:
        """Return the context in which what has this name or key is built: its weights are drawn there."""
        return nullcontext()

    def place(self, component: T) -> T:
        """Return an outermost component, and with it all that is nested in it, ready for use."""
        return component

    def load(self, component: Any, path: Path) -> None:
        """Give a component the weights of a file."""
        raise NotImplementedError

    def make(self, spec: ComponentSpec, *args: Any) -> Any:
        """Make one component, nested or not, from its spec."""
        options = {name: self._finished(value) for name, value in spec.options.items()}
        target = spec.component.load()
        options |= self._inferred(spec, options_of(target), options)
        if spec.factory:
            return _LocatedPartial(target, spec.key, options, self.place)
        try:
            return target(*args, **options)
        except ValueError as error:  # the component's own error about its options
            problem = Problem(Where(spec.key), str(error) or repr(error), cause=error)
            raise MistakeError(problem) from error

    def _finished(self, value: Any) -> Any:
        if isinstance(value, ComponentSpec):
            return self.make(value)
        if isinstance(value, Reference):
            return self.component(value.name)
        if isinstance(value, Weighted):
            return evolve(value, component=self._finished(value.component))
        return [self._finished(item) for item in value] if isinstance(value, list) else value

    def _inferred(
        self, spec: ComponentSpec, options: Mapping[str, Option], written: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the options that follow from other components; a written one must agree."""
        derived = {}
        for name, inferred in spec.kind.inferred.items():
            if name not in options or not all(other in self.components for other in inferred.components):
                continue
            derived[name] = inferred.derive(*map(self.component, inferred.components))
            if name in written and written[name] != derived[name]:
                raise MistakeError(
                    Problem(
                        Where((*spec.key, name)),
                        f"is {written[name]!r}, but {inferred.description} is {derived[name]!r}",
                        "leave it out: it is filled in",
                    )
                )
        return derived
