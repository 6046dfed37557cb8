"""Options of a component: read from its signature, checked strictly, never coerced.

``options_of`` reads names, types, defaults and help from the target; ``structure`` turns a value of a recipe
into what the annotation says, or explains why it cannot (no silent 3.7 -> 3, no "false" -> True).
"""

from __future__ import annotations

import inspect
import json
import math
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

import annotated_types
from attrs import NOTHING, evolve, field, fields, frozen

from uldm_core.errors import Key, did_you_mean, expected, in_toml, shortened
from uldm_core.spec.docstrings import argument_help

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()


class Partial(Generic[T]):
    """A component that its owner finishes, because only the owner has what it is made from.

    ``optimizer: Partial[Optimizer]`` lets a recipe name the optimizer and its options, and the trainer
    call ``optimizer(parameters)``.
    """

    def __init__(self, target: Callable[..., T], /, **options: Any) -> None:
        self.target = target
        self.options = options

    def __call__(self, *args: Any, **options: Any) -> T:
        """Finish the component with what its owner has; its options replace those of the recipe."""
        return self.target(*args, **{**self.options, **options})

    def __repr__(self) -> str:
        return f"Partial({self.target!r}, {self.options!r})"


@frozen
class Weighted(Generic[T]):
    """A component in a trainer's sum: how much it counts, and from which step on."""

    component: T
    weight: float = 1.0
    start: int = 0

    FIELDS = {
        "weight": Annotated[float, annotated_types.Ge(0)],
        "start": Annotated[int, annotated_types.Ge(0)],
    }
    SAYS = {"weight": "how much the term counts", "start": "the step from which on it counts"}


@frozen
class Excludes:
    """Says of an option, within ``Annotated``, that it takes the place of another: only one may be given.

    Args:
        option: the name of the other.
    """

    option: str


@frozen
class Exists:
    """Says of a path, within ``Annotated``, that it must be there: ``Annotated[Path, Exists()]``.

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
    annotation: Any
    default: Any = MISSING
    help: str = ""

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is MISSING

    @property
    def type(self) -> str:
        """The annotation as a person would say it."""
        return say_type(self.annotation)

    @property
    def excludes(self) -> str:
        """The name of the option whose place it takes; empty if there is none."""
        return next((part.option for part in _metadata(self.annotation) if isinstance(part, Excludes)), "")


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
    return MISSING if parameter.default is parameter.empty else parameter.default


@frozen
class Mismatch(Exception):
    """A value that is not what an annotation says.

    Args:
        what: is wrong.
        key: leads to the part that is wrong.
        others: further parts that are wrong.
    """

    what: str
    key: Key = field(default=())
    others: tuple[Mismatch, ...] = field(default=())

    def within(self, part: str | int) -> Mismatch:
        """Return the same mismatch seen from one level further out."""
        return Mismatch(self.what, (part, *self.key), tuple(other.within(part) for other in self.others))

    def parts(self) -> Iterator[Mismatch]:
        """Yield each part that is wrong."""
        yield self
        for other in self.others:
            yield from other.parts()


@frozen
class AbsentPath(Mismatch):
    """A path that is to be there, and is not."""


_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


@contextmanager
def relative_to(folder: Path) -> Iterator[None]:
    """Have ``structure`` make paths absolute, as ``located`` does."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def located(path: str | Path, folder: Path) -> Path:
    """Return a path as an absolute one: relative to a folder or, if it is there alone, to the current one."""
    beside, here = (Path(os.path.abspath(place / path)) for place in (folder, Path()))
    return beside if os.path.exists(beside) or not os.path.exists(here) else here


def structure(value: Any, annotation: Any) -> Any:
    """Return ``value`` as ``annotation`` says, or raise ``Mismatch``.

    An int is taken where a float is wanted, a list where a tuple is wanted, a string where a path is and the
    other way round; numpy's and torch's scalars count as Python's. Nothing else is converted.
    """
    return _converter().structure(value, annotation)


def python_scalar(value: Any) -> Any:
    """Return a scalar of numpy or torch as the Python value that it is; anything else as it is."""
    library = type(value).__module__.partition(".")[0]
    return value.item() if library in ("numpy", "torch") and getattr(value, "shape", None) == () else value


def plain_values(value: Any) -> Any:
    """Return nested values in new tables and lists, with text for paths and Python's scalars."""
    if isinstance(value, Mapping):
        return {python_scalar(name): plain_values(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(item) for item in value]
    return path_text(value) if isinstance(value, PurePath) else python_scalar(value)


def as_typed(value: Any, text: str | None, annotation: Any) -> Any:
    """Return the text typed on a command line where text is wanted and TOML reads another thing: ``2024``.

    Args:
        value: what TOML makes of it.
        text: as typed; None if the value is not from a command line.
        annotation: of the option.
    """
    if text is None or isinstance(value, str) or not takes_text(annotation):
        return value
    try:
        structure(value, annotation)
    except Mismatch:
        return text
    return value


def takes_text(annotation: Any) -> bool:
    """Whether strings or paths are among what an annotation takes."""
    if get_origin(annotation) is Literal:
        return any(map(_is_text, get_args(annotation)))
    if get_origin(annotation) is Annotated or is_union(annotation):
        return any(map(takes_text, get_args(annotation)))
    return annotation in (str, Path)


def path_of(path: str | Path) -> Path:
    """Return the path that a person means: ``~`` and ``~user`` are home folders, ``./~x`` is a file.

    A ``Path`` is as it was meant already.
    """
    return Path(os.path.expanduser(path)) if isinstance(path, str) else path


def path_text(path: PurePath) -> str:
    """Return the text of which ``path_of`` makes this path again."""
    return f"./{path}" if str(path).startswith("~") else str(path)


def _metadata(annotation: Any) -> tuple[Any, ...]:
    """Return what ``Annotated`` adds, at the outside or to a member of a union."""
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[1:]
    return (
        tuple(part for arg in get_args(annotation) for part in _metadata(arg)) if is_union(annotation) else ()
    )


def say_type(annotation: Any) -> str:
    """Write an annotation as a person would: ``an integer >= 1``, ``one of 'a', 'b'``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return " ".join([say_type(args[0]), *(_say_constraint(c) for c in args[1:])]).strip()
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in args)
    if is_union(annotation):
        return " or ".join("nothing" if arg is type(None) else say_type(arg) for arg in args)
    if is_sequence(origin or annotation):
        inner = [arg for arg in args if arg is not Ellipsis]
        return "a list" + (f" of ({say_type(inner[0])})" if len(set(map(repr, inner))) == 1 else "")
    words = {bool: "true or false", int: "an integer", float: "a number", str: "a string", Path: "a path"}
    return words.get(annotation) or str(getattr(annotation, "__name__", annotation))


def say_value(value: Any) -> str:
    """Write a value as a recipe does, on one line; nothing at all is said in words."""
    return in_toml(value, json.dumps)


def is_union(annotation: Any) -> bool:
    """Whether the annotation is ``X | Y`` or ``Optional[X]``."""
    return get_origin(annotation) in (Union, types.UnionType)


def is_sequence(origin: Any) -> bool:
    """Whether it is a list, a tuple or a sequence, but no string."""
    return inspect.isclass(origin) and issubclass(origin, (list, tuple, Sequence)) and origin is not str


def _say_constraint(constraint: object) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}
    signs |= {"min_length": "of length >=", "max_length": "of length <="}
    said = []
    for part in _constraints(constraint):
        if isinstance(part, (Excludes, Exists)):
            continue
        name = next((name for name in signs if hasattr(part, name)), None)
        said.append(f"{signs[name]} {getattr(part, name)}" if name else str(part))
    return " and ".join(said)


def _constraints(constraint: object) -> Iterator[object]:
    yield from constraint if isinstance(constraint, annotated_types.GroupedMetadata) else [constraint]


def _holds(constraint: object, value: Any) -> bool:
    if isinstance(constraint, annotated_types.Ge):
        return bool(value >= constraint.ge)
    if isinstance(constraint, annotated_types.Gt):
        return bool(value > constraint.gt)
    if isinstance(constraint, annotated_types.Le):
        return bool(value <= constraint.le)
    if isinstance(constraint, annotated_types.Lt):
        return bool(value < constraint.lt)
    if isinstance(constraint, annotated_types.MultipleOf):
        return bool(value % constraint.multiple_of == 0)
    if isinstance(constraint, annotated_types.MinLen):
        return len(value) >= constraint.min_length
    if isinstance(constraint, annotated_types.MaxLen):
        return len(value) <= constraint.max_length
    return True


def _structure_scalar(given: Any, annotation: Any) -> Any:
    value = python_scalar(given)
    if annotation is float and type(value) is int:
        return _as_float(value)
    if annotation is str and isinstance(value, PurePath):
        return path_text(value)
    if type(value) is not annotation or (annotation is float and not math.isfinite(value)):
        raise Mismatch(expected(say_type(annotation), given))
    if annotation is int and not -(2**63) <= value < 2**63:
        raise Mismatch(f"{shortened(value)} is too large: an integer has 64 bits, as in TOML")
    return value


def _as_float(value: int) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if number != value:
        raise Mismatch(
            f"{shortened(value)} is no number that a float can hold: write it with a decimal point"
        )
    return number


def _structure_path(value: Any, annotation: Any) -> Path:
    if not isinstance(value, (str, PurePath)) or value == "":
        raise Mismatch(expected(say_type(annotation), value))
    folder, path = _folder.get(), path_of(str(value)) if isinstance(value, str) else Path(value)
    return path if folder is None else located(path, folder)


def _structure_literal(value: Any, annotation: Any) -> Any:
    value, choices = python_scalar(value), get_args(annotation)
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        near = did_you_mean(value, filter(_is_text, choices)) if _is_text(value) else ""
        raise Mismatch(expected(say_type(annotation), value) + near)
    return value


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _structure_annotated(value: Any, annotation: Any) -> Any:
    try:
        structured = structure(value, get_args(annotation)[0])
    except Mismatch as mismatch:
        if mismatch.key or not mismatch.what.startswith("expected"):
            raise
        raise Mismatch(expected(say_type(annotation), value)) from None
    check_constraints(structured, annotation, value)
    return structured


def check_constraints(structured: Any, annotation: Any, value: Any) -> None:
    """Raise ``Mismatch`` unless a value keeps every constraint that its ``Annotated`` says.

    Args:
        structured: the value, of the type that is annotated.
        annotation: with the constraints.
        value: as it was written, for the message.
    """
    for constraint in (part for group in get_args(annotation)[1:] for part in _constraints(group)):
        if isinstance(constraint, Exists) and isinstance(structured, Path):
            _refuse_absent(structured, constraint, value)
        if structured is not None and not _holds(constraint, structured):
            raise Mismatch(expected(say_type(annotation), value))


def _refuse_absent(path: Path, wanted: Exists, written: object) -> None:
    """Raise ``Mismatch`` if there is no such path, or a file where a folder is wanted."""
    if not os.path.exists(path):  # which, unlike Path's, minds no name that cannot be one
        where = "" if Path(str(written)).is_absolute() else f": looked for {str(path.absolute())!r}"
        raise AbsentPath(f"there is no path {str(written)!r}{where}")
    if wanted.folder and not os.path.isdir(path):
        raise Mismatch(f"expected a folder, {str(path)!r} is a file")


def _structure_union(value: Any, annotation: Any) -> Any:
    if value is None and type(None) in get_args(annotation):
        return None
    choices = [arg for arg in get_args(annotation) if arg is not type(None)]
    if len(choices) == 1:
        return structure(value, choices[0])
    for choice in choices:
        try:
            return structure(value, choice)
        except Mismatch:
            continue
    raise Mismatch(expected(say_type(annotation), value))


def _structure_sequence(value: Any, annotation: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise Mismatch(expected(say_type(annotation), value))
    args = get_args(annotation)
    fixed = get_origin(annotation) is tuple and args and args[-1] is not Ellipsis
    if fixed and len(args) != len(value):
        raise Mismatch(f"expected {len(args)} values, got {len(value)}")
    inners = args if fixed else [args[0] if args else Any] * len(value)
    items = list(_structure_each(zip(range(len(value)), value, inners)).values())
    return tuple(items) if (get_origin(annotation) or annotation) is tuple else items


def _structure_mapping(value: Any, annotation: Any) -> Any:
    if not isinstance(value, Mapping):
        raise Mismatch(expected("a table", value))
    inner = (get_args(annotation) or (str, Any))[1]
    return _structure_each((name, item, inner) for name, item in value.items())


def _structure_each(parts: Iterable[tuple[Any, Any, Any]]) -> dict[Any, Any]:
    """Structure the parts of a value, each with its key and annotation; all that are wrong are told."""
    items, wrong = {}, []
    for key, item, annotation in parts:
        try:
            items[key] = structure(item, annotation)
        except Mismatch as mismatch:
            wrong.append(mismatch.within(key))
    if wrong:
        raise evolve(wrong[0], others=(*wrong[0].others, *wrong[1:]))
    return items


def _structure_instance(value: Any, annotation: Any) -> Any:
    if annotation is not Any and inspect.isclass(annotation) and not isinstance(value, annotation):
        raise Mismatch(expected(say_type(annotation), value))
    return value


def _origin_is(*origins: Any) -> Callable[[Any], bool]:
    return lambda annotation: (get_origin(annotation) or annotation) in origins


@cache
def _converter() -> Converter:
    """Make a converter that explains instead of coercing; listing needs none, so it is imported here."""
    from cattrs import Converter

    converter = Converter(detailed_validation=False, forbid_extra_keys=True)
    hooks: list[tuple[Callable[[Any], bool], Callable[[Any, Any], Any]]] = [
        (inspect.isclass, _structure_instance),
        (lambda annotation: is_sequence(get_origin(annotation) or annotation), _structure_sequence),
        (_origin_is(dict, Mapping), _structure_mapping),
        (is_union, _structure_union),
        (_origin_is(Annotated), _structure_annotated),
        (_origin_is(Literal), _structure_literal),
    ]
    for predicate, hook in hooks:  # cattrs asks the last one first
        converter.register_structure_hook_func(predicate, hook)
    for scalar in (bool, int, float, str):  # cattrs has hooks of its own for these and Path, found by type
        converter.register_structure_hook(scalar, _structure_scalar)
    converter.register_structure_hook(Path, _structure_path)
    return converter
