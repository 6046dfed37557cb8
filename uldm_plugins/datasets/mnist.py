"""MNIST, from the files that ship with uldm or from a folder of one's own."""

from __future__ import annotations

import gzip
import struct
from functools import lru_cache
from pathlib import Path
from typing import Annotated, cast

import torch
from annotated_types import Ge
from torch import Tensor

from uldm_core import Exists
from uldm_core.errors import OptionError
from uldm_plugins.datasets.arrays import InMemory, Subset, array_fingerprint

EMBEDDED = Path(__file__).parent / "mnist_data"
_PREFIX = {"train": "train", "test": "t10k"}


class Mnist(InMemory):
    """MNIST handwritten digits: 60,000 for training, 10,000 for testing, uint8 [1, 28, 28].

    The images stay in memory as one uint8 tensor.

    Source: Y. LeCun, C. Cortes, C. J. C. Burges, The MNIST database of handwritten digits (CC BY-SA 3.0).

    Args:
        root: a folder of IDX files (``train-images-idx3-ubyte``, with or without ``.gz``, also under
            ``MNIST/raw``); by default the copy that ships with uldm. No network is used.
        subset: which split this is.
        limit: take only the first so many images of each split.

    Raises:
        ValueError: a file is missing, or is no IDX file of images or labels.
    """

    channels = 1
    size = (28, 28)
    class_names = tuple("0123456789")

    def __init__(
        self,
        root: Annotated[Path, Exists(folder=True)] | None = None,
        subset: Subset = "train",
        limit: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        self.root = Path(root) if root is not None else EMBEDDED
        self.subset = subset
        self.limit = limit
        images = _file(self.root, f"{_PREFIX[subset]}-images-idx3-ubyte")
        labels = _file(self.root, f"{_PREFIX[subset]}-labels-idx1-ubyte")
        self.pixels = read_idx(images, dimensions=3)[:limit].unsqueeze(1)
        self.labels = read_idx(labels, dimensions=1)[:limit].long()
        self.fingerprint = array_fingerprint(self.pixels, self.labels, subset)

    def _other(self, name: str) -> Mnist:
        return Mnist(self.root, cast(Subset, name), self.limit)


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read an IDX file of uint8, gzip-compressed or not, as a tensor of so many dimensions.

    A file that has not changed is decompressed once; whoever reads it again gets the same memory.

    Raises:
        ValueError: the header or the length is wrong.
    """
    status = path.stat()
    return _read_idx(path, dimensions, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=4)
def _read_idx(path: Path, dimensions: int, version: tuple[int, int]) -> Tensor:
    data = path.read_bytes()
    try:
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        zeros, kind, count = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{count}I", data, 4)
    except (OSError, EOFError, struct.error) as error:
        raise OptionError(f"{path}: not an IDX file ({error})") from error
    if (zeros, kind, count) != (0, 8, dimensions):
        raise OptionError(f"{path}: expected an IDX file of uint8 with {dimensions} dimensions")
    values = torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=4 + 4 * count)
    if values.numel() != torch.Size(shape).numel():
        raise OptionError(f"{path}: cut short: {values.numel()} bytes where {tuple(shape)} are announced")
    return values.view(shape)


def _file(root: Path, name: str) -> Path:
    for folder in (root, root / "MNIST" / "raw"):
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise OptionError(f"{root} has no {name} or {name}.gz")
