"""What the choices for a folder of images follow from: the folder, the computer, and what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import field, frozen

Size = tuple[int, int]
FEWEST = 20
"""So many images are needed: a few for testing, some groups of similar ones, and more to learn from."""
FEW = 1000
"""Fewer images than these are a small set, which a model soon knows by heart."""
MOST = 0.7
"""A share that counts as most of the images."""


@frozen
class FolderSummary:
    """What was found in a folder of images.

    Shapes and colours are of a sample; shares are of its images.

    Args:
        root: the folder.
        count: usable images; of a very large folder an estimate.
        checked: how many files were decoded to know that.
        left_out: how many files are not used, by reason.
        sampled: how many images were looked at for shapes and colours.
        height: the median, in pixels.
        width: the median, in pixels.
        shorter: the shorter side, in pixels: of the smallest images (5 %), the median, of the largest (95 %).
        ratio: width / height, the median.
        of_that_ratio: the share of images whose ratio is within a tenth of the median.
        landscape: the share of images wider than high, by more than a tenth.
        portrait: the share of images higher than wide, by more than a tenth.
        grey: the share of images without colour.
        transparent: the share of images with transparent pixels.
        light: the share of transparent images that could hardly be seen on white.
        classes: names of folders that may be classes.
        repeated: images whose file occurs before.
        similar: the share of the images for testing that look nearly like one that is trained on.
        read_seconds: of decoding an image, all threads together.
    """

    root: Path
    count: int
    checked: int = 0
    left_out: Mapping[str, int] = field(factory=dict)
    sampled: int = 0
    height: int = 64
    width: int = 64
    shorter: tuple[int, int, int] = (64, 64, 64)
    ratio: float = 1.0
    of_that_ratio: float = 1.0
    landscape: float = 0.0
    portrait: float = 0.0
    grey: float = 0.0
    transparent: float = 0.0
    light: float = 0.0
    classes: Sequence[str] = ()
    repeated: int = 0
    similar: float = 0.0
    read_seconds: float = 1e-3


@frozen
class Computer:
    """What trains.

    Args:
        name: of the processor or GPU.
        threads: of the processor, that torch uses.
        memory: bytes in all.
        free_disk: bytes free where the recipe is.
        gpu: whether it is a GPU.
        here: whether it is this computer; else nothing can be measured, and its speed is assumed.
        weights: backbones whose published weights are here.
    """

    name: str = "a processor"
    threads: int = 2
    memory: int = 8 << 30
    free_disk: int = 10 << 30
    gpu: bool = False
    here: bool = True
    weights: frozenset[str] = frozenset()


@frozen
class Request:
    """What was asked for.

    Args:
        minutes: of the whole run.
        size: height and width of the images; None to choose.
        channels: of the images; None to choose.
    """

    minutes: float = 20.0
    size: Size | None = None
    channels: int | None = None
