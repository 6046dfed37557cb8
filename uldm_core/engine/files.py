"""Files that are either whole or absent, and tensors in them without pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    shutil.copyfile(source, temporary)
    temporary.replace(path)


def digest(path: Path) -> str:
    """Return a hash of a file's content."""
    found = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all; what UTF-8 lacks (in the name of a file) is escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON, or return None if there is no such file."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write safetensors, whole or not at all."""
    separate = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, save(separate))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors to the CPU."""
    return load_file(path)


def is_readable(path: Path) -> bool:
    """Whether a file is safetensors, none of its tensors cut short."""
    try:
        with safe_open(path, "pt"):
            return True
    except (SafetensorError, OSError):
        return False


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a nested state (modules, optimizers) as a folder: ``state.safetensors`` and ``state.json``.

    The folder appears under its name only when it is complete.
    """
    temporary = folder.with_name(folder.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    tensors: dict[str, Tensor] = {}
    skeleton = _split(state, tensors)
    write_tensors(temporary / "state.safetensors", tensors)
    write_json(temporary / "state.json", skeleton)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    _sync(folder.parent)


def read_state(folder: Path) -> Any:
    """Read what ``write_state`` wrote."""
    return _join(read_json(folder / "state.json"), read_tensors(folder / "state.safetensors"))


def _split(value: Any, tensors: dict[str, Tensor]) -> Any:
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


def _join(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    ((form, content),) = skeleton.items()
    if form == "tensor":
        return tensors[content]
    if form == "dict":
        return {key: _join(item, tensors) for key, item in content}
    if form == "list":
        return [_join(item, tensors) for item in content]
    return content


def _sync(path: Path) -> None:
    """Ask the system to have written a file or folder before we go on."""
    if os.name == "nt":  # pragma: no cover (folders cannot be opened there)
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
