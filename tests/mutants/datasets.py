"""Broken and sound datasets."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import torch

from mutants.catalogue import mutant, sound
from uldm_core.shapes import height_and_width


def drawn(subset: str, count: int, channels: int = 1):
    generator = torch.Generator().manual_seed({"train": 1, "test": 2}[subset])
    return torch.randint(256, (count, channels, 12, 12), dtype=torch.uint8, generator=generator)


@sound("dataset")
class InMemory:
    """Noise, all of it in memory."""

    channels = 1
    size = (12, 12)
    splits = ("train", "test")

    def __init__(self, subset: str = "train"):
        self.subset = subset
        self.pixels = drawn(subset, 64 if subset == "train" else 16, self.channels)
        self.fingerprint = f"noise:{subset}"

    def __len__(self):
        return len(self.pixels)

    def images(self, indices):
        return self.pixels[indices]

    def split(self, name):
        if name not in self.splits:
            raise ValueError(f"no split {name!r}")
        return type(self)(name)


@sound("dataset")
class Drawn:
    """Colour images that are drawn when they are asked for; one split, nothing optional."""

    channels = 3
    size = (8, 8)
    splits = ("train",)

    def __len__(self):
        return 1000

    def images(self, indices):
        if int(indices.max()) >= len(self):
            raise IndexError("there are 1000 images")
        return torch.stack([self.image(int(index)) for index in indices])

    def image(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randint(256, (3, 8, 8), dtype=torch.uint8, generator=generator)

    def split(self, name):
        if name != "train":
            raise KeyError(name)
        return self


@sound("dataset")
class OneShot(InMemory):
    """A dataset of one image, to overfit on."""

    splits = ("train",)

    def __init__(self, subset: str = "train"):
        super().__init__(subset)
        self.pixels = self.pixels[:1]


@sound("dataset")
class Wide(InMemory):
    """Images that are not square, with labels."""

    channels = 3
    size = (12, 20)

    def __init__(self, subset: str = "train"):
        super().__init__(subset)
        self.pixels = torch.cat([self.pixels, self.pixels[..., :8].flip(-1)], -1)
        self.labels = self.pixels[:, 0, 0, 0].long() % 3


@sound("dataset")
class Limited(InMemory):
    """Its first images only, in another order: the fingerprint knows both."""

    def __init__(self, subset: str = "train", limit: int | None = None, seed: int = 0):
        super().__init__(subset)
        order = torch.randperm(len(self.pixels), generator=torch.Generator().manual_seed(seed))
        self.pixels = self.pixels[order][:limit]
        self.options = {"limit": limit, "seed": seed}
        self.fingerprint = f"noise:{subset}:{limit}:{seed}"

    def split(self, name):
        return type(self)(super().split(name).subset, **self.options)


@sound("dataset")
class Files:
    """The first bytes of files: sorted, every second one is for testing; short ones are left out."""

    channels = 1
    size = (12, 12)
    splits = ("train", "test")

    def __init__(self, root: str = str(Path(__file__).parent), subset: str = "train"):
        self.root, self.subset = Path(root), subset
        usable = [path for path in self.files() if path.stat().st_size > 144]
        self.left_out = {path.name: "too short" for path in self.files() if path not in usable}
        self.paths = usable[subset == "test" :: 2]
        self.fingerprint = self.hashed()

    def files(self):
        return sorted(self.root.glob("*.py"))

    def hashed(self):
        contents = b"".join(path.read_bytes()[:144] for path in self.paths)
        return f"{self.subset}:{hashlib.sha256(contents).hexdigest()}"

    def __len__(self):
        return len(self.paths)

    def images(self, indices):
        rows = [np.fromfile(self.paths[int(index)], np.uint8, 144) for index in indices]
        return torch.from_numpy(np.stack(rows)).view(-1, 1, 12, 12)

    def split(self, name):
        if name not in self.splits:
            raise ValueError(f"no split {name!r}")
        return type(self)(self.root, name)


@sound("dataset")
class Endless(Drawn):
    """Ten million images, each drawn when it is asked for, of three kinds."""

    splits = ("train", "test")

    def __init__(self, subset: str = "train"):
        self.offset = 10**7 * (subset == "test")

    def __len__(self):
        return 10**7

    def images(self, indices):
        if len(indices) and int(indices.max()) >= len(self):
            raise IndexError("there are ten million images")
        digits = (indices.view(-1, 1) + self.offset) // 256 ** torch.arange(4) % 256
        return (digits.repeat(1, 48) + torch.arange(192)).to(torch.uint8).view(-1, 3, 8, 8)

    def split(self, name):
        if name not in self.splits:
            raise KeyError(name)
        return Endless(name)


@mutant("dataset", killed_by="files_in_any_order")
class FilesAsListed(Files):
    """Files are taken in the order in which the file system lists them."""

    def files(self):
        return list(self.root.glob("*.py"))

    def hashed(self):
        contents = b"".join(sorted(path.read_bytes()[:144] for path in self.paths))
        return f"{self.subset}:{hashlib.sha256(contents).hexdigest()}"


@mutant("dataset", killed_by="fingerprint_of_copies")
class FingerprintOfThePlace(Files):
    """The fingerprint is made of the files' paths: it changes when the folder is moved."""

    def hashed(self):
        return f"{super().hashed()}:{self.root.resolve()}"


@mutant("dataset", killed_by="fingerprint_follows_files")
class FingerprintOfNames(Files):
    """The fingerprint is made of the files' names: what is in them does not count."""

    def hashed(self):
        return ":".join([self.subset, *(path.name for path in self.paths)])


@mutant("dataset", killed_by="fingerprint_of_copies")
class FingerprintOfTimes(Files):
    """The fingerprint is made of when files were written: each copy has another."""

    def hashed(self):
        return super().hashed() + str(max(path.stat().st_mtime_ns for path in self.paths))


@mutant("dataset", killed_by="splits_from_anywhere")
class SplitTurnsItself(InMemory):
    """``split`` turns the dataset into the split, and returns it."""

    def split(self, name):
        self.__dict__.update(super().split(name).__dict__)
        return self


@mutant("dataset", killed_by="left_out_named")
class LeftOutByPath(Files):
    """What is left out is named by its whole path."""

    def __init__(self, root: str = str(Path(__file__).parent), subset: str = "train"):
        super().__init__(root, subset)
        self.left_out = {str(self.root / name): reason for name, reason in self.left_out.items()}


@mutant("dataset", killed_by="left_out_named")
class LeftOutCounted(Files):
    """It says how many are left out, not which."""

    def __init__(self, root: str = str(Path(__file__).parent), subset: str = "train"):
        super().__init__(root, subset)
        self.left_out = len(self.left_out)


@mutant("dataset", killed_by="duplicates_counted")
class DuplicatesInOneNumber(InMemory):
    """Of duplicates there is only one number."""

    duplicates = 3


@mutant("dataset", killed_by="duplicates_counted")
class MoreDuplicatesThanCompared(InMemory):
    """More test images look like a training image than were compared."""

    duplicates = SimpleNamespace(exact=0, near=3, compared=2)


@mutant("dataset", killed_by="fingerprint_of_every_process")
class FingerprintOfHash(InMemory):
    """The fingerprint is Python's hash of the bytes, which is salted anew in each process."""

    def __init__(self, subset: str = "train"):
        super().__init__(subset)
        self.fingerprint = f"{hash(self.pixels.numpy().tobytes()):x}"


@mutant("dataset", killed_by="fingerprint_follows_content")
class FingerprintWithoutTheLimit(Limited):
    """The fingerprint does not know of the limit: a cache of few images passes for that of all."""

    def __init__(self, subset: str = "train", limit: int | None = None, seed: int = 0):
        super().__init__(subset, limit, seed)
        self.fingerprint = f"noise:{subset}:{seed}"


@mutant("dataset", killed_by="options_kept")
class SplitsWithoutOptions(Limited):
    """Its splits are built with the defaults, whatever the options."""

    def split(self, name):
        if name not in self.splits:
            raise ValueError(f"no split {name!r}")
        return type(self)(name)


@mutant("dataset", killed_by="options_kept")
class SizeDeclaredOnly(InMemory):
    """The option ``size`` is declared, and images are what they were."""

    def __init__(self, subset: str = "train", size: int = 12):
        super().__init__(subset)
        self.size = height_and_width(size)


@mutant("dataset", killed_by="splits_from_anywhere")
class SplitOfTheSplit(InMemory):
    """Splits are cut from what is there: the test split of the test split is a part of it."""

    splits = ("train", "test")

    def split(self, name):
        other = super().split(name)
        if self.subset == name == "test":
            other.pixels = other.pixels[:4]
        return other


@mutant("dataset", killed_by="uint8_images")
class TestImagesUncut(InMemory):
    """Only the training images are cut to size."""

    def __init__(self, subset: str = "train"):
        super().__init__(subset)
        if subset == "test":
            self.pixels = torch.nn.functional.pad(self.pixels, (1, 1, 1, 1))


@mutant("dataset", killed_by="images_owned")
class CountsIndicesBack(InMemory):
    """Indices are turned round in place, for a file that is read backwards."""

    def images(self, indices):
        indices.mul_(-1).add_(len(self) - 1)
        return self.pixels.flip(0)[indices]


@mutant("dataset", killed_by="labels_match")
class LabelsShuffledAnew(InMemory):
    """Images are in one order, labels in another each time."""

    def __init__(self, subset: str = "train"):
        super().__init__(subset)
        generator = torch.Generator()
        generator.seed()
        self.labels = torch.randperm(len(self), generator=generator)


@mutant("dataset", killed_by="labels_match")
class LabelsOfTheTestSplitMissing(InMemory):
    """Labels of the test split are those of the training split."""

    def __init__(self, subset: str = "train"):
        super().__init__(subset)
        self.labels = torch.arange(64) % 10


@mutant("dataset", killed_by="uint8_images")
class FloatImages(InMemory):
    """Images come as floats in [0, 1]."""

    def images(self, indices):
        return super().images(indices).float() / 255


@mutant("dataset", killed_by="uint8_images")
class ChannelsLast(InMemory):
    """Images come as [B, H, W, C]."""

    def images(self, indices):
        return super().images(indices).permute(0, 2, 3, 1)


@mutant("dataset", killed_by="uint8_images")
class DeclaresAnotherSize(InMemory):
    """Images are padded, the declared size is that of before."""

    def images(self, indices):
        return torch.nn.functional.pad(super().images(indices), (2, 2, 2, 2))


@mutant("dataset", killed_by="whole_range")
class UnitRangeCastToBytes(InMemory):
    """Images of [0, 1] are cast to bytes: all but black."""

    def images(self, indices):
        return (super().images(indices).float() / 255).to(torch.uint8)


@mutant("dataset", killed_by="whole_range")
class Masks(InMemory):
    """Black and white are 0 and 1."""

    def images(self, indices):
        return (super().images(indices) > 127).to(torch.uint8)


@mutant("dataset", killed_by="whole_range")
class AlwaysTheFirst(InMemory):
    """Whatever the index, the first image."""

    def images(self, indices):
        return super().images(indices * 0)


@mutant("dataset", killed_by="every_index")
class LengthOneShort(InMemory):
    """``len`` is one short of the images: the last is never seen."""

    def __len__(self):
        return super().__len__() - 1


@mutant("dataset", killed_by="every_index")
class LengthOfBothSplits(InMemory):
    """``len`` counts the images of both splits."""

    def __len__(self):
        return 80


@mutant("dataset", killed_by="same_image_twice")
class FlipsAtRandom(InMemory):
    """Images are mirrored at random: an index is not one image."""

    def images(self, indices):
        images = super().images(indices)
        return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(-1), images)


@mutant("dataset", killed_by="same_image_twice")
class SortsIndices(InMemory):
    """Images come in the order of the file, not of the indices."""

    def images(self, indices):
        return super().images(indices.sort().values)


@mutant("dataset", killed_by="same_image_twice")
class ShuffledAnew(InMemory):
    """Each instance shuffles its images with a seed of its own."""

    def __init__(self, subset: str = "train"):
        super().__init__(subset)
        generator = torch.Generator()
        generator.seed()
        self.pixels = self.pixels[torch.randperm(len(self), generator=generator)]


@mutant("dataset", killed_by="images_owned")
class GivesViews(InMemory):
    """Neighbouring images are given as a view of its own memory."""

    def images(self, indices):
        if len(indices) > 1 and bool((indices.diff() == 1).all()):
            return self.pixels[int(indices[0]) :][: len(indices)]
        return super().images(indices)


@mutant("dataset", killed_by="splits_true")
class AnySplit(InMemory):
    """A misspelt split is the training set."""

    def split(self, name):
        return type(self)("test" if name == "test" else "train")


@mutant("dataset", killed_by="splits_disjoint")
class TestIsTrain(InMemory):
    """The test split is cut from the training images without taking them out."""

    def split(self, name):
        split = super().split(name)
        if name == "test":
            split.pixels = self.pixels[-16:]
        return split


@mutant("dataset", killed_by="splits_disjoint")
class SplitReturnsItself(InMemory):
    """``split`` returns the dataset that it is asked of."""

    def split(self, name):
        super().split(name)
        return self


@mutant("dataset", killed_by="labels_match")
class LabelsOfBothSplits(InMemory):
    """Labels are those of all images, the images those of a split."""

    def __init__(self, subset: str = "train"):
        super().__init__(subset)
        self.labels = torch.zeros(80, dtype=torch.int64)


@mutant("dataset", killed_by="fingerprint_true")
class FingerprintOfTheClass(InMemory):
    """Both splits have one fingerprint: a cache would take one for the other."""

    def __init__(self, subset: str = "train"):
        super().__init__(subset)
        self.fingerprint = "noise"


@mutant("dataset", killed_by="fingerprint_true")
class FingerprintOfTheObject(InMemory):
    """The fingerprint is the object's address: another in each process."""

    def __init__(self, subset: str = "train"):
        super().__init__(subset)
        self.fingerprint = object()


@sound("dataset")
class Named(InMemory):
    """Noise of any size and number of channels, with classes that have names; it is read ahead."""

    class_names = ("low", "high")

    def __init__(
        self, subset: str = "train", size: int | tuple[int, int] = 12, channels: Literal[1, 2, 3, 4] = 1
    ):
        self.size = (size, size) if isinstance(size, int) else size
        self.options, self.channels, self.subset = (size, channels), channels, subset
        generator = torch.Generator().manual_seed(int(subset == "test"))
        shape = (24, channels, *self.size)
        self.pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        self.labels = (self.pixels[:, 0, 0, 0] > 127).long()
        self.fingerprint = f"named:{subset}:{size}:{channels}"
        self.ahead = [], None

    def prefetch(self, indices):
        self.ahead = indices.tolist(), self.pixels[indices]

    def images(self, indices):
        ahead, images = self.ahead
        return images.clone() if indices.tolist() == ahead else super().images(indices)

    def split(self, name):
        if name not in self.splits:
            raise ValueError(f"no split {name!r}")
        return type(self)(name, *self.options)


@mutant("dataset", killed_by="options_kept")
class WidthFirst(Named):
    """A size of two numbers is taken for width and height."""

    def images(self, indices):
        return super().images(indices).reshape(-1, self.channels, *self.size[::-1])


@mutant("dataset", killed_by="options_kept")
class GreyOrColour(Named):
    """Four channels are announced, and images have three."""

    def images(self, indices):
        return super().images(indices)[:, :3]


@mutant("dataset", killed_by="class_names_true")
class OneNameTooFew(Named):
    """The last class has no name."""

    class_names = ("low",)


@mutant("dataset", killed_by="class_names_true")
class NamesByAppearance(Named):
    """Each split names the classes in the order in which they appear."""

    def __init__(self, subset: str = "train", size: int = 12, channels: Literal[1, 3] = 1):
        super().__init__(subset, size, channels)
        self.class_names = ("low", "high") if subset == "train" else ("high", "low")


@mutant("dataset", killed_by="prefetch_changes_nothing")
class WhatWasReadAhead(Named):
    """What was read ahead is given, whatever is asked for."""

    def images(self, indices):
        ahead, images = self.ahead
        self.ahead = [], None
        return images if len(ahead) == len(indices) else super().images(indices)
