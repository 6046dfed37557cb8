"""Broken and sound datasets."""

from __future__ import annotations

import torch

from mutants.catalogue import mutant, sound


def drawn(subset: str, count: int, channels: int = 1):
    generator = torch.Generator().manual_seed({"train": 1, "test": 2}[subset])
    return torch.randint(256, (count, channels, 12, 12), dtype=torch.uint8, generator=generator)


@sound("dataset")
class InMemory:
    """Noise, all of it in memory."""

    channels = 1
    size = 12
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
    size = 8
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
        if bool((indices.diff() == 1).all()):
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
