"""Turning a value of a recipe into what an annotation says: strictly, nothing is coerced silently."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, get_args, get_origin

from attrs import Factory, define, has

from uldm_core.errors import Code, Key, MistakeError, Problem, Where, did_you_mean, expected, shortened
from uldm_core.registry.lookup import Registry
from uldm_core.spec.annotations import CONSTRAINTS, Annotation, constraints, is_sequence, is_union, metadata
from uldm_core.spec.format_types import format_type
from uldm_core.spec.options import Exists, options_of

LEFT_OUT: Any = object()
"""What stands for a value that is wrong, and reported; or of an option that is not passed: it is inferred."""


def located(path: str | Path, folder: Path) -> Path:
    """Return an absolute path: in a folder or, if it exists only there, in the current one."""
    beside, here = (Path(os.path.abspath(place / path)) for place in (folder, Path()))
    return beside if os.path.exists(beside) or not os.path.exists(here) else here


def path_of(path: str | PurePath) -> Path:
    """Return a text as a path, ``~`` and ``~user`` expanded (``./~x`` is a file); a path as it is."""
    return Path(os.path.expanduser(path) if isinstance(path, str) else path)


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
    return str(value) if isinstance(value, PurePath) else python_scalar(value)


def structure(value: object, annotation: Annotation, key: Key = ()) -> Any:
    """Return ``value`` as ``annotation`` says; see ``Converter``.

    Raises:
        MistakeError: with every part that does not fit, each at its key within that of the value.
    """
    converter = Converter()
    found = converter.value(annotation, value, key)
    if converter.problems:
        raise MistakeError(*converter.problems)
    return found


def as_typed(value: object, text: str | None, annotation: Annotation) -> Any:
    """Return the text typed on a command line where text is wanted and TOML reads something else: ``2024``.

    ``text`` is None if the value is not from a command line.
    """

    def of_that_type(value: object) -> bool:
        converter = Converter()
        converter.value(annotation, value, ())
        return all(problem.code != "wrong-type" for problem in converter.problems)

    return text if text is not None and not of_that_type(value) and of_that_type(text) else value


@define(kw_only=True)
class Converter:
    """Turns values into what annotations say, and collects what does not fit.

    An int is accepted for a float, a list for a tuple, a string for a path and the other way round; numpy's
    and torch's scalars count as Python's. Nothing else is converted: no 3.7 -> 3, no "false" -> True.

    Args:
        registry: of the components that messages name by their kind.
        texts: the values that the command line sets, as typed.
        folder: gives the folder that a path at a key is relative to; without it paths stay as they are.
        problems: what is wrong.
    """

    registry: Registry | None = None
    texts: Mapping[Key, str] = Factory(dict)
    folder: Callable[[Key], Path] | None = None
    problems: list[Problem] = Factory(list)

    def value(self, annotation: Annotation, value: object, key: Key) -> Any:
        """Return a value as its annotation says, without the parts that are wrong."""
        value = python_scalar(as_typed(value, self.texts.get(key), annotation))
        bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
        before = len(self.problems)
        found = self.convert(bare, value, key, annotation)
        if bare is not annotation and found is not None and len(self.problems) == before:
            return self._constrained(found, value, key, annotation)
        return found

    def convert(self, annotation: Annotation, value: Any, key: Key, whole: Annotation) -> Any:
        """Return a value as an annotation without constraints says; ``whole`` is the one for messages."""
        origin, args = get_origin(annotation) or annotation, get_args(annotation)
        if is_union(annotation):
            return self._union(args, value, key, whole)
        if origin is Literal:
            return self._choice(args, value, key, whole)
        if origin in (bool, int, float):
            return self._number(annotation, value, key, whole)
        if origin is str and isinstance(value, PurePath):
            return str(value)
        if origin is Path and isinstance(value, (str, PurePath)) and value != "":
            return located(path_of(value), self.folder(key)) if self.folder else path_of(value)
        if is_sequence(annotation) and isinstance(value, (list, tuple)):
            return self._sequence(annotation, value, key)
        if origin in (dict, Mapping) and isinstance(value, Mapping):
            items = {name: self.value((*args, Any)[1], item, (*key, name)) for name, item in value.items()}
            return {name: item for name, item in items.items() if item is not LEFT_OUT}
        if inspect.isclass(annotation) and has(annotation) and isinstance(value, Mapping):
            return self._object(annotation, value, key)
        fits = origin is Any or not inspect.isclass(origin) or isinstance(value, origin)
        return value if fits and not is_sequence(annotation) else self._refuse(value, key, whole)

    def _union(self, choices: tuple[Annotation, ...], value: object, key: Key, whole: Annotation) -> object:
        if value is None and type(None) in choices:
            return None
        choices = tuple(choice for choice in choices if choice is not type(None))
        if len(choices) == 1:
            return self.value(choices[0], value, key)
        before = len(self.problems)
        for choice in choices:
            found = self.value(choice, value, key)
            if len(self.problems) == before:
                return found
            del self.problems[before:]
        return self._refuse(value, key, whole)

    def _choice(self, choices: tuple[object, ...], value: object, key: Key, whole: Annotation) -> object:
        same_type = [choice for choice in choices if type(value) is type(choice)]
        if value in same_type:
            return value
        near = did_you_mean(value, [choice for choice in choices if isinstance(choice, str)])
        return self._refuse(value, key, whole, "out-of-range" if same_type else "wrong-type", near)

    def _number(self, wanted: Annotation, value: Any, key: Key, whole: Annotation) -> object:
        if wanted is float and type(value) is int:
            if abs(value) < 2**1023 and float(value) == value:
                return float(value)
            what = f"{shortened(value)} is no number that a float can hold: write it with a decimal point"
            return self.problem("out-of-range", key, what)
        if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
            return self._refuse(value, key, whole)
        if wanted is int and not -(2**63) <= value < 2**63:
            what = f"{shortened(value)} is too large: an integer has 64 bits, as in TOML"
            return self.problem("out-of-range", key, what)
        return value

    def _sequence(self, annotation: Annotation, value: list[Any] | tuple[Any, ...], key: Key) -> Any:
        kind, args = get_origin(annotation) or annotation, get_args(annotation)
        fixed = kind is tuple and args and args[-1] is not Ellipsis
        if fixed and len(args) != len(value):
            what = f"expected {len(args)} values, got {len(value)}"
            return self.problem("out-of-range", key, what)
        inners = args if fixed else (*args, Any)[:1] * len(value)
        items = [self.value(inners[index], item, (*key, index)) for index, item in enumerate(value)]
        items = [item for item in items if item is not LEFT_OUT]
        return tuple(items) if kind is tuple else items

    def _object(self, made: type, table: Mapping[str, object], key: Key) -> object:
        """Return an object of an attrs class, of whose table its signature is the schema."""
        options, values, before = options_of(made), {}, len(self.problems)
        for name, item in table.items():
            if name in options:
                values[name] = self.value(options[name].annotation, item, (*key, name))
            else:
                what = f"unknown option {name!r}{did_you_mean(name, options)}"
                self.problem("unknown-option", (*key, name), what)
        for name, option in options.items() if len(values) == len(table) else ():
            if option.required and name not in table:
                self.problem("missing-option", key, f"missing option {name!r}")
        return made(**values) if len(self.problems) == before else LEFT_OUT

    def _constrained(self, found: Any, written: object, key: Key, annotation: Annotation) -> Any:
        """Return a converted value if it satisfies every constraint."""
        for wanted in metadata(annotation):
            if isinstance(wanted, Exists) and self.must_exist(key):
                if not os.path.exists(found):  # unlike Path.exists, it accepts names that no file can have
                    looked = "" if Path(str(written)).is_absolute() else f": looked for '{found.absolute()}'"
                    return self.problem("missing-file", key, f"there is no path {str(written)!r}{looked}")
                if wanted.folder and not os.path.isdir(found):
                    return self.problem("wrong-type", key, f"expected a folder, {str(found)!r} is a file")
        if not all(CONSTRAINTS[name][1](found, bound) for name, bound in constraints(annotation).items()):
            return self._refuse(written, key, annotation, "out-of-range")
        return found

    def must_exist(self, key: Key) -> bool:
        """Return whether a path at a key has to exist."""
        return True

    def _refuse(
        self, value: object, key: Key, annotation: Annotation, code: Code = "wrong-type", more: str = ""
    ) -> object:
        return self.problem(code, key, expected(format_type(annotation, self.registry), value) + more)

    def problem(self, code: Code, key: Key, what: str, hint: str = "", warning: bool = False) -> object:
        """Report a problem at a key; returns ``LEFT_OUT``."""
        self.problems.append(Problem(Where(key), what, hint, warning, code=code))
        return LEFT_OUT
