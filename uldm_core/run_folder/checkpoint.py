"""Checkpoints of a training: saved whole or not at all, checked when they are loaded, without pickle."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from attrs import frozen
from torch import Tensor

from uldm_core.errors import MistakeError, RunError
from uldm_core.paths import beside, inside, make_folder, move, names_in, remove
from uldm_core.protocols import Stateful
from uldm_core.run_folder.files import (
    damaged,
    format_error,
    read_json,
    read_tensors,
    require,
    tensor_bytes,
    write_bytes,
)

_STEP = re.compile(r"0|[1-9][0-9]*")
T = TypeVar("T")
_ABOUT = ("notes", "logged")
_PIECE = 1 << 20


@frozen
class Checkpoints:
    """The checkpoints of a stage, each a folder named by its step.

    Args:
        path: the folder that holds them.
        run: the run's folder, below which no link is followed.
    """

    path: Path
    run: Path

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints that are there, in order; each was complete when written."""
        return sorted(int(name) for name in names_in(self.path) if _STEP.fullmatch(name))

    def last(self) -> int | None:
        """Return the step of the last checkpoint, if there is one."""
        return max(self.steps(), default=None)

    def newest(
        self, warn: Callable[[str], object], flaw: Callable[[Any], str] = lambda state: ""
    ) -> tuple[int, Any] | None:
        """Return the last checkpoint that is whole, its step and its state; None if none is.

        Args:
            warn: receives a line for each later one that is skipped: which, why, and what is taken.
            flaw: returns what else is wrong with a state, or an empty text.
        """
        skipped, found = [], None
        for step in reversed(self.steps()):
            try:
                state = self.load(step)
                what = flaw(state)
            except MistakeError as error:
                what = f"{error.problems[0].where}: {error.problems[0].what}"
            if not what:
                found = step, state
                break
            skipped.append((step, what))
        then = (
            f"that of step {found[0]} is taken" if found else "no other is whole: training begins at step 0"
        )
        for step, what in skipped:
            warn(f"the checkpoint of step {step} is skipped ({what}); {then}")
        return found

    def notes(self, step: int) -> dict[str, float]:
        """Return the numbers noted when the state of that step was saved; none if they cannot be read."""

        return self._about(step, "notes", float)

    def logged(self, step: int) -> dict[str, tuple[int, str]]:
        """Return the length and digest of each log when the state of that step was saved."""

        return self._about(step, "logged", _length_and_digest)

    def _about(self, step: int, what: str, made: Callable[[Any], T]) -> dict[str, T]:
        """Return what was written beside the state of a step; nothing if it cannot be read."""

        def about(state: dict[str, Any]) -> dict[str, T]:
            return {name: made(value) for name, value in state.get(what, {}).items()}

        try:
            return read_json(self._folder(step) / "state.json", about) or {}
        except MistakeError:
            return {}

    def save(
        self,
        step: int,
        state: Mapping[str, object],
        notes: Mapping[str, float] | None = None,
        logged: Mapping[str, tuple[int, str]] | None = None,
    ) -> None:
        """Write the state after ``step`` steps, and compare what lies on the disk with it.

        Args:
            step: of the state.
            state: nested, of tensors and what JSON has.
            notes: a few numbers about it.
            logged: the length and digest of each log of the stage.

        Raises:
            RunError: it lies there otherwise; the earlier checkpoints are untouched.
        """
        write_state(self._folder(step), state, notes=notes, logged=logged)

    def prune(self, keep: int, best: str = "", void: Iterable[int] = ()) -> None:
        """Remove all checkpoints but some, and what a crash left of one.

        Args:
            keep: how many of the last ones stay.
            best: of which noted value the one with the lowest stays as well, the earliest of equals.
            void: steps of checkpoints that are of no use.
        """
        steps = [step for step in self.steps() if step not in set(void)]
        stay = {str(step) for step in steps[-keep:]}
        values = {step: self.notes(step).get(best, math.inf) for step in steps} if best else {}
        if any(map(math.isfinite, values.values())):
            stay.add(str(min(steps, key=values.__getitem__)))
        for name in names_in(self.path):
            if name not in stay and (_STEP.fullmatch(name) or name.endswith(".part")):
                remove(self.path / name)

    def load(self, step: int) -> Any:
        """Read the state of that step; raises ``MistakeError`` if it is damaged."""
        folder = self._folder(step)
        for name in ("state.json", "state.safetensors"):
            inside(folder, name)
        return read_state(folder)

    def restore(self, step: int, state: Any, parts: Mapping[str, Stateful]) -> None:
        """Give modules and optimizers the state of that step; raises ``MistakeError`` if it does not fit."""
        with self.fitting(step):
            for name, part in parts.items():
                part.load_state_dict(state[name])

    @contextmanager
    def fitting(self, step: int) -> Iterator[None]:
        """Raise ``MistakeError`` of any error in using the state of that step: it does not fit."""
        try:
            yield
        except Exception as error:  # each component has its own way to say so
            what = f"not a state of what the recipe builds: {format_error(error)}"
            raise damaged(self._folder(step), what) from error

    def _folder(self, step: int) -> Path:
        return inside(self.run, *self.path.relative_to(self.run).parts, str(step))


def _length_and_digest(entry: Any) -> tuple[int, str]:
    size, known = entry
    return int(size), str(known)


def write_state(folder: Path, state: Mapping[str, object], **about: Mapping[str, object] | None) -> None:
    """Write a nested state (modules, optimizers) as a folder: ``state.safetensors`` and ``state.json``.

    The folder appears under its name only when it is complete, and has been read back. ``about`` are
    ``notes`` and what was ``logged``, as ``Checkpoints.save`` takes them.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = {**_split(state, tensors), **{name: dict(value) for name, value in about.items() if value}}
    content = tensor_bytes(tensors)
    checksum = _checksum(skeleton, [content])
    text = json.dumps({**skeleton, "checksum": checksum}, indent=2) + "\n"
    make_folder(folder.parent)
    temporary = beside(folder)
    make_folder(temporary)
    try:
        _write_checked(temporary / "state.safetensors", content)
        _write_checked(temporary / "state.json", text.encode())
        remove(folder)
        move(temporary, folder)
    except BaseException:
        remove(temporary)
        raise


def read_state(folder: Path) -> Any:
    """Read what ``write_state`` wrote.

    Raises:
        MistakeError: a file of it is missing, damaged, or not of the other.
    """
    tensors = read_tensors(folder / "state.safetensors")
    require(folder / "state.json")

    def joined(skeleton: dict[str, Any]) -> Any:
        checksum = skeleton.pop("checksum", None)  # which states of earlier versions do not have
        with (folder / "state.safetensors").open("rb") as file:
            if checksum not in (None, _checksum(skeleton, iter(lambda: file.read(_PIECE), b""))):
                raise ValueError(
                    "it, or state.safetensors beside it, has changed since: the checksum differs"
                )
        return _join({name: part for name, part in skeleton.items() if name not in _ABOUT}, tensors)

    return read_json(folder / "state.json", joined)


def _checksum(skeleton: object, tensors: Iterable[bytes]) -> str:
    """Return what tells whether a file of tensors, in pieces, and its skeleton are as they were written."""
    digest = hashlib.blake2b(json.dumps(skeleton).encode("utf-8"), digest_size=16)
    for piece in tensors:
        digest.update(piece)
    return digest.hexdigest()


def _write_checked(path: Path, content: bytes) -> None:
    """Write a file, and compare it with what comes back from the disk; ``RunError`` if that differs."""
    write_bytes(path, content)
    with path.open("rb") as file:
        if hasattr(os, "posix_fadvise"):  # so that it is the disk that is read, not the copy in memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        written = memoryview(content)
        pieces = (written[start : start + _PIECE] for start in range(0, len(content), _PIECE))
        if not all(file.read(len(piece)) == piece for piece in pieces) or file.read(1):
            what = f"{path.parent}: what was written comes back otherwise: the disk or its driver is at fault"
            raise RunError(what, hint="the earlier checkpoint is kept; copy the run to another disk")


def _split(value: object, tensors: dict[str, Tensor]) -> dict[str, object]:
    """Replace each tensor by its name among ``tensors``; mark containers, so that any key survives JSON."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[key, _split(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_split(item, tensors) for item in value]}
    return {"value": value}


def _join(skeleton: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    ((form, content),) = skeleton.items()
    if form == "tensor":
        return tensors[content]
    if form == "dict":
        return {key: _join(item, tensors) for key, item in content}
    if form == "list":
        return [_join(item, tensors) for item in content]
    if form != "value":
        raise ValueError(f"a value is said to be a {form!r}")
    return content
