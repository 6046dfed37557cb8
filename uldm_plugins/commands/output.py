"""Where commands leave images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click
from torch import Tensor

from uldm_core import MistakeError
from uldm_plugins.pictures.reconstructions import save_image
from uldm_plugins.shared.images import save_grid
from uldm_plugins.stages.sample import save_images


def check_output(path: Path, endings: Sequence[str] = (".npz", ".png"), option: str = "--out") -> None:
    """Raise ``MistakeError`` before any work is done if the images could not be written."""
    if path.suffix not in endings:
        raise MistakeError(f"{option} {path}: must end in {' or '.join(endings)}")
    if not path.parent.is_dir():
        raise MistakeError(f"{option} {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise MistakeError(f"{option} {path}: is a folder")
    places = [path.resolve().parent, *([path] if path.exists() else [])]  # it is replaced, not written over
    if not all(os.access(place, os.W_OK) for place in places):
        raise MistakeError(f"{option} {path}: may not be written")


def counted(number: int, what: str) -> str:
    """Return a number with what it counts: ``2 images``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def write_images(images: Tensor, path: Path, classes: Tensor | None = None) -> None:
    """Write uint8 images [N, C, H, W] as ``.npz``, with their classes, or as one picture; print where."""
    if path.suffix == ".npz":
        save_images(path, images, classes)
    elif images.shape[:2] == (1, 4):  # one alone stays transparent
        save_image(images[0], path)
    else:
        save_grid(images, path)
    click.echo(f"{path}: {counted(len(images), 'image')}", err=True)
