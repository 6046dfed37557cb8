"""Broken and sound conditions."""

from __future__ import annotations

import torch
from torch import nn

from mutants.catalogue import mutant, sound


@sound("condition")
class Labels:
    """The dataset's labels; without any it refuses."""

    def __init__(self, classes: int):
        self.classes = classes
        self.assigned = torch.zeros(0, dtype=torch.int64)

    def fit(self, batches, labels):
        if labels is None:
            raise ValueError("the dataset has no labels")
        if not 0 <= labels.min() <= labels.max() < self.classes:
            raise ValueError(f"a label is none of classes = {self.classes}")
        self.assigned = labels.clone()

    def of(self, indices):
        return self.assigned[indices]

    def draw(self, n, generator):
        return self.assigned[torch.randint(len(self.assigned), (n,), generator=generator)]

    def state_dict(self):
        return {"assigned": self.assigned}

    def load_state_dict(self, state):
        self.assigned = state["assigned"].clone()


@sound("condition")
class Brightness(Labels):
    """Equal parts of the training set by how bright a latent is; labels are not used."""

    def fit(self, batches, labels):
        self.assigned = self.parts(torch.cat([batch.mean((1, 2, 3)) for batch in batches]))

    def parts(self, brightness):
        return brightness.argsort().argsort() * self.classes // len(brightness)


@sound("condition")
class Few(Brightness):
    """As many clusters as it has classes, no fewer images."""

    def __init__(self, classes: int = 4):
        super().__init__(classes)

    def parts(self, brightness):
        if len(brightness) < self.classes:
            raise ValueError(f"{len(brightness)} images are fewer than classes = {self.classes}")
        return (brightness[:, None] - brightness[: self.classes]).abs().argmin(1)


@sound("condition")
class FrequencyTable(Labels):
    """It draws by a table of frequencies, which is saved beside the classes."""

    def fit(self, batches, labels):
        super().fit(batches, labels)
        self.frequencies = torch.bincount(self.assigned, minlength=self.classes).double()

    def draw(self, n, generator):
        if not n:
            return torch.zeros(0, dtype=torch.int64)
        return torch.multinomial(self.frequencies, n, replacement=True, generator=generator)

    def state_dict(self):
        return {"assigned": self.assigned, "frequencies": self.frequencies}

    def load_state_dict(self, state):
        self.assigned, self.frequencies = state["assigned"].clone(), state["frequencies"].clone()


@sound("condition")
class ByColour(nn.Module):
    """A module that is fitted to images: whether they are brighter than grey, and by how much."""

    fits_images = True

    def __init__(self):
        super().__init__()
        self.classes = 4
        self.register_buffer("assigned", torch.zeros(0, dtype=torch.int64))

    def fit(self, batches, labels):
        brightness = torch.cat([batch.mean((1, 2, 3)) for batch in batches])
        self.assigned = (brightness * 200).long().clamp(-2, 1) + 2

    of, draw = Labels.of, Labels.draw

    def load_state_dict(self, state, strict=True, assign=False):
        self.assigned = state["assigned"].clone()


@sound("condition")
class OneClass(Labels):
    """All images are of one class: it says nothing."""

    def __init__(self):
        super().__init__(1)

    def fit(self, batches, labels):
        self.assigned = torch.zeros(sum(map(len, batches)), dtype=torch.int64)


@mutant("condition", killed_by="class_of_each_image")
class FromOne(Labels):
    """Classes are numbered from one: the last is the index that means "no class"."""

    def of(self, indices):
        return super().of(indices) + 1

    def draw(self, n, generator):
        return super().draw(n, generator) + 1


@mutant("condition", killed_by="class_of_each_image")
class FloatClasses(Labels):
    """Classes are floats."""

    def of(self, indices):
        return super().of(indices).float()


@mutant("condition", killed_by="order_of_indices")
class ContiguousRange(Labels):
    """It gives the classes from the first index to the last, whatever lies between."""

    def of(self, indices):
        return self.assigned[: len(indices)].clone()


@mutant("condition", killed_by="order_of_indices")
class SortsIndices(Labels):
    """Indices are sorted, for speed, and the classes not brought back into order."""

    def of(self, indices):
        return super().of(indices.sort().values)


@mutant("condition", killed_by="fit_deterministic")
class RandomCenters(Few):
    """Its first centers are drawn with torch's global seed."""

    def parts(self, brightness):
        if len(brightness) < self.classes:
            raise ValueError(f"{len(brightness)} images are fewer than classes = {self.classes}")
        generator = torch.Generator().manual_seed(torch.initial_seed())
        centers = brightness[torch.randperm(len(brightness), generator=generator)[: self.classes]]
        return (brightness[:, None] - centers).abs().argmin(1)


@mutant("condition", killed_by="refits")
class WarmStart(Few):
    """A second fit begins with the centers of the first."""

    centers = None

    def parts(self, brightness):
        classes = super().parts(brightness)
        if self.centers is None:
            self.centers = brightness[: self.classes]
        return (brightness[:, None] - self.centers).abs().argmin(1) + 0 * classes


@mutant("condition", killed_by="refits")
class FirstFitCounts(FrequencyTable):
    """Frequencies are added up over fits."""

    def __init__(self, classes: int):
        super().__init__(classes)
        self.total = torch.zeros(classes, dtype=torch.float64)

    def fit(self, batches, labels):
        super().fit(batches, labels)
        self.total += self.frequencies
        self.frequencies = self.total.clone()


@mutant("condition", killed_by="any_batches")
class SkipsSingles(Brightness):
    """A batch of one image is left out, as batch norm would have it."""

    def fit(self, batches, labels):
        if len(batches) > 1:
            batches = [batch for batch in batches if len(batch) > 1]
        super().fit(batches, labels)


@mutant("condition", killed_by="draws_by_frequency")
class EveryClassAlike(Labels):
    """Classes are drawn alike, however frequent."""

    def draw(self, n, generator):
        return torch.randint(self.classes, (n,), generator=generator)


@mutant("condition", killed_by="draws_by_frequency")
class NeverTheLast(Labels):
    """The last class is never drawn."""

    def draw(self, n, generator):
        drawn = super().draw(n, generator)
        return drawn.where(drawn < self.classes - 1, torch.zeros(()).long())


@mutant("condition", killed_by="draws_by_frequency")
class DrawsNoClass(Labels):
    """One in ten is drawn as "no class"."""

    def draw(self, n, generator):
        none = torch.rand(n, generator=generator) < 0.1
        return super().draw(n, generator).masked_fill(none, self.classes)


@mutant("condition", killed_by="draws_in_kind")
class OneDrawIsNumber(Labels):
    """A single class is drawn as a number without dimension."""

    def draw(self, n, generator):
        return super().draw(n, generator).squeeze()


@mutant("condition", killed_by="draws_in_kind")
class DrawsInt32(Labels):
    """Classes are kept, and drawn, as int32."""

    def draw(self, n, generator):
        return super().draw(n, generator).int()


@mutant("condition", killed_by="generator_decides")
class GlobalDraws(Labels):
    """It draws from torch's global generator."""

    def draw(self, n, generator):
        return self.assigned[torch.randint(len(self.assigned), (n,))]


@mutant("condition", killed_by="generator_decides")
class GeneratorNotAdvanced(Labels):
    """It draws from a copy of the generator: every batch has the same classes."""

    def draw(self, n, generator):
        copy = torch.Generator()
        copy.set_state(generator.get_state())
        return super().draw(n, copy)


@mutant("condition", killed_by="fit_saved")
class FrequenciesNotSaved(FrequencyTable):
    """The classes are saved, and not how frequent they are."""

    def state_dict(self):
        return {"assigned": self.assigned}

    def load_state_dict(self, state):
        self.assigned, self.frequencies = state["assigned"], torch.ones(self.classes).double()


@mutant("condition", killed_by="fit_saved")
class NoTensors(Labels):
    """Its state is a list of numbers, which safetensors does not take."""

    def state_dict(self):
        return {"assigned": self.assigned.tolist()}

    def load_state_dict(self, state):
        self.assigned = torch.tensor(state["assigned"])


@mutant("condition", killed_by="inputs_left_alone")
class KeepsTheLabels(Labels):
    """It keeps the dataset's tensor of labels, which its owner may write into."""

    def fit(self, batches, labels):
        super().fit(batches, labels)
        self.assigned = labels


@mutant("condition", killed_by="inputs_left_alone")
class CentersInPlace(Few):
    """The mean is taken off the latents in their own memory."""

    def fit(self, batches, labels):
        super().fit([batch.sub_(batch.mean()) for batch in batches], labels)


@mutant("condition", killed_by="labels_missing")
class WantsLabels(Labels):
    """Without labels it fails with an error of its own code."""

    def fit(self, batches, labels):
        super().fit(batches, labels[:])


@mutant("condition", killed_by="labels_out_of_range")
class LabelsUnchecked(Labels):
    """Labels are taken as they are: the embedding fails long after."""

    def fit(self, batches, labels):
        if labels is None:
            raise ValueError("the dataset has no labels")
        self.assigned = labels.clone()


@mutant("condition", killed_by="labels_out_of_range")
class LabelsClamped(Labels):
    """Labels beyond the classes are taken for the last one."""

    def fit(self, batches, labels):
        super().fit(batches, labels if labels is None else labels.clamp(0, self.classes - 1))


@mutant("condition", killed_by="few_images")
class TakesSoMany(Few):
    """With fewer images than classes it fails with an error of torch's."""

    def parts(self, brightness):
        return (brightness[:, None] - brightness[torch.arange(self.classes)]).abs().argmin(1)


@mutant("condition", killed_by="leaves_the_process_alone")
class SeedsTorch(Few):
    """It seeds torch, to be deterministic."""

    def fit(self, batches, labels):
        torch.manual_seed(0)
        super().fit(batches, labels)
