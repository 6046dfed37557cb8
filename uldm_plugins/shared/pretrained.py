"""Published weights: where they lie, how they are fetched, and what is believed."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from uldm_core.errors import MistakeError, OptionError, UnavailableError
from uldm_core.protocols import RequiredFile
from uldm_core.run_folder.files import format_error, read_tensors
from uldm_core.shapes import is_shapes_only

_NAMED_HASH = re.compile(r"-([0-9a-f]{8,64})$")
WITHOUT = "give weights = 'random' or the path of a file; the recipe images_latent needs none"


def published(address: str, *, auto_download: bool, without: str = WITHOUT) -> Path:
    """Return the file of an address from the torch hub cache, fetched if it is not there.

    Where only shapes are wanted, nothing is fetched, and the file need not be there.

    Args:
        address: where the file can be had; its name carries the start of its SHA-256, as torchvision's do.
        auto_download: whether the network may be used.
        without: how the component can do without it, for a message.

    Raises:
        ValueError: the name carries no hash.
        UnavailableError: the file is neither here nor to be had.
    """
    file = published_file(address, auto_download=auto_download, without=without)
    if file.path.is_file():
        return file.path
    begins = named_hash(file.path)
    if is_shapes_only():
        return file.path
    if file.obstacle:
        raise UnavailableError(f"{file.name} is not here, and {file.obstacle}: {file.hint}")
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(file.path), begins, progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:  # no network, no room; another hash than in the name
        raise UnavailableError(f"{file.name} cannot be fetched ({error}): {file.hint}") from error
    return file.path


def published_file(address: str, *, auto_download: bool, without: str = WITHOUT) -> RequiredFile:
    """Return what is known of the file of an address before it is fetched; see ``published``."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]
    found = _NAMED_HASH.search(path.stem)
    checksum = f"SHA-256 begins with {found[1]}" if found else ""
    obstacle = "" if auto_download else "auto_download is off"
    return RequiredFile(path.name, path, address, checksum=checksum, obstacle=obstacle, without=without)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict: ``.safetensors``, or a pickle whose name carries its hash.

    Raises:
        ValueError: there is no such file, it is damaged, or its name carries no hash.
    """
    path = existing(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    begins = named_hash(path)
    with path.open("rb") as file:
        found = _sha256(file)
    if not found.startswith(begins):
        raise OptionError(f"{path} is damaged: its hash begins with {found[:8]}, its name says {begins}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # there are many ways to be no file of torch's
        raise OptionError(f"{path}: no state dict that torch reads: {format_error(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        raise OptionError(f"{path}: no state dict: it does not hold tensors by their names")
    return state


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read tensors by their names; raises ``ValueError`` if the file is damaged or none of safetensors."""
    try:
        return read_tensors(path)
    except MistakeError as error:
        raise OptionError(f"{path}: {error.problems[0].what}") from error


def require_fitting(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Raise ``ValueError`` unless a file's tensors are those of a network, by their names and shapes."""
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    given = {name: tensor.shape for name, tensor in state.items()}
    if odd := next((name for name in {**wanted, **given} if wanted.get(name) != given.get(name)), None):
        here, there = (list(shapes[odd]) if odd in shapes else "nothing" for shapes in (wanted, given))
        raise OptionError(f"{path} is of another network: {odd} is {here} here, {there} there")


def existing(path: Path) -> Path:
    """Return a file's path; raises ``ValueError`` if there is none."""
    if not path.is_file():
        raise OptionError(f"weights must be a published name, 'random' or a file; there is no {path}")
    return path


def named_hash(path: Path) -> str:
    """Return the start of the SHA-256 that a file's name carries.

    Raises:
        ValueError: it carries none.
    """
    found = _NAMED_HASH.search(path.stem)
    if found is None:
        raise OptionError(
            f"{path.name} carries no hash in its name, as vgg16-397923af.pth does: give safetensors"
        )
    return found[1]


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
