"""Any folder of images."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval
from torch import Tensor

from uldm_core import Exists
from uldm_core.errors import OptionError
from uldm_core.shapes import written_size
from uldm_plugins.datasets.arrays import check_split
from uldm_plugins.shared.checked_files import CheckedFiles, check, content_fingerprint
from uldm_plugins.shared.files import MAX_PIXELS, Reading, image_files, leads_nowhere, shown

_NAMES = {"train": ("train",), "valid": ("val", "valid", "validation"), "test": ("test",)}
_LIKE_A_SPLIT = re.compile("(?i:train(ing)?|test(ing)?|val(id(ation)?)?)([^a-z].*)?", re.DOTALL)
_SOME = 5
_log = logging.getLogger(__name__)


class ImageFolder:
    """Every PNG, JPEG and WebP under a folder, in the order of their paths, cut to squares of one size.

    Folders ``train`` and ``test`` are the splits, if there are both; ``val`` (``valid``, ``validation``) is
    ``valid`` beside them, and ``test`` where there is no ``test``. Else every so many images one is kept for
    ``test``. Each file is decoded once, in parallel, before it is used: what cannot be, or has too many
    pixels, is left out, counted and named in the log; ``left_out`` has all of it. What was found is
    remembered in ``~/.cache/uldm``. Links to folders are followed.

    Source: as ``torchvision.datasets.ImageFolder``, without classes.

    Args:
        root: the folder.
        size: side of the images: the middle square, resized (Lanczos).
        channels: 1 (grey) or 3 (RGB).
        test_share: share of the images kept for ``test``, one at least, where the folder has no such split.
        subset: which split this is.
        limit: take only the first so many images of each split.
        max_pixels: larger images are left out: they may be bombs.

    Raises:
        ValueError: there is no such folder, or a split has no usable image.
    """

    splits: tuple[str, ...] = ("train", "test")

    def __init__(
        self,
        root: Annotated[Path, Exists(folder=True)],
        size: Annotated[int, Ge(1)] = 64,
        channels: Literal[1, 3] = 3,
        test_share: Annotated[float, Interval(gt=0, lt=1)] = 0.1,
        subset: Literal["train", "valid", "test"] = "train",
        limit: Annotated[int, Ge(1)] | None = None,
        max_pixels: Annotated[int, Ge(1)] = MAX_PIXELS,
    ) -> None:
        self.root, self.size, self.channels, self.max_pixels = Path(root), (size, size), channels, max_pixels
        folders = _split_folders(self.root)
        self._files = _checked(self.root, folders, max_pixels)
        self.left_out = dict(self._files.left_out)
        if folders:
            places = _by_folder(self.root, self._files, folders)
        else:
            _warn_of_mixed(self.root, self._files.paths)
            places = _by_share(self.root, len(self._files.paths), test_share)
        self._places = {split: of_split[:limit] for split, of_split in places.items()}
        self.splits = tuple(places)
        check_split(subset, self.splits)
        self._take(subset)

    def _take(self, subset: str) -> None:
        """Become a split."""
        self.subset = subset
        self.paths = [self._files.paths[place] for place in self._places[subset]]
        content = [self._files.hashes[place] for place in self._places[subset]]
        self.fingerprint = content_fingerprint(content, written_size(self.size), self.channels, subset)

    def __len__(self) -> int:
        return len(self.paths)

    def images(self, indices: Tensor) -> Tensor:
        """Return images, uint8 [B, channels, size, size].

        Raises:
            UnreadableImageError: a file can no longer be decoded.
        """
        paths = [self.paths[int(index)] for index in indices]
        reading = Reading(self.size, self.channels, max_pixels=self.max_pixels)
        return reading.batch(paths)

    def split(self, name: str) -> ImageFolder:
        """Return the split of this name, one of ``splits``."""
        check_split(name, self.splits)
        other = copy(self)
        other._take(name)
        return other


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


def _warn_of_mixed(root: Path, paths: Sequence[Path]) -> None:
    """Log where folders beside each other have names of splits, and are not read as such."""
    beside = defaultdict(set)
    for folder in {path.parent.relative_to(root) for path in paths}:
        for above in (folder, *folder.parents[:-1]):
            if _LIKE_A_SPLIT.fullmatch(above.name):
                beside[above.parent].add(above.name)
    for parent, names in sorted(beside.items()):
        if {"tr"} < {name[:2].casefold() for name in names}:
            what = "their images are mixed; splits are folders train and test (or val) of root itself"
            _log.warning(
                "%s has folders %s: %s", shown(root / parent), ", ".join(map(shown, sorted(names))), what
            )


def _checked(root: Path, folders: Mapping[str, str], max_pixels: int) -> CheckedFiles:
    """Return the usable files; those outside of the splits' folders are left out."""
    paths, left_out = image_files(root)
    inside = [path for path in paths if not folders or _top(root, path) in folders]
    for path in paths if folders else ():
        if _top(root, path) not in folders:
            left_out[shown(path.relative_to(root))] = f"outside of the folders {', '.join(folders)}"
    return check(root, inside, left_out, max_pixels)


def _top(root: Path, path: Path) -> str:
    return path.relative_to(root).parts[0]


def _by_folder(root: Path, files: CheckedFiles, folders: Mapping[str, str]) -> dict[str, list[int]]:
    """Return the places of each split's files, where folders are the splits."""
    of_each = [folders[_top(root, path)] for path in files.paths]
    found = {
        split: [place for place, own in enumerate(of_each) if own == split]
        for split in _NAMES
        if split in folders.values()
    }
    for name, split in folders.items():
        if not found[split]:
            raise OptionError(
                f"{shown(root / name)} has no usable image: put some there, or rename the folder"
            )
    return found


def _by_share(root: Path, count: int, test_share: float) -> dict[str, list[int]]:
    """Return the places of each split's files: a share, evenly spread, is for testing."""
    if count == 1:
        raise OptionError(f"{shown(root)} has one usable image: add more, one at least is kept for testing")
    tested = max(int(count * test_share), 1)
    test = [place for place in range(count) if (place + 1) * tested // count > place * tested // count]
    return {"train": sorted(set(range(count)) - set(test)), "test": test}
