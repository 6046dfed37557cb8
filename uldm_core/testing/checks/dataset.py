"""The contract of datasets."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from uldm_core.errors import UldmError
from uldm_core.testing.case import Case
from uldm_core.testing.contract import Contract, Skip, expect

contract = Contract(exercise=lambda case, dataset: _exercise(dataset))
CHUNK = 1000
SOME = 512


def _indices(case: Case, dataset: Any) -> torch.Tensor:
    index = st.integers(0, len(dataset) - 1)
    return torch.tensor(case.draw(st.lists(index, min_size=1, max_size=8), "indices"))


def _exercise(dataset: Any) -> list[torch.Tensor]:
    """Ask every split for its first images."""
    splits = [dataset, *(dataset.split(name) for name in dataset.splits)]
    return [split.images(torch.arange(min(3, len(split)))) for split in splits]


def _some(dataset: Any) -> torch.Tensor:
    """Return images spread over the whole dataset."""
    count = min(len(dataset), SOME)
    images: torch.Tensor = dataset.images(torch.linspace(0, len(dataset) - 1, count).long())
    return images


@contract.check
def uint8_images(case: Case) -> None:
    """``images(indices)`` is uint8 [B, channels, size, size], as many as asked for."""
    dataset = case.build()
    indices = _indices(case, dataset)
    images = dataset.images(indices)
    expect(images.dtype == torch.uint8, f"images are {images.dtype}")
    wanted = [len(indices), dataset.channels, dataset.size, dataset.size]
    expect(list(images.shape) == wanted, f"images have the shape {list(images.shape)}, declared is {wanted}")


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
    indices = _indices(case, dataset)
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
    """Writing into images that it gave does not change what it gives next."""
    dataset = case.build()
    first = dataset.images(torch.arange(min(4, len(dataset))))
    kept = first.clone()
    first.fill_(7)
    expect(torch.equal(dataset.images(torch.arange(len(kept))), kept), "it gives away its own memory")


@contract.check
def whole_range(case: Case) -> None:
    """Images use the range of bytes, 0 to 255: floats of [0, 1] cast to uint8 are all but black."""
    images = _some(case.build())
    low, high = int(images.min()), int(images.max())
    expect(high - low > 16, f"{len(images)} images reach from {low} to {high} of 255 only")
    expect(bool((images[0] != images).any()) or len(images) < 2, "all images are one")


@contract.check
def splits_true(case: Case) -> None:
    """Every split of ``splits`` is a dataset of the same shape; an unknown one is refused."""
    dataset = case.build()
    for name in dataset.splits:
        split = dataset.split(name)
        expect((split.channels, split.size) == (dataset.channels, dataset.size), f"{name} has another shape")
        expect(len(split) > 0, f"{name} is empty")
    try:
        dataset.split("no such split")
    except (ValueError, KeyError, UldmError):
        return
    expect(False, "it gives a split that it does not have")


@contract.check
def splits_disjoint(case: Case) -> None:
    """No image of ``test`` is in ``train``: else what is measured on it was learned by heart."""
    dataset = case.build()
    if not {"train", "test"} <= set(dataset.splits):
        raise Skip("it has not both train and test")
    train, test = (_hashes(dataset.split(name)) for name in ("train", "test"))
    shared = len(train & test)
    expect(shared <= 0.001 * len(test), f"{shared} of {len(test)} test images are in train")


def _hashes(dataset: Any) -> set[int]:
    """Return a hash of each image."""
    found = set()
    for indices in torch.arange(len(dataset)).split(CHUNK):
        found |= {hash(image.tobytes()) for image in dataset.images(indices).numpy()}
    return found


@contract.check
def labels_match(case: Case) -> None:
    """``labels``, if there are any, are one integer an image."""
    dataset = case.build()
    labels = getattr(dataset, "labels", None)
    if labels is None:
        raise Skip("it has no labels")
    expect(labels.shape == (len(dataset),), f"{len(dataset)} images, labels {list(labels.shape)}")
    expect(labels.dtype == torch.int64 and int(labels.min()) >= 0, f"labels are {labels.dtype}")


@contract.check
def fingerprint_true(case: Case) -> None:
    """``fingerprint``, if there is one, is the same for the same images and another for another split."""
    dataset = case.build()
    if not hasattr(dataset, "fingerprint"):
        raise Skip("it has no fingerprint")
    expect(dataset.fingerprint == case.build().fingerprint, "two instances have two fingerprints")
    several = {dataset.split(name).fingerprint for name in dataset.splits}
    expect(len(several) == len(set(dataset.splits)), "two splits have one fingerprint")
