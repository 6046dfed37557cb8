"""Datasets that torchvision knows where to fetch, and by which MD5 to know again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from annotated_types import Ge
from torchvision import datasets
from torchvision.datasets.utils import check_integrity, download_url

from uldm_core.errors import OptionError, UnavailableError
from uldm_core.protocols import RequiredFile
from uldm_plugins.datasets.arrays import InMemory, Subset, array_fingerprint
from uldm_plugins.datasets.mnist import read_idx

Limit = Annotated[int, Ge(1)] | None
_PARTS = ("images-idx3", "labels-idx1")
WITHOUT = 'take a dataset that is here: use = "mnist" ships with uldm, image_folder reads your own files'
_PREFIX = {"train": "train", "test": "t10k"}


class FashionMnist(InMemory):
    """Fashion-MNIST: 60,000 articles of clothing for training, 10,000 for testing, uint8 [1, 28, 28].

    Source: Xiao et al. 2017 (arXiv 1708.07747); files and MD5s of ``torchvision.datasets.FashionMNIST``.

    Args:
        root: the folder that holds ``FashionMNIST/raw``, or will.
        subset: which split this is.
        limit: take only the first so many images of each split.
        auto_download: fetch what is missing.

    Raises:
        UnavailableError: a file is neither there nor can be fetched; it names file, address and folder.
        ValueError: a file is damaged.
    """

    channels = 1
    size = (28, 28)
    class_names = tuple(datasets.FashionMNIST.classes)

    def __init__(
        self,
        root: Path = Path("data"),
        subset: Subset = "train",
        limit: Limit = None,
        auto_download: bool = True,
    ) -> None:
        self.root, self.subset, self.limit, self.auto_download = Path(root), subset, limit, auto_download
        images, labels = (self._file(f"{_PREFIX[subset]}-{part}-ubyte.gz") for part in _PARTS)
        self.pixels = read_idx(images, dimensions=3)[:limit].unsqueeze(1)
        self.labels = read_idx(labels, dimensions=1)[:limit].long()
        self.fingerprint = array_fingerprint(self.pixels, self.labels, subset)

    @classmethod
    def required_files(cls, options: Mapping[str, Any]) -> list[RequiredFile]:
        """Return the files of the split."""
        folder = Path(options["root"]) / "FashionMNIST" / "raw"
        names = [f"{_PREFIX[options['subset']]}-{part}-ubyte.gz" for part in _PARTS]
        mirror, md5 = datasets.FashionMNIST.mirrors[0], dict(datasets.FashionMNIST.resources)
        return [
            RequiredFile(name, folder / name, mirror + name, **_known(md5[name], options)) for name in names
        ]

    def _file(self, name: str) -> Path:
        """Return a file whose MD5 is torchvision's."""
        folder = self.root / "FashionMNIST" / "raw"
        address = datasets.FashionMNIST.mirrors[0] + name
        md5 = dict(datasets.FashionMNIST.resources)[name]
        path = folder / name
        if not path.is_file():
            _fetch(
                lambda: download_url(address, folder, name, md5),
                self.auto_download,
                f"{name} (from {address}, MD5 {md5}) into {folder}",
            )
        if not check_integrity(path, md5):
            raise OptionError(f"{path} is damaged: its MD5 is not {md5}; remove it")
        return path

    def _other(self, name: str) -> FashionMnist:
        return FashionMnist(self.root, cast(Subset, name), self.limit, self.auto_download)


class Cifar10(InMemory):
    """CIFAR-10: 50,000 images of ten classes for training, 10,000 for testing, uint8 [3, 32, 32].

    Source: Krizhevsky 2009; files and MD5s of ``torchvision.datasets.CIFAR10``.

    Args:
        root: the folder that holds ``cifar-10-batches-py``, or will.
        subset: which split this is.
        limit: take only the first so many images of each split.
        auto_download: fetch what is missing.

    Raises:
        UnavailableError: the files are not there, or damaged, and cannot be fetched; it names them.
    """

    channels = 3
    size = (32, 32)
    class_names = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip

    def __init__(
        self,
        root: Path = Path("data"),
        subset: Subset = "train",
        limit: Limit = None,
        auto_download: bool = True,
    ) -> None:
        self.root, self.subset, self.limit, self.auto_download = Path(root), subset, limit, auto_download
        archive = datasets.CIFAR10
        loaded = load_or_fetch(
            lambda download: archive(str(self.root), train=subset == "train", download=download),
            auto_download,
            f"{archive.filename} (from {archive.url}, MD5 {archive.tgz_md5}) into {self.root}, unpacked",
        )
        self.pixels = torch.from_numpy(loaded.data).permute(0, 3, 1, 2)[:limit].contiguous()
        self.labels = torch.tensor(loaded.targets)[:limit]
        self.fingerprint = array_fingerprint(self.pixels, self.labels, subset)

    @classmethod
    def required_files(cls, options: Mapping[str, Any]) -> list[RequiredFile]:
        """Return the archive with both splits, which is unpacked."""
        archive, root = datasets.CIFAR10, Path(options["root"])
        known = _known(archive.tgz_md5, options)
        return [RequiredFile(archive.filename, root / archive.base_folder, archive.url, **known)]

    def _other(self, name: str) -> Cifar10:
        return Cifar10(self.root, cast(Subset, name), self.limit, self.auto_download)


def _known(md5: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a ``RequiredFile`` says beside its name and places."""
    obstacle = "" if options["auto_download"] else "auto_download is off"
    return {"checksum": f"MD5 is {md5}", "obstacle": obstacle, "without": WITHOUT}


def load_or_fetch(make: Callable[[bool], Any], auto_download: bool, wanted: str) -> Any:
    """Return a torchvision dataset from its files, fetched if they are not there.

    Args:
        make: builds it, given whether to download. torchvision checks every file's MD5 before it reads it.
        auto_download: whether the network may be used.
        wanted: what to put where by hand.

    Raises:
        UnavailableError: the files are neither there nor to be had.
    """
    try:
        return make(False)
    except RuntimeError:  # missing or damaged
        _fetch(lambda: make(True), auto_download, wanted)
        return make(False)


def _fetch(download: Callable[[], Any], auto_download: bool, wanted: str) -> None:
    if not auto_download:
        raise UnavailableError(f"files are missing or damaged, and auto_download is off: put {wanted}")
    try:
        download()
    except (OSError, RuntimeError, ImportError) as error:  # no network, no room, wrong MD5, no gdown
        raise UnavailableError(f"files cannot be fetched ({error}): put {wanted}") from error
