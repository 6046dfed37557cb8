"""Turning a value of a recipe into what an annotation says: strictly, nothing is coerced silently.

``structure`` explains why a value does not fit: no 3.7 -> 3, no "false" -> True.
"""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, get_args, get_origin

from attrs import evolve, frozen, has

from uldm_core.errors import Code, Key, did_you_mean, expected, shortened
from uldm_core.spec.annotations import (
    CONSTRAINTS,
    Annotation,
    Matches,
    constraints,
    is_sequence,
    is_union,
    kind_of_constraint,
)
from uldm_core.spec.format_types import format_type
from uldm_core.spec.options import Exists, options_of


@frozen
class Mismatch(Exception):
    """A value that is not what an annotation says.

    Args:
        what: is wrong.
        code: of the problem.
        key: of the part that is wrong, within the value.
        others: further parts that are wrong.
    """

    what: str
    code: Code = "wrong-type"
    key: Key = ()
    others: tuple[Mismatch, ...] = ()

    def within(self, part: str | int) -> Mismatch:
        """Return the same mismatch, without the others, with ``part`` put in front of its key."""
        return evolve(self, key=(part, *self.key), others=())


_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


@contextmanager
def relative_to(folder: Path) -> Iterator[None]:
    """Make ``structure`` return absolute paths, by ``located``."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def located(path: str | Path, folder: Path) -> Path:
    """Return an absolute path: in a folder or, if it exists only there, in the current one."""
    beside, here = (Path(os.path.abspath(place / path)) for place in (folder, Path()))
    return beside if os.path.exists(beside) or not os.path.exists(here) else here


def structure(value: object, annotation: Annotation) -> Any:
    """Return ``value`` as ``annotation`` says, or raise ``Mismatch``.

    An int is accepted for a float, a list for a tuple, a string for a path and the other way round; numpy's
    and torch's scalars count as Python's. Nothing else is converted.
    """
    structured_by = next((hook for applies, hook in _HOOKS if applies(annotation)), None)
    return structured_by(value, annotation) if structured_by else value


def python_scalar(value: Any) -> Any:
    """Return a scalar of numpy or torch as a Python value; anything else as it is."""
    library = type(value).__module__.partition(".")[0]
    return value.item() if library in ("numpy", "torch") and getattr(value, "shape", None) == () else value


def plain_values(value: object) -> Any:
    """Return a deep copy of nested values with text for paths and Python's scalars."""
    if isinstance(value, Mapping):
        return {python_scalar(name): plain_values(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(item) for item in value]
    return path_text(value) if isinstance(value, PurePath) else python_scalar(value)


def as_typed(value: object, text: str | None, annotation: Annotation) -> Any:
    """Return the text typed on a command line where text is wanted and TOML reads something else: ``2024``.

    ``text`` is None if the value is not from a command line.
    """
    if text is None or isinstance(value, str) or not takes_text(annotation):
        return value
    try:
        structure(value, annotation)
    except Mismatch:
        return text
    return value


def takes_text(annotation: Annotation) -> bool:
    """Return whether an annotation accepts strings or paths."""
    if get_origin(annotation) is Literal:
        return any(isinstance(choice, str) for choice in get_args(annotation))
    if get_origin(annotation) is Annotated or is_union(annotation):
        return any(map(takes_text, get_args(annotation)))
    return annotation in (str, Path)


def path_of(path: str | Path) -> Path:
    """Return a text as a path, ``~`` and ``~user`` expanded (``./~x`` is a file); a ``Path`` as it is."""
    return Path(os.path.expanduser(path)) if isinstance(path, str) else path


def path_text(path: PurePath) -> str:
    """Return a text from which ``path_of`` makes the same path."""
    return f"./{path}" if str(path).startswith("~") else str(path)


def _structure_scalar(given: object, annotation: Annotation) -> object:
    value = python_scalar(given)
    if annotation is float and type(value) is int:
        if abs(value) >= 2**1023 or float(value) != value:
            what = f"{shortened(value)} is no number that a float can hold: write it with a decimal point"
            raise Mismatch(what, "out-of-range")
        return float(value)
    if annotation is str and isinstance(value, PurePath):
        return path_text(value)
    if type(value) is not annotation or (annotation is float and not math.isfinite(value)):
        raise Mismatch(expected(format_type(annotation), given))
    if annotation is int and not -(2**63) <= value < 2**63:
        raise Mismatch(f"{shortened(value)} is too large: an integer has 64 bits, as in TOML", "out-of-range")
    return value


def _structure_path(value: object, annotation: Annotation) -> Path:
    if not isinstance(value, (str, PurePath)) or value == "":
        raise Mismatch(expected(format_type(annotation), value))
    folder, path = _folder.get(), path_of(str(value)) if isinstance(value, str) else Path(value)
    return path if folder is None else located(path, folder)


def _structure_literal(value: object, annotation: Annotation) -> object:
    value, choices = python_scalar(value), get_args(annotation)
    same_type = [choice for choice in choices if type(value) is type(choice)]
    if value not in same_type:
        near = did_you_mean(value, [choice for choice in choices if isinstance(choice, str)])
        code: Code = "out-of-range" if same_type else "wrong-type"
        raise Mismatch(expected(format_type(annotation), value) + near, code)
    return value


def _structure_annotated(value: object, annotation: Annotation) -> object:
    try:
        structured = structure(value, get_args(annotation)[0])
    except Mismatch as mismatch:
        if mismatch.key or mismatch.code != "wrong-type":
            raise
        raise Mismatch(expected(format_type(annotation), value)) from None
    check_constraints(structured, annotation, value)
    return structured


def check_constraints(structured: object, annotation: Annotation, value: object) -> None:
    """Raise ``Mismatch`` unless a structured value, written as ``value``, satisfies every constraint."""
    for constraint in constraints(annotation):
        if isinstance(constraint, Exists) and isinstance(structured, Path):
            _refuse_absent(structured, constraint, value)
        if isinstance(constraint, Matches) and not re.fullmatch(constraint.pattern, str(structured)):
            raise Mismatch(expected(format_type(annotation), value), "out-of-range")
        name = None if structured is None else kind_of_constraint(constraint)
        if name and not CONSTRAINTS[name][1](structured, getattr(constraint, name)):
            raise Mismatch(expected(format_type(annotation), value), "out-of-range")


def _refuse_absent(path: Path, wanted: Exists, written: object) -> None:
    """Raise ``Mismatch`` if there is no such path, or a file where a folder is wanted."""
    if not os.path.exists(path):  # unlike Path.exists, it accepts names that no file can have
        where = "" if Path(str(written)).is_absolute() else f": looked for {str(path.absolute())!r}"
        raise Mismatch(f"there is no path {str(written)!r}{where}", "missing-file")
    if wanted.folder and not os.path.isdir(path):
        raise Mismatch(f"expected a folder, {str(path)!r} is a file")


def _structure_union(value: object, annotation: Annotation) -> object:
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
    raise Mismatch(expected(format_type(annotation), value))


def _structure_sequence(value: object, annotation: Annotation) -> object:
    if not isinstance(value, (list, tuple)):
        raise Mismatch(expected(format_type(annotation), value))
    args = get_args(annotation)
    fixed = get_origin(annotation) is tuple and args and args[-1] is not Ellipsis
    if fixed and len(args) != len(value):
        raise Mismatch(f"expected {len(args)} values, got {len(value)}", "out-of-range")
    inners = args if fixed else [args[0] if args else Any] * len(value)
    items = list(_structure_each(zip(range(len(value)), value, inners)).values())
    return tuple(items) if (get_origin(annotation) or annotation) is tuple else items


def _structure_mapping(value: object, annotation: Annotation) -> object:
    if not isinstance(value, Mapping):
        raise Mismatch(expected("a table", value))
    inner = (get_args(annotation) or (str, Any))[1]
    return _structure_each((name, item, inner) for name, item in value.items())


def _structure_each(parts: Iterable[tuple[Any, object, Annotation]]) -> dict[Any, object]:
    """Structure the parts of a value, each given by key, value and annotation; report all that are wrong."""
    items, wrong = {}, []
    for key, item, annotation in parts:
        try:
            items[key] = structure(item, annotation)
        except Mismatch as mismatch:
            wrong += [part.within(key) for part in (mismatch, *mismatch.others)]
    if wrong:
        raise evolve(wrong[0], others=tuple(wrong[1:]))
    return items


def _structure_attrs(value: object, annotation: Annotation) -> object:
    """Return an object of an attrs class; in a recipe it is a table, of which its signature is the schema."""
    made: Any = annotation
    if isinstance(value, made):
        return value
    if not isinstance(value, Mapping):
        raise Mismatch(expected(format_type(annotation), value))
    options, values = options_of(made), {}
    wrong = [
        Mismatch(f"unknown option {name!r}{did_you_mean(name, options)}", "unknown-option", (name,))
        for name in value
        if name not in options
    ]
    try:
        known = ((name, value[name], option.annotation) for name, option in options.items() if name in value)
        values = _structure_each(known)
    except Mismatch as mismatch:
        wrong += [evolve(mismatch, others=()), *mismatch.others]
    if wrong:
        raise evolve(wrong[0], others=tuple(wrong[1:]))
    return made(**values)


def _structure_instance(value: object, annotation: Annotation) -> object:
    if annotation is not Any and inspect.isclass(annotation) and not isinstance(value, annotation):
        raise Mismatch(expected(format_type(annotation), value))
    return value


def _is(*wanted: object) -> Callable[[Annotation], bool]:
    return lambda annotation: (get_origin(annotation) or annotation) in wanted


_HOOKS: list[tuple[Callable[[Annotation], bool], Callable[[object, Annotation], object]]] = [
    (_is(bool, int, float, str), _structure_scalar),
    (_is(Path), _structure_path),
    (_is(Literal), _structure_literal),
    (_is(Annotated), _structure_annotated),
    (is_union, _structure_union),
    (_is(dict, Mapping), _structure_mapping),
    (is_sequence, _structure_sequence),
    (lambda annotation: inspect.isclass(annotation) and has(annotation), _structure_attrs),
    (inspect.isclass, _structure_instance),
]
"""How values are structured: the first whose condition holds for the annotation."""
