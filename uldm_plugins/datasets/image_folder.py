"""Any folder of images."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Interval
from torch import Tensor

from uldm_core import Exists
from uldm_core.errors import OptionError
from uldm_core.shapes import height_and_width, written_size
from uldm_core.sizes import Size
from uldm_plugins.shared.checked_files import FileNames, ImageFiles, content_fingerprint
from uldm_plugins.shared.files import MAX_PIXELS, Fit, Reading, image_names, leads_nowhere, shown
from uldm_plugins.shared.packed_images import images_of
from uldm_plugins.shared.similar import duplicates
from uldm_plugins.shared.split_names import check_split
from uldm_plugins.shared.splits import groups_of, is_for_testing

_NAMES = {"train": ("train",), "valid": ("val", "valid", "validation"), "test": ("test",)}
_LIKE_A_SPLIT = re.compile("(?i:train(ing)?|test(ing)?|val(id(ation)?)?)([^a-z].*)?", re.DOTALL)
_SOME = 5
_log = logging.getLogger(__name__)


class ImageFolder:
    """Every PNG, JPEG, WebP, BMP, TIFF and GIF under a folder, sorted by path, brought to one size.

    Folders ``train`` and ``test`` are the splits, if there are both; ``val`` (``valid``, ``validation``) is
    ``valid`` beside them, and ``test`` where there is no ``test``. Else a share is drawn for ``test``: by
    content, so that copies of an image are on one side, and other images change nothing. If every image lies
    in a folder (of its split), and there are several, the folders are classes. Links to folders are followed.

    Each file is decoded once, in parallel, before it is used: what cannot be, or has too many pixels, is left
    out, counted and named in the log; ``left_out`` has all of it. What was found, and the images themselves,
    lie in the cache, ``~/.cache/uldm``.

    Source: as ``torchvision.datasets.ImageFolder``, which needs classes.

    Args:
        root: the folder.
        size: height and width of the images, one number for a square.
        channels: 1 (grey), 3 (RGB), or 4 (RGB and alpha).
        fit: ``crop`` (the largest middle part of that shape, resized), ``pad`` (the whole image, and around
            it the background) or ``stretch``.
        background: what lies below transparent pixels: ``white``, ``black``, ``grey`` or ``#rrggbb``.
        test_share: share of the images drawn for ``test``, one at least, where the folder has no such split.
        split_seed: of that draw.
        groups: images that stay in one split: those of a ``folder``, or those whose path below ``root`` has
            the same group 1 of a regular expression, as ``(.*)_[0-9]+`` for a number's prefix; or ``none``.
        subset: which split this is.
        limit: take only the first so many images of each split.
        max_pixels: larger images are left out: they may be bombs.
        pack: keep the images as one file in the cache, of size times channels bytes an image; else each is
            decoded whenever it is needed.

    Raises:
        ValueError: there is no such folder, or a split has no usable image.
    """

    splits: tuple[str, ...] = ("train", "test")
    labels: Tensor
    class_names: tuple[str, ...]

    def __init__(
        self,
        root: Annotated[Path, Exists(folder=True)],
        size: Size = 64,
        channels: Literal[1, 3, 4] = 3,
        fit: Fit = "crop",
        background: str = "white",
        test_share: Annotated[float, Interval(gt=0, lt=1)] = 0.1,
        split_seed: Annotated[int, Ge(0)] = 0,
        groups: str = "none",
        subset: Literal["train", "valid", "test"] = "train",
        limit: Annotated[int, Ge(1)] | None = None,
        max_pixels: Annotated[int, Ge(1)] = MAX_PIXELS,
        pack: bool = True,
    ) -> None:
        self.root, self.size, self.channels = Path(root), height_and_width(size), channels
        reading = Reading(self.size, channels, fit, background, max_pixels=max_pixels)
        folders = _split_folders(self.root)
        names, left_out = _names(self.root, folders)
        self._files = ImageFiles(self.root, names, max_pixels)
        self._images = images_of(self._files, reading, pack)
        sound, self.left_out = self._files.sound(left_out)
        usable = self._files.names.at(sound)
        if folders:
            places = _by_folder(self.root, usable, folders)
        else:
            _warn_of_mixed(self.root, usable)
            in_groups = groups_of(usable.names(), groups)
            is_test = is_for_testing(
                self._files.hashes[sound], in_groups, test_share, split_seed, shown(self.root)
            )
            places = {"train": np.flatnonzero(~is_test), "test": np.flatnonzero(is_test)}
        self._places = {split: sound[of_split[:limit]] for split, of_split in places.items()}
        self._classes = _classes(usable, sound, len(names), below=1 if folders else 0)
        self._fitting = fit, background
        self.splits = tuple(places)
        check_split(subset, self.splits)
        both = self._places["train"], self._places["test"]
        self.duplicates = duplicates(self._files.hashes, self._images, *both)
        self.duplicates.log(shown(self.root))
        self._take(subset)

    def _take(self, subset: str) -> None:
        """Become a split."""
        self.subset = subset
        places = self._places[subset]
        self.paths = self._files.names.at(places)
        options: list[object] = [written_size(self.size), self.channels, subset]
        if self._fitting != ("crop", "white"):  # without these, as in earlier versions
            options += self._fitting
        if self._classes is not None:
            self.class_names, labels = self._classes
            self.labels = torch.from_numpy(labels[places])
            options.append(hashlib.blake2b(labels[places].tobytes(), digest_size=8).hexdigest())
        self.fingerprint = content_fingerprint(self._files.hashes[places], *options)

    def __len__(self) -> int:
        return len(self.paths)

    def images(self, indices: Tensor) -> Tensor:
        """Return images, uint8 [B, channels, height, width].

        Raises:
            UnreadableImageError: a file can no longer be decoded.
        """
        return self._images.images(self._at(indices))

    def prefetch(self, indices: Tensor) -> None:
        """Read the images that are asked for next while others are used."""
        self._images.prefetch(self._at(indices))

    def split(self, name: str) -> ImageFolder:
        """Return the split of this name, one of ``splits``."""
        check_split(name, self.splits)
        other = copy(self)
        other._take(name)
        return other

    def _at(self, indices: Tensor) -> Tensor:
        return torch.from_numpy(self._places[self.subset][indices.cpu().numpy()])


def _split_folders(root: Path) -> dict[str, str]:
    """Return the split of each folder that is one, by its name; none where they do not make up two splits."""
    try:
        paths = [entry.path for entry in os.scandir(root)]
    except OSError:  # which is reported when the files are listed
        return {}
    names = sorted(os.path.basename(path) for path in paths if os.path.isdir(path) or leads_nowhere(path))
    splits = {name: split for name in names for split, known in _NAMES.items() if name.casefold() in known}
    if not {"train"} < set(splits.values()):
        _warn_of_names(root, splits, [name for name in names if name not in splits])
        return {}
    if "test" not in splits.values():
        splits = {name: "train" if split == "train" else "test" for name, split in splits.items()}
    return splits


def _warn_of_names(root: Path, splits: Mapping[str, str], others: Sequence[str]) -> None:
    """Log what is done where folders have names of splits, and do not make up two."""
    for name in splits if "train" not in splits.values() else ():
        what = "its images are trained on like all others"
        _log.warning("%s has a folder %s but none named train: %s", shown(root), name, what)
    shown_others = [shown(name) for name in others if not name.startswith(".")]
    if splits and shown_others and "train" in splits.values():
        some = ", ".join(shown_others[:_SOME]) + (" and others" if len(shown_others) > _SOME else "")
        what = f"all images are used, also those in {some}, and a share kept for testing"
        _log.warning("%s has a folder train but none named test or val: %s", shown(root), what)


def _warn_of_mixed(root: Path, paths: Iterable[Path]) -> None:
    """Log where folders beside each other have names of splits, and are not read as such."""
    beside = defaultdict(set)
    for folder in {os.path.dirname(path) for path in paths}:
        below = Path(folder).relative_to(root)
        for above in (below, *below.parents[:-1]):
            if _LIKE_A_SPLIT.fullmatch(above.name):
                beside[above.parent].add(above.name)
    for parent, names in sorted(beside.items()):
        if {"tr"} < {name[:2].casefold() for name in names}:
            what = "their images are mixed; splits are folders train and test (or val) of root itself"
            _log.warning(
                "%s has folders %s: %s", shown(root / parent), ", ".join(map(shown, sorted(names))), what
            )


def _names(root: Path, folders: Mapping[str, str]) -> tuple[list[bytes], dict[str, str]]:
    """Return the names of the files in the splits' folders, if there are any, and why others are left out."""
    names, left_out = image_names(root)
    if not folders:
        return names, left_out
    inside = {os.fsencode(name) for name in folders}
    outside = [name for name in names if _top(name) not in inside]
    why = f"outside of the folders {', '.join(folders)}"
    return [name for name in names if _top(name) in inside], {
        **left_out,
        **{shown(os.fsdecode(name)): why for name in outside},
    }


def _top(name: bytes) -> bytes:
    return name.split(os.fsencode(os.sep), 1)[0]


def _by_folder(root: Path, names: FileNames, folders: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return the places of each split's files, where folders are the splits."""
    numbers = {split: number for number, split in enumerate(_NAMES)}
    of_each = np.array([numbers[folders[name.split(os.sep, 1)[0]]] for name in names.names()], np.uint8)
    found = {
        split: np.flatnonzero(of_each == numbers[split]) for split in _NAMES if split in folders.values()
    }
    for name, split in folders.items():
        if not len(found[split]):
            raise OptionError(
                f"{shown(root / name)} has no usable image: put some there, or rename the folder"
            )
    return found


def _classes(
    names: FileNames, places: np.ndarray, count: int, below: int
) -> tuple[tuple[str, ...], np.ndarray] | None:
    """Return the names of classes, and the class of each file; None unless all lie in one of some folders.

    Args:
        names: of the usable files.
        places: of these among all files.
        count: of all files.
        below: how many folders of a split are around the classes.
    """
    folders: dict[str, int] = {}
    of_each = np.zeros(len(names), np.int64)
    for index, name in enumerate(names.names()):
        parts = name.split(os.sep, below + 1)
        if len(parts) < below + 2:
            return None
        of_each[index] = folders.setdefault(parts[below], len(folders))
    if len(folders) < 2:
        return None
    ordered = sorted(folders)
    rank = {name: label for label, name in enumerate(ordered)}
    every = np.zeros(count, np.int64)
    every[places] = np.array([rank[name] for name in folders])[of_each]
    return tuple(map(shown, ordered)), every
