"""From a checked ``ComponentSpec`` to the component itself, nested ones first.

Recipes and ``registry.build`` share this: a ``Validator`` turns a table into a ``ComponentSpec``, which a
``ComponentStore`` builds.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from attrs import Factory, define, evolve, frozen

from uldm_core.errors import Key, MistakeError, OptionError, Problem, Where, dotted
from uldm_core.registry.component import Component
from uldm_core.registry.lookup import Registry
from uldm_core.spec.component_spec import ComponentSpec, Reference
from uldm_core.spec.docstrings import summary_of
from uldm_core.spec.options import Option, Partial, Weighted, options_of
from uldm_core.spec.validator import Validator

T = TypeVar("T")


@frozen
class Description:
    """A component with its options and its docstring."""

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
    spec: str | Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    partial: bool = False,
    components: Mapping[str, ComponentSpec] | None = None,
) -> ComponentSpec:
    """Check a component's options without building it.

    Args:
        registry: where it is looked up.
        kind: of component.
        spec: its name, or a table with its name as ``use`` and options.
        options: further options.
        partial: whether its owner finishes it.
        components: a recipe's, if it is to be used with them: references and inferred options need them.

    Raises:
        MistakeError: with everything that is wrong.
    """
    table = {"use": spec} if isinstance(spec, str) else dict(spec)
    kinds = {name: component.kind for name, component in (components or {}).items()}
    validator = Validator(registry=registry, kinds=kinds, in_recipe=False)
    found = validator.component(registry.kind(kind), {**table, **options}, (kind,), partial=partial)
    if validator.problems or not isinstance(found, ComponentSpec):
        raise MistakeError(*validator.problems)
    return found


def build(registry: Registry, kind: str, spec: str | Mapping[str, Any], /, *args: Any, **options: Any) -> Any:
    """Build a component of a registry; see ``uldm_core.registry.build``."""
    return ComponentStore().build(validate(registry, kind, spec, options), *args)


def partial(registry: Registry, kind: str, spec: str | Mapping[str, Any], /, **options: Any) -> Partial[Any]:
    """Return a component of a registry that its owner finishes; see ``uldm_core.registry.partial``."""
    built: Partial[Any] = ComponentStore().build(validate(registry, kind, spec, options, partial=True))
    return built


def _construct(key: Key, target: Callable[..., T], /, *args: Any, **options: Any) -> T:
    """Call a constructor; its ``ValueError`` becomes the cause of a ``MistakeError`` at a key."""
    try:
        return target(*args, **options)
    except ValueError as error:
        what, hint = str(error) or repr(error), _where_raised(error)
        raise MistakeError(Problem(Where(key), what, hint, code="component-error", cause=error)) from error


def _where_raised(error: ValueError) -> str:
    """Return the file and line of an error that the constructor did not raise itself; empty if it did."""
    frames = list(traceback.walk_tb(error.__traceback__))[1:]  # behind its caller
    if isinstance(error, OptionError) or not frames:
        return ""
    (constructor, _), (raised, line) = frames[0], frames[-1]
    code = raised.f_code
    constructs = code.co_name in ("__init__", "__attrs_post_init__")  # of a base class, or attrs' hook
    same_object = raised.f_locals.get("self") is constructor.f_locals.get("self")
    if raised is constructor or (constructs and same_object):
        return ""
    return f"raised by {code.co_name} ({code.co_filename}:{line}): it may be a bug in the component"


class MissingComponentError(LookupError):
    """A component that another one needs is not there: the recipe has none, or it was not built."""


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
        """Make one component, nested or not, from its spec.

        Raises:
            MistakeError: a constructor raises ``ValueError``; an inferred option contradicts a written one.
        """
        options = {name: self._finished(value) for name, value in spec.options.items()}
        construct = functools.partial(_construct, spec.key, spec.component.load())
        self._infer(spec, options)
        if spec.partial:
            return Partial(lambda *args, **options: self.place(construct(*args, **options)), **options)
        return construct(*args, **options)

    def _finished(self, value: Any) -> Any:
        if isinstance(value, ComponentSpec):
            return self.make(value)
        if isinstance(value, Reference):
            return self.component(value.name)
        if isinstance(value, Weighted):
            return evolve(value, component=self._finished(value.component))
        if isinstance(value, (list, tuple)):
            return type(value)(self._finished(item) for item in value)
        return value

    def _infer(self, spec: ComponentSpec, options: dict[str, Any]) -> None:
        """Add the options that follow from other components; a written one must agree."""
        for name, option in spec.kind.inferred.items():
            if name in spec.inferred:
                value = option.derive(*map(self.component, option.components))
                if value is not None and options.setdefault(name, value) != value:
                    what = f"is {options[name]!r}, but {option.description} is {value!r}"
                    hint = "leave it out: it is filled in"
                    raise MistakeError(Problem(Where((*spec.key, name)), what, hint, code="out-of-range"))
