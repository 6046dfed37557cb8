"""Files that are either whole or absent, and tensors in them without pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import time
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load, load_file, save
from torch import Tensor

from uldm_core.errors import MistakeError, Problem, Where, shortened
from uldm_core.paths import refused, whole

T = TypeVar("T")

MISREAD = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""The errors of parsing a file that is damaged, or not what its name says."""

_OF_ANY_RECORD = ("format", "uldm", "record")
FORMAT = 2
"""Of a run's folder, in each of its records. Those of format 1 have no number and no checksum."""


def damaged(path: Path, what: str) -> MistakeError:
    """Return the error of a damaged file of a run, with how to get a good one."""
    stage = next((folder for folder in path.parents if folder.parent.name == "stages"), None)
    run = next((folder for folder in path.parents if (folder / "recipe.toml").is_file()), None)
    again = f" and run again: {command_for(run)}" if run else ""
    return refused(path, what, f"put back a copy, or remove {stage or 'it'}{again}")


def command_for(run: str | Path) -> str:
    """Return the command that resumes a run in its folder, quoted for a shell."""
    folder = shlex.quote(str(run))
    return f"uldm run {folder} --out {folder}"


def format_error(error: BaseException) -> str:
    """Format an error of reading a file, on one line."""
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never half of it."""
    with whole(path, len(content)) as file:
        file.write(content)


def digest(path: Path, length: int | None = None) -> str:
    """Return a hash of a file's content, or of its first bytes; it is read again only if it may have changed.

    Args:
        path: of the file.
        length: of what is hashed, in bytes; all of it by default.
    """
    status = path.stat()
    state = (status.st_ino, status.st_size if length is None else length, status.st_mtime_ns)
    if time.time_ns() - status.st_mtime_ns < 1_000_000_000:  # a change within the clock's tick is not seen
        return _digest.__wrapped__(path, *state)
    return _digest(path, *state)


@lru_cache(4096)
def _digest(path: Path, inode: int, size: int, changed: int) -> str:
    found, left = hashlib.blake2b(digest_size=8), size
    with path.open("rb") as file:
        while block := file.read(min(left, 1 << 20)):
            found.update(block)
            left -= len(block)
    return found.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all; lone surrogates (in names of files) are escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_record(path: Path, record: Mapping[str, object]) -> None:
    """Write a record as JSON, with its format, its name, uldm's version and a checksum."""
    write_text(path, record_text(path, record))


def record_text(path: Path, record: Mapping[str, object]) -> str:
    """Return what ``write_record`` writes."""
    content = {"format": FORMAT, "uldm": core_version(), "record": _what(path), **record}
    return json.dumps({**content, "checksum": _checksum(content)}, indent=2) + "\n"


def read_record(path: Path, make: Callable[[dict[str, Any]], T]) -> T | None:
    """Read what ``write_record`` wrote, or return None if there is no such file; else as ``read_json``.

    Raises:
        MistakeError: also of one that has changed since, or that a later version of uldm wrote.
    """

    what = _what(path)

    def checked(value: Any) -> T:
        if not isinstance(value, dict):
            raise TypeError("it holds no record")
        content = dict(value)
        version, checksum = content.get("format", 1), content.pop("checksum", "")
        if isinstance(version, int) and version > FORMAT:
            raise _later(path, version, content.get("uldm"))
        if checksum != (_checksum(content) if "format" in content else ""):
            raise ValueError("it has changed since it was written: the checksum differs")
        if what and content.get("record", what) != what:
            raise ValueError(f"it is another record: {shortened(content['record'])}")
        return make({name: value for name, value in content.items() if name not in _OF_ANY_RECORD})

    return read_json(path, checked)


def _what(path: Path) -> str:
    """Return what a record is, by its place; a copy is the same. Nothing of a stage that was archived."""
    name = path.name.replace("_copy", "")
    if name == "stage.json":
        return "" if path.parent.parent.name == "set_aside" else f"stages/{path.parent.name}/{name}"
    return "evaluation" if path.parent.name == "evaluations" else name


def _checksum(content: object) -> str:
    return digest_of(json.dumps(content).encode())


def digest_of(content: bytes) -> str:
    """Return a hash of some bytes; that of a file with this content."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _later(path: Path, version: int, writer: object) -> MistakeError:
    what = f"of format {version}, which uldm {shortened(writer)} wrote; this is uldm {core_version()}"
    what += f", which reads up to format {FORMAT}"
    hint = "upgrade uldm: pip install -U uldm"
    return MistakeError(Problem(Where((), str(path)), what, hint, code="unsupported-format"))


@cache
def core_version() -> str:
    """Return the version of uldm; empty where it runs from a copy of its source."""
    try:
        return version("uldm")
    except PackageNotFoundError:
        return ""


def read_bytes(path: Path) -> bytes:
    """Read a file of a run.

    Raises:
        MistakeError: it is missing, no file, or cannot be read.
    """
    require(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror}") from error


def require(path: Path) -> None:
    """Raise ``MistakeError`` unless there is a file."""
    if not path.is_file():
        raise damaged(path, "a folder where a file belongs" if path.is_dir() else "missing")


def read_json(path: Path, make: Callable[[Any], T]) -> T | None:
    """Read JSON, or return None if there is no such file.

    Args:
        path: the file.
        make: converts the value; raises ``ValueError``, ``TypeError`` or ``KeyError`` of what does not suit.

    Raises:
        MistakeError: it cannot be read, is no JSON, or does not suit.
    """
    if not os.path.lexists(path):
        return None
    content = read_bytes(path)
    try:
        return make(json.loads(content))
    except MISREAD as error:
        raise damaged(path, f"not what uldm writes there: {format_error(error)}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write safetensors, whole or not at all."""
    write_bytes(path, tensor_bytes(tensors))


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the content of a safetensors file."""
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})


def _is_utf8(path: Path) -> bool:
    """Whether a path can be given to a library that wants UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors to the CPU.

    Raises:
        MistakeError: the file is missing, cut short, or no safetensors.
    """
    require(path)
    try:
        with path.open("rb") as file:  # an error of the system names its reason, the library's does not
            return load_file(path) if _is_utf8(path) else load(file.read())
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # the library has an error of its own, and lets some of torch's through
        raise damaged(path, f"no safetensors that can be read: {format_error(error)}") from error
