"""Checkpoints of a training: saved whole or not at all, checked when they are loaded, without pickle."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen
from torch import Tensor

from uldm_core.paths import beside, inside, make_folder, move, names_in, remove
from uldm_core.protocols import Stateful
from uldm_core.run_folder.files import (
    damaged,
    format_error,
    read_json,
    read_tensors,
    require,
    write_json,
    write_tensors,
)

_STEP = re.compile(r"0|[1-9][0-9]*")


@frozen
class Checkpoints:
    """The checkpoints of a stage, each a folder named by its step.

    Args:
        path: the folder that holds them.
        run: the run's folder, below which no link is followed.
    """

    path: Path
    run: Path

    def last(self) -> int | None:
        """Return the step of the last complete checkpoint; after a crash there may be an earlier one."""
        return max((int(name) for name in names_in(self.path) if _STEP.fullmatch(name)), default=None)

    def save(self, step: int, state: Mapping[str, object]) -> None:
        """Write the state after ``step`` steps, then drop the older ones and what a crash left of one."""
        write_state(self._folder(step), state)
        for name in names_in(self.path):
            if name != str(step) and (_STEP.fullmatch(name) or name.endswith(".part")):
                remove(self.path / name)

    def load(self, step: int) -> Any:
        """Read the state of that step; raises ``MistakeError`` if it is damaged."""
        folder = self._folder(step)
        for name in ("state.json", "state.safetensors"):
            inside(folder, name)
        return read_state(folder)

    def restore(self, step: int, state: Any, parts: Mapping[str, Stateful]) -> None:
        """Give modules and optimizers the state of that step; raises ``MistakeError`` if it does not fit."""
        try:
            for name, part in parts.items():
                part.load_state_dict(state[name])
        except Exception as error:  # each part has its own way to say so
            what = f"not a state of what the recipe builds: {format_error(error)}"
            raise damaged(self._folder(step), what) from error

    def _folder(self, step: int) -> Path:
        return inside(self.run, *self.path.relative_to(self.run).parts, str(step))


def write_state(folder: Path, state: Mapping[str, object]) -> None:
    """Write a nested state (modules, optimizers) as a folder: ``state.safetensors`` and ``state.json``.

    The folder appears under its name only when it is complete.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _split(state, tensors)
    make_folder(folder.parent)
    temporary = beside(folder)
    temporary.mkdir()
    try:
        write_tensors(temporary / "state.safetensors", tensors)
        checksum = _checksum(temporary / "state.safetensors", skeleton)
        write_json(temporary / "state.json", {**skeleton, "checksum": checksum})
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
        if checksum not in (None, _checksum(folder / "state.safetensors", skeleton)):
            raise ValueError("it, or state.safetensors beside it, has changed since: the checksum differs")
        return _join(skeleton, tensors)

    return read_json(folder / "state.json", joined)


def _checksum(tensors: Path, skeleton: object) -> str:
    """Return what tells whether a file of tensors and what belongs to it are as they were written."""
    digest = hashlib.blake2b(json.dumps(skeleton).encode("utf-8"), digest_size=16)
    with tensors.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


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
