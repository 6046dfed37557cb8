"""Where commands leave images."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import click
from click.core import ParameterSource
from torch import Tensor

from uldm_core import MistakeError
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
    """Say how many of something there are."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def write_images(images: Tensor, path: Path) -> None:
    """Write uint8 images [N, C, H, W] as ``.npz`` or as one picture, and say so."""
    if path.suffix == ".npz":
        save_images(path, images)
    else:
        save_grid(images, path)
    click.echo(f"{path}: {counted(len(images), 'image')}", err=True)


def command_line() -> str:
    """Return the command that runs, as a person would type it; flags that were not given are left out."""
    context = click.get_current_context()
    words = context.command_path.split()
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if context.get_parameter_source(parameter.name or "") != ParameterSource.COMMANDLINE or value is None:
            continue
        values = [str(one) for one in value] if isinstance(value, (list, tuple)) else [str(value)]
        if isinstance(parameter, click.Argument):
            words += values
        elif isinstance(value, bool):
            words += [parameter.opts[0]] if value else parameter.secondary_opts[:1]
        else:
            words += [word for one in values for word in (parameter.opts[0], one)]
    return shlex.join(words)
