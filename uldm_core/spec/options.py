"""Options of a component, read from its signature: names, types, defaults and help."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

import annotated_types
from attrs import NOTHING, fields, frozen

from uldm_core.spec.annotations import Annotation, metadata
from uldm_core.spec.docstrings import argument_help

T = TypeVar("T")


MISSING: Any = inspect.Parameter.empty
"""The default of an option that has none."""


class Partial(functools.partial[T]):
    """A component that its owner finishes, because only the owner has what it is made from.

    ``optimizer: Partial[Optimizer]`` lets a recipe name the optimizer and its options, and the trainer
    call ``optimizer(parameters)``; options that it adds replace those of the recipe.
    """

    @property
    def options(self) -> dict[str, Any]:
        """The options of the recipe."""
        return self.keywords


@frozen
class Weighted(Generic[T]):
    """A component in a weighted sum.

    Args:
        component: such as a loss.
        weight: the factor of the term
        start: the first step at which it counts
    """

    component: T
    weight: Annotated[float, annotated_types.Ge(0)] = 1.0
    start: Annotated[int, annotated_types.Ge(0)] = 0


@frozen
class Excludes:
    """Marks an option, within ``Annotated``, that replaces another one: only one of them may be given.

    It may be there several times.

    Args:
        option: the name of the other.
    """

    option: str


@frozen
class Exists:
    """Marks a path that must exist: ``Annotated[Path, Exists()]``.

    Args:
        folder: whether it must be a folder.
    """

    folder: bool = False


def use(name: str, /, **options: Any) -> Any:
    """Name a component as the default of another's option: as ``Partial[Optimizer] = use("adamw")``."""
    return types.MappingProxyType({"use": name, **options})


@frozen
class Option:
    """One option of a component."""

    name: str
    annotation: Annotation
    default: Any = MISSING
    help: str = ""

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is MISSING

    @property
    def excludes(self) -> tuple[str, ...]:
        """The names of the options that it replaces."""
        return tuple(part.option for part in metadata(self.annotation) if isinstance(part, Excludes))


def options_of(target: Callable[..., Any]) -> dict[str, Option]:
    """Read the options of a class or function from its own signature.

    Options are the named parameters of the function, or of the class's own ``__init__`` (of its nearest
    base's, if it has none). Positional-only ones are the owner's to pass; ``*args``, ``**kwargs`` and what
    they hand on to a base do not count.
    """
    function = _init_of(target) if inspect.isclass(target) else target
    if function is None:
        return {}
    parameters = list(inspect.signature(function).parameters.values())
    if inspect.isclass(target):
        parameters = parameters[1:]
    hints = typing.get_type_hints(function, include_extras=True)
    helps = argument_help(target)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        parameter.name: Option(
            parameter.name,
            hints.get(parameter.name, Any),
            _default_of(target, parameter),
            helps.get(parameter.name, ""),
        )
        for parameter in parameters
        if parameter.kind in named
    }


def _init_of(target: type) -> Any:
    """Return the ``__init__`` written nearest to a class, or None if there is none."""
    written = (vars(base).get("__init__") for base in inspect.getmro(target) if base is not object)
    return next(filter(None, written), None)


def _default_of(target: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return a parameter's default; of one that attrs makes by a factory, what the factory gives."""
    if parameter.default is NOTHING:
        attrs_class: Any = target
        return next(field.default.factory() for field in fields(attrs_class) if field.alias == parameter.name)
    return parameter.default


WEIGHTS = {name: option for name, option in options_of(Weighted).items() if name != "component"}
"""The options that a table of a weighted component has beside the component's own."""
