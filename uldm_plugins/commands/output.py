"""Where commands leave images."""

from __future__ import annotations

from pathlib import Path

import click
from torch import Tensor

from uldm_core import MistakeError
from uldm_plugins.nn.images import save_grid
from uldm_plugins.stages.sample import save_images


def check_output(path: Path) -> None:
    """Raise ``MistakeError`` before any work is done if the images could not be written."""
    if path.suffix not in (".npz", ".png"):
        raise MistakeError(f"--out {path}: must end in .npz or .png")
    if not path.parent.is_dir():
        raise MistakeError(f"--out {path}: there is no folder {path.parent}")


def write_images(images: Tensor, path: Path) -> None:
    """Write uint8 images [N, C, H, W] as ``.npz`` or as one picture, and say so."""
    if path.suffix == ".npz":
        save_images(path, images)
    else:
        save_grid(images, path)
    click.echo(f"{path}: {len(images)} images", err=True)
