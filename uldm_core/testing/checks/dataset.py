"""The contract of datasets."""

from __future__ import annotations

import builtins
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from uldm_core.errors import UldmError
from uldm_core.protocols import Dataset
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import Skip, expect

contract = Contract(exercise=lambda case, dataset: _exercise(dataset))
CHUNK = 100
SOME = 128
FEW = 48
MOST_COPIED = 1 << 22
MANY = 100_000
SECONDS = 0.3
"""How long a split's images are read, in random order: not all of them need fit into a check."""


def _indices(case: Case, dataset: Dataset) -> Tensor:
    index = st.integers(0, len(dataset) - 1)
    return torch.tensor(case.draw(st.lists(index, min_size=1, max_size=8), "indices"))


def _exercise(dataset: Dataset) -> list[Tensor]:
    """Ask every split for its first images."""
    splits = [dataset, *(dataset.split(name) for name in dataset.splits)]
    return [split.images(torch.arange(min(3, len(split)))) for split in splits]


def _spread(dataset: Dataset, most: int) -> Tensor:
    """Return indices spread over the whole dataset, ``most`` at most."""
    return torch.linspace(0, len(dataset) - 1, min(len(dataset), most)).long()


def _shape(dataset: Dataset) -> list[int]:
    """Return the declared [channels, height, width]."""
    is_pair = isinstance(dataset.size, tuple) and len(dataset.size) == 2
    expect(is_pair, f"size is {dataset.size!r}, not a tuple of height and width")
    return [int(dataset.channels), *map(int, dataset.size)]


def _expect_images(dataset: Dataset, indices: Tensor, whose: str) -> None:
    images = dataset.images(indices)
    expect(images.dtype == torch.uint8, f"{whose} are {images.dtype}")
    wanted = [len(indices), *_shape(dataset)]
    expect(list(images.shape) == wanted, f"{whose} have the shape {list(images.shape)}, declared is {wanted}")


@contract.check
def uint8_images(case: Case) -> None:
    """``images(indices)`` is uint8 [B, channels, height, width], as many as asked for, of every split."""
    dataset = case.build()
    indices = _indices(case, dataset)
    _expect_images(dataset, torch.cat([indices, indices[:1]]), "images")
    for name in dataset.splits:
        split = dataset.split(name)
        _expect_images(split, torch.tensor([0, len(split) - 1, 0]), f"images of {name}")


@contract.check
def every_index(case: Case) -> None:
    """Every index from the first to the last gives an image, and the one after the last an error."""
    dataset = case.build()
    last = len(dataset) - 1
    expect(last >= 0, "it is empty")
    expect(
        len(dataset.images(torch.tensor([0, last, last // 2]))) == 3, "three indices do not give three images"
    )
    try:
        dataset.images(torch.tensor([last + 1]))
    except Exception:
        return
    expect(False, f"index {last + 1} of {last + 1} images gives an image: they start at 0")


@contract.check
def same_image_twice(case: Case) -> None:
    """An index is one image, whatever is asked with it, in which order, and however often."""
    dataset = case.build()
    indices = torch.cat([_indices(case, dataset), _spread(dataset, FEW)])
    together = dataset.images(indices)
    for place, index in enumerate(indices):
        alone = dataset.images(index.view(1))[0]
        expect(
            torch.equal(together[place], alone), f"image {int(index)} changes with what is asked beside it"
        )
    expect(
        torch.equal(dataset.images(indices.flip(0)).flip(0), together),
        "the order of the indices changes images",
    )
    expect(torch.equal(case.build().images(indices), together), "a second instance has other images")


@contract.check
def images_owned(case: Case) -> None:
    """Images belong to who asked: writing into them changes nothing, and the indices stay as they were."""
    dataset = case.build()
    asked = torch.arange(min(4, len(dataset))).flip(0)
    for indices in (asked, asked.flip(0), asked[:1]):
        given = indices.clone()
        first = dataset.images(given)
        expect(torch.equal(given, indices), f"it writes into the indices: {indices.tolist()} become {given}")
        kept = first.clone()
        first.fill_(7)
        expect(torch.equal(dataset.images(indices), kept), "it gives away its own memory")


@contract.check
def whole_range(case: Case) -> None:
    """Images use the range of bytes, 0 to 255: floats of [0, 1] cast to uint8 are all but black."""
    dataset = case.build()
    images = dataset.images(_spread(dataset, SOME))
    low, high = int(images.min()), int(images.max())
    expect(high - low > 16, f"{len(images)} images reach from {low} to {high} of 255 only")
    expect(bool((images[0] != images).any()) or len(images) < 2, "all images are one")


@contract.check
def splits_true(case: Case) -> None:
    """Every split of ``splits`` is a dataset of the same shape; an unknown one is refused."""
    dataset = case.build()
    for name in dataset.splits:
        split = dataset.split(name)
        expect(_shape(split) == _shape(dataset), f"{name} has another shape")
        expect(len(split) > 0, f"{name} is empty")
    try:
        dataset.split("no such split")
    except (ValueError, KeyError, UldmError):
        return
    expect(False, "it gives a split that it does not have")


@contract.check
def splits_from_anywhere(case: Case) -> None:
    """A split is one set of images, whichever was asked for it; asking leaves the others as they were."""
    dataset = case.build()
    splits = {name: dataset.split(name) for name in dataset.splits}
    wanted = {name: _sample(case.build().split(name)) for name in splits}
    for name, split in splits.items():
        expect(_equal(_sample(split), wanted[name]), f"{name} changes when another split is asked for")
        for through, other in splits.items():
            if name in other.splits:
                same = _equal(_sample(other.split(name)), wanted[name])
                expect(same, f"{name} has other images when {through} is asked for it")


def _sample(dataset: Dataset) -> tuple[int, Tensor]:
    """Return how many images there are, and some of them."""
    return len(dataset), dataset.images(_spread(dataset, FEW))


def _equal(one: tuple[int, Tensor], other: tuple[int, Tensor]) -> bool:
    return one[0] == other[0] and torch.equal(one[1], other[1])


@contract.check
def splits_disjoint(case: Case) -> None:
    """No image of ``test`` is in ``train``: else what is measured on it was learned by heart."""
    dataset = case.build()
    if not {"train", "test"} <= set(dataset.splits):
        raise Skip("it has not both train and test")
    train, test = (_hashes(dataset.split(name)) for name in ("train", "test"))
    shared = len(train & test)
    expect(shared <= 0.001 * len(test), f"{shared} of {len(test)} test images are in train")


def _hashes(dataset: Dataset) -> set[int]:
    """Return a hash of each image, or of as many as can be read in ``SECONDS``, in random order."""
    found: set[int] = set()
    until = time.monotonic() + SECONDS
    generator = torch.Generator().manual_seed(0)
    count = len(dataset)
    few = count < MANY
    order = (
        torch.randperm(count, generator=generator)
        if few
        else torch.randint(count, (MANY,), generator=generator)
    )
    for indices in order.split(CHUNK):
        found |= {hash(image.tobytes()) for image in dataset.images(indices).numpy()}
        if time.monotonic() > until:
            break
    return found


@contract.check
def labels_match(case: Case) -> None:
    """``labels``, if there are any, are one integer an image, in every split, the same each time."""
    dataset = case.build()
    if getattr(dataset, "labels", None) is None:
        raise Skip("it has no labels")
    other = case.build()
    for name in dataset.splits:
        split, again = dataset.split(name), other.split(name)
        labels = split.labels
        expect(labels.shape == (len(split),), f"{len(split)} images of {name}, labels {list(labels.shape)}")
        expect(labels.dtype == torch.int64 and int(labels.min()) >= 0, f"labels are {labels.dtype}")
        expect(torch.equal(labels, again.labels), "a second instance has other labels")


@contract.check
def class_names_true(case: Case) -> None:
    """``class_names``, if there are any, are a text for each class, the same in every split."""
    dataset: Any = case.build()
    if getattr(dataset, "class_names", None) is None:
        raise Skip("its classes have no names")
    names = list(dataset.class_names)
    expect(all(isinstance(name, str) and name for name in names), f"class names are {names[:5]}")
    expect(len(set(names)) == len(names), "two classes have one name")
    for split in (dataset, *map(dataset.split, dataset.splits)):
        most = int(split.labels.max())
        expect(most < len(names), f"there is a label {most}, and {len(names)} names: label i is name i")
        expect(list(split.class_names) == names, "two splits have other class names, or in another order")


@contract.check
def prefetch_changes_nothing(case: Case) -> None:
    """``prefetch(indices)``, if there is any, reads ahead; ``images`` gives what it is asked for."""
    dataset: Any = case.build()
    if getattr(dataset, "prefetch", None) is None:
        raise Skip("it reads nothing ahead")
    first, second = _indices(case, dataset), _indices(case, dataset).flip(0)
    wanted = dataset.images(first), dataset.images(second)
    for ahead in (first, second):
        dataset.prefetch(ahead)
        expect(torch.equal(dataset.images(first), wanted[0]), "images are others after prefetch")
        expect(torch.equal(dataset.images(second), wanted[1]), "images are others after prefetch")


@contract.check
def files_in_any_order(case: Case) -> None:
    """Files may be listed in any order, which differs from one file system to the next: sort them."""
    dataset = case.build()
    with _listed_backwards():
        other = case.build()
        sample = _sample(other)
    same = _equal(sample, _sample(dataset))
    expect(same, "where a folder lists its files in another order, its images come in another order")
    if getattr(dataset, "labels", None) is not None:
        same = torch.equal(other.labels, dataset.labels)
        expect(same, "where a folder lists its files in another order, its labels come in another order")


@contextmanager
def _listed_backwards() -> Iterator[None]:
    """Make folders list what is in them backwards."""
    listdir, scandir = os.listdir, os.scandir
    backwards = {
        "listdir": lambda *folder: sorted(listdir(*folder), reverse=True),
        "scandir": lambda *folder: _Backwards(scandir(*folder)),
    }
    vars(os).update(backwards)
    try:
        yield
    finally:
        os.listdir, os.scandir = listdir, scandir


class _Backwards:
    """Iterates over a folder's entries as ``os.scandir`` does."""

    def __init__(self, entries: Any) -> None:
        with entries:
            self.entries = iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

    def __iter__(self) -> _Backwards:
        return self

    def __next__(self) -> Any:
        return next(self.entries)

    def __enter__(self) -> _Backwards:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def close(self) -> None:
        pass


def _with_fingerprint(case: Case) -> Any:
    dataset = case.build()
    if getattr(dataset, "fingerprint", None) is None:
        raise Skip("it has no fingerprint")
    return dataset


@contract.check
def fingerprint_true(case: Case) -> None:
    """``fingerprint``, if there is one, is the same for the same images and another for another split."""
    dataset = _with_fingerprint(case)
    kind = type(dataset.fingerprint).__name__
    expect(isinstance(dataset.fingerprint, str), f"the fingerprint is of the type {kind}, not a string")
    expect(dataset.fingerprint == case.build().fingerprint, "two instances have two fingerprints")
    several = {dataset.split(name).fingerprint for name in dataset.splits}
    expect(len(several) == len(set(dataset.splits)), "two splits have one fingerprint")


def _varied(case: Case, dataset: Dataset) -> Iterator[tuple[str, Any]]:
    """Yield, for each well-known option that it takes, how it is changed and the dataset built so."""
    channels, height, width = _shape(dataset)
    half = max(1, len(dataset) // 2)
    side = height // 2 if height > 16 else height * 2
    other: list[tuple[str, Any]] = [
        ("size", side if height == width else (side, width)),
        ("size", (side, side + 8)),
        *(("channels", count) for count in (1, 3, 4) if count != channels),
        *(("limit", half), ("count", half), ("seed", 12)),
    ]
    tried = [(name, value) for name, value in other if case.subject.inferred(name)]
    if not tried:
        raise Skip("it takes no option that would change its images")
    for name, value in tried:
        try:
            yield f"{name} = {value}", case.build(**{name: value})
        except (UldmError, ValueError, TypeError):
            continue  # it takes other values than these


@contract.check
def options_kept(case: Case) -> None:
    """``size``, ``channels``, ``limit``, ``count``, ``seed``: what it takes it keeps, and its splits too."""
    dataset = case.build()
    for option, changed in _varied(case, dataset):
        _expect_images(changed, torch.tensor([0]), f"with {option} images")
        splits = [(changed.split(name), dataset.split(name)) for name in dataset.splits]
        for split, _ in splits:
            expect(_shape(split) == _shape(changed), f"with {option} a split has another shape")
        kept = any(not _equal(_sample(split), _sample(before)) for split, before in splits)
        if not _equal(_sample(changed), _sample(dataset)):
            expect(kept, f"with {option} its images are others, but all splits are as without it")


@contract.check
def fingerprint_follows_content(case: Case) -> None:
    """Options that change the images change the fingerprint: else latents of others pass for theirs."""
    dataset = _with_fingerprint(case)
    for option, changed in _varied(case, dataset):
        if not _equal(_sample(changed), _sample(dataset)):
            differs = changed.fingerprint != dataset.fingerprint
            expect(differs, f"with {option} the images are others, the fingerprint is not")


@contract.check
def fingerprint_of_every_process(case: Case) -> None:
    """The same images have the same fingerprint in another process, where ``hash`` and ``id`` are others."""
    dataset = _with_fingerprint(case)
    found = _built_or_none(case.build, in_another_process(type(dataset)))
    same = found is None or found.fingerprint == dataset.fingerprint
    expect(same, "its fingerprint is another in another process: hash() of a string and id() differ there")


@contract.check
def fingerprint_of_copies(case: Case) -> None:
    """Where its files are copied, the fingerprint is the same: neither place nor times are content."""
    dataset = _with_fingerprint(case)
    with _copied(dataset) as copy:
        found = _built_or_none(lambda: case.build(root=copy))
        if found is None:
            raise Skip("it cannot be built from a copy of its folder")
        what = "another for a copy of its files: it follows their place or times, not what is in them"
        expect(found.fingerprint == dataset.fingerprint, f"its fingerprint is {what}")


@contract.check
def fingerprint_follows_files(case: Case) -> None:
    """Where files have their names and sizes, and another content, the fingerprint is another."""
    dataset = _with_fingerprint(case)
    with _copied(dataset) as copy:
        _exchange_contents(copy)
        found = _built_or_none(lambda: case.build(root=copy))
        if found is None or _equal(_sample(found), _sample(dataset)):
            raise Skip("its files cannot be exchanged so that it shows")
        expect(found.fingerprint != dataset.fingerprint, "its files have changed, its fingerprint has not")


@contextmanager
def _copied(dataset: Dataset) -> Iterator[Path]:
    """Copy the folder ``root`` that a dataset reads, but not files' times; caches are elsewhere as well."""
    root = getattr(dataset, "root", None)
    if not isinstance(root, (str, Path)) or not os.path.isdir(root):
        raise Skip("it has no folder root")
    if sum(path.stat().st_size for path in Path(root).rglob("*") if path.is_file()) > MOST_COPIED:
        raise Skip("its folder is large")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # which the runner restores
        yield Path(shutil.copytree(root, Path(folder) / "copy", copy_function=shutil.copyfile))


def _exchange_contents(folder: Path) -> None:
    """Exchange the contents of files of one ending, two by two; of the larger half: data, not notes."""
    paths = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.suffix)
    for _, same in itertools.groupby(paths, lambda path: path.suffix):
        files = sorted(same, key=lambda path: path.stat().st_size, reverse=True)
        larger = files[: max(2, len(files) // 2)]
        for one, other in zip(larger[::2], larger[1::2]):
            contents = one.read_bytes(), other.read_bytes()
            one.write_bytes(contents[1])
            other.write_bytes(contents[0])


def _built_or_none(build: Callable[[], Any], context: Any = None) -> Any:
    """Build, or return None where it cannot be built so: that is no fault of the component's."""
    try:
        if context is None:
            return build()
        with context:
            return build()
    except Exception:
        return None


@contextmanager
def in_another_process(component: type) -> Iterator[None]:
    """Give a component's package the ``hash`` and the ``id`` that another process would have.

    A second process would need seconds to import torch; these two are what differs in it.
    """
    names = {base.__module__.partition(".")[0] for base in component.__mro__}
    names -= {"builtins", "torch", *sys.stdlib_module_names}
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in names]
    shadowed = [
        (module, name)
        for module in modules
        if isinstance(module, ModuleType)
        for name in _OTHERS
        if name not in vars(module)
    ]
    for module, name in shadowed:
        vars(module)[name] = _OTHERS[name]
    try:
        yield
    finally:
        for module, name in shadowed:
            del vars(module)[name]


def _other_hash(value: object) -> int:
    return builtins.hash(value) ^ (0x5BD1E995 if _is_salted(value) else 0)


def _is_salted(value: object) -> bool:
    """Whether a value's hash differs from process to process."""
    if isinstance(value, (tuple, frozenset)):
        return any(map(_is_salted, value))
    return isinstance(value, (str, bytes, type(None))) or type(value).__hash__ is object.__hash__


_OTHERS: Mapping[str, Callable[[Any], int]] = {
    "hash": _other_hash,
    "id": lambda value: builtins.id(value) ^ 0x5BD1E990,
}


@contract.check
def left_out_named(case: Case) -> None:
    """``left_out``, if there is any, says of each file that is not used, by its name in the folder, why."""
    dataset = case.build()
    left_out = getattr(dataset, "left_out", None)
    if left_out is None:
        raise Skip("it leaves out nothing")
    expect(isinstance(left_out, Mapping), f"left_out is of the type {type(left_out).__name__}, not a dict")
    for name, reason in left_out.items():
        expect(isinstance(name, str) and not os.path.isabs(name), f"{name!r} is no name within the folder")
        expect(isinstance(reason, str) and reason, f"it does not say why {name!r} is left out")


@contract.check
def duplicates_counted(case: Case) -> None:
    """``duplicates``, if it has some, are counts of test images: ``exact``, and ``near`` of ``compared``."""
    found = getattr(case.build(), "duplicates", None)
    if found is None:
        raise Skip("it does not look for duplicates")
    counts = [getattr(found, name, None) for name in ("exact", "near", "compared")]
    expect(all(type(count) is int and count >= 0 for count in counts), f"exact, near, compared: {counts}")
    expect(found.near <= found.compared, f"{found.near} of {found.compared} images look like another")
