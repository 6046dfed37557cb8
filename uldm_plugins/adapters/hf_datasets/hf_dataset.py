"""Images of Hugging Face's datasets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import datasets
import numpy as np
from annotated_types import Ge, Interval

from uldm_core.errors import OptionError, UnavailableError, did_you_mean
from uldm_core.shapes import height_and_width
from uldm_core.sizes import Size
from uldm_plugins.shared.checked_files import state_of
from uldm_plugins.shared.encoded_images import EncodedImages
from uldm_plugins.shared.files import MAX_PIXELS, Fit, Reading, content_of
from uldm_plugins.shared.split_images import Classes, SplitImages, named_classes

_BATCH = 64


class HFDataset(SplitImages):
    """A column of images of a dataset on Hugging Face's hub, or of one that ``save_to_disk`` has written.

    Images are decoded once, as those of ``image_folder``, and kept in the cache.

    Source: the library ``datasets`` (``load_dataset``, ``load_from_disk``).

    Args:
        path: the dataset's name, such as ``huggan/smithsonian_butterflies_subset``, or a folder.
        name: which of its configurations, if there are several.
        revision: a commit or tag of it, which keeps it as it is.
        image: the column of images.
        label: a column of classes: numbers, with their names if the dataset has them, or text.
        train_split: its split that is trained on.
        test_split: its split for testing; else a share of the images is drawn for it, by content, so that
            copies of an image are in one split.
        size: height and width of the images, one number for a square.
        channels: 1 (grey), 3 (RGB), or 4 (RGB and alpha).
        fit: ``crop`` (the largest middle part of that shape, resized), ``pad`` (the whole image, and around
            it the background) or ``stretch``.
        background: what lies below transparent pixels: ``white``, ``black``, ``grey`` or ``#rrggbb``.
        test_share: share of the images drawn for ``test``, one at least.
        split_seed: of that draw.
        subset: which split this is.
        limit: take only the first so many images of each split.
        max_pixels: larger images are left out: they may be bombs.

    Raises:
        UnavailableError: the dataset is not there and cannot be fetched.
        ValueError: it has no such split or column, or no usable image.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        revision: str | None = None,
        image: str = "image",
        label: str | None = None,
        train_split: str = "train",
        test_split: str | None = None,
        size: Size = 64,
        channels: Literal[1, 3, 4] = 3,
        fit: Fit = "crop",
        background: str = "white",
        test_share: Annotated[float, Interval(gt=0, lt=1)] = 0.1,
        split_seed: Annotated[int, Ge(0)] = 0,
        subset: Literal["train", "test"] = "train",
        limit: Annotated[int, Ge(1)] | None = None,
        max_pixels: Annotated[int, Ge(1)] = MAX_PIXELS,
    ) -> None:
        reading = Reading(height_and_width(size), channels, fit, background, max_pixels=max_pixels)
        names = [train_split, *([test_split] if test_split else [])]
        tables = [_loaded(path, name, revision, split) for split in names]
        for column in (image, *([label] if label else [])):
            _check_column(tables[0], column, path)
        sources = [_source(table, image, reading, f"{path} ({split})") for table, split in zip(tables, names)]
        classes = _classes([table[label] for table in tables], tables[0].features[label]) if label else None
        super().__init__(sources, classes, test_share, split_seed, subset, limit)
        self.left_out = {what: why for source in sources for what, why in source.left_out().items()}


def _loaded(path: str, name: str | None, revision: str | None, split: str) -> Any:
    """Return a split as a table.

    Raises:
        UnavailableError: it is not there and cannot be fetched.
        ValueError: there is no such split.
    """
    saved = Path(path).expanduser()
    try:
        if (saved / "dataset_dict.json").is_file() or (saved / "state.json").is_file():
            found = datasets.load_from_disk(str(saved))
            found = found if isinstance(found, datasets.DatasetDict) else {"train": found}
            if split not in found:
                raise OptionError(f"{path} has no split {split!r}; it has {', '.join(map(str, found))}")
            return found[split]
        return datasets.load_dataset(path, name, revision=revision, split=split)
    except OptionError:
        raise
    except ValueError as error:  # of a name or a split that there is not
        raise OptionError(f"{path}: {_first_line(error)}") from error
    except Exception as error:  # of the library, of the hub, of the network
        raise UnavailableError(f"the dataset {path} cannot be loaded: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_column(table: Any, column: str, path: str) -> None:
    if column not in table.column_names:
        guess, has = did_you_mean(column, table.column_names), ", ".join(table.column_names)
        raise OptionError(f"{path} has no column {column!r}{guess}; it has {has}")


def _source(table: Any, image: str, reading: Reading, where: str) -> EncodedImages:
    if not isinstance(table.features[image], datasets.Image):
        raise OptionError(f"image: the column {image!r} of {where} holds no images")
    encoded = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))

    def contents(start: int) -> Iterator[bytes]:
        for first in range(start, len(encoded), _BATCH):
            for cell in encoded[first : first + _BATCH][image]:
                yield _content(cell)

    states = [(file["filename"], state_of(Path(file["filename"]))) for file in table.cache_files]
    key = repr((table._fingerprint, states, image, table._indices is not None))
    return EncodedImages(key, len(table), contents, reading, where)


def _content(cell: dict[str, Any] | None) -> bytes:
    """Return the file of a cell; nothing if there is none, which is no image."""
    if cell is None:
        return b""
    if cell["bytes"] is not None:
        return bytes(cell["bytes"])
    try:
        return content_of(Path(cell["path"]))
    except ValueError:
        return b""


def _classes(columns: list[Any], feature: Any) -> list[Classes]:
    values = [list(column) for column in columns]
    if isinstance(feature, datasets.ClassLabel):
        return [Classes(_numbers(each), tuple(feature.names)) for each in values]
    if all(isinstance(value, str) for each in values for value in each):
        return named_classes(values)
    return [Classes(_numbers(each)) for each in values]


def _numbers(values: list[Any]) -> np.ndarray:
    if not all(isinstance(value, int) and value >= 0 for value in values):
        raise OptionError("label: its column holds neither text nor whole numbers from 0 on, in every row")
    return np.array(values, np.int64)
