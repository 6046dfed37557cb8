"""CelebA, aligned and cropped faces."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Ge
from torch import Tensor
from torchvision import datasets

from uldm_core.protocols import RequiredFile
from uldm_plugins.datasets.fetched import WITHOUT, load_or_fetch
from uldm_plugins.shared.checked_files import ImageFiles, content_fingerprint
from uldm_plugins.shared.files import MAX_PIXELS, Reading
from uldm_plugins.shared.packed_images import images_of
from uldm_plugins.shared.split_names import check_split

Subset = Literal["train", "valid", "test"]


class CelebA:
    """CelebA: 162,770 faces for training, 19,867 for validation, 19,962 for testing.

    The middle square of each aligned 178x218 image, resized. Each image is decoded once: what cannot be
    decoded is left out, and named in the log and in ``left_out``.

    Source: Liu et al. 2015 (arXiv 1411.7766); files and MD5s of ``torchvision.datasets.CelebA``, which
    needs ``gdown`` to fetch them.

    Args:
        root: the folder that holds ``celeba``, or will.
        size: side of the images.
        crop: side of the middle square, in pixels of the file.
        subset: which split this is.
        limit: take only the first so many images of each split.
        auto_download: fetch what is missing.
        pack: keep the images as one file in the cache; else each is decoded whenever it is needed.

    Raises:
        UnavailableError: the files are not there, or damaged, and cannot be fetched; it names them.
        ValueError: no image can be decoded.
    """

    channels = 3
    splits = ("train", "valid", "test")

    def __init__(
        self,
        root: Path = Path("data"),
        size: Annotated[int, Ge(1)] = 64,
        crop: Annotated[int, Ge(1)] = 140,
        subset: Subset = "train",
        limit: Annotated[int, Ge(1)] | None = None,
        auto_download: bool = True,
        pack: bool = True,
    ) -> None:
        self.root, self.size, self.crop, self.subset = Path(root), (size, size), crop, subset
        self._more = (limit, auto_download, pack)
        folder = self.root / datasets.CelebA.base_folder
        names = [f"{name} (MD5 {md5})" for _, md5, name in datasets.CelebA.file_list]
        loaded = load_or_fetch(
            lambda download: datasets.CelebA(
                str(self.root), split=subset, target_type="identity", download=download
            ),
            auto_download,
            f"{', '.join(names)} into {folder}, and unpack img_align_celeba.zip there",
        )
        inside = [os.fsencode(os.path.join("img_align_celeba", name)) for name in loaded.filename[:limit]]
        files = ImageFiles(folder, inside, MAX_PIXELS)
        self._images = images_of(files, Reading(self.size, self.channels, crop=crop), pack)
        sound, self.left_out = files.sound({})
        self._places = torch.from_numpy(sound)
        self.labels = loaded.identity[:limit].flatten().to(torch.int64)[self._places]
        self.fingerprint = content_fingerprint(files.hashes[sound], self.labels.tolist(), size, crop, subset)

    @classmethod
    def required_files(cls, options: Mapping[str, Any]) -> list[RequiredFile]:
        """Return the files of Google Drive; the images are unpacked."""
        folder, archive = Path(options["root"]) / datasets.CelebA.base_folder, "img_align_celeba.zip"
        obstacle = "" if options["auto_download"] else "auto_download is off"
        if not obstacle and find_spec("gdown") is None:
            obstacle = "gdown, which fetches it, is not installed (pip install gdown)"
        return [
            RequiredFile(
                name,
                folder / (Path(archive).stem if name == archive else name),
                f"https://drive.google.com/uc?id={identity}",
                without=WITHOUT,
                checksum=f"MD5 is {md5}",
                obstacle=obstacle,
            )
            for identity, md5, name in datasets.CelebA.file_list
        ]

    def __len__(self) -> int:
        return len(self._places)

    def images(self, indices: Tensor) -> Tensor:
        """Return images, uint8 [B, 3, size, size].

        Raises:
            UnreadableImageError: a file can no longer be decoded.
        """
        return self._images.images(self._places[indices])

    def prefetch(self, indices: Tensor) -> None:
        """Read the images that are asked for next while others are used."""
        self._images.prefetch(self._places[indices])

    def split(self, name: str) -> CelebA:
        """Return the ``train``, ``valid`` or ``test`` split."""
        check_split(name, self.splits)
        if name == self.subset:
            return self
        return CelebA(self.root, self.size[0], self.crop, cast(Subset, name), *self._more)
