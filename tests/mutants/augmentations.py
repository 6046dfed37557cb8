"""Broken and sound augmentations."""

from __future__ import annotations

import torch

from mutants.catalogue import mutant, sound


@sound("augmentation")
class Inverted:
    """Some images are negatives."""

    parameters = 1
    leaks = True
    variants = torch.tensor([[0.0], [1.0]])

    def draw(self, n, generator):
        return torch.randint(2, (n, 1), generator=generator).float()

    def __call__(self, images, parameters):
        return torch.where(parameters.view(-1, 1, 1, 1) > 0, 255 - images, images)


@sound("augmentation")
class Darker:
    """Some images are darker; RGB only."""

    parameters = 1
    leaks = False

    def draw(self, n, generator):
        values = torch.rand(n, 1, generator=generator)
        return torch.where(torch.rand(n, 1, generator=generator) < 0.5, values, 0.0)

    def __call__(self, images, parameters):
        if images.shape[1] != 3:
            raise ValueError("RGB only")
        return (images * (1 - 0.5 * parameters.view(-1, 1, 1, 1))).round().to(torch.uint8)


@mutant("augmentation", killed_by="declares_itself")
class Silent(Darker):
    """Whether it leaks is left open."""

    leaks = None


@mutant("augmentation", killed_by="declares_itself")
class Counted(Darker):
    """The number of parameters is a tensor."""

    parameters = torch.tensor(1)


@mutant("augmentation", killed_by="nothing_at_zero")
class Rounded(Darker):
    """The way through floats loses the last bit of bright pixels."""

    def __call__(self, images, parameters):
        return (super().__call__(images, parameters).float() / 256 * 255).to(torch.uint8)


@mutant("augmentation", killed_by="images_kept_in_kind")
class Floats(Darker):
    """Images come back as floats."""

    def __call__(self, images, parameters):
        return super().__call__(images, parameters).float()


@mutant("augmentation", killed_by="images_kept_in_kind")
class Turned(Inverted):
    """Turned by a quarter, an image is as wide as it was high."""

    def __call__(self, images, parameters):
        changed = super().__call__(images, parameters)
        return changed.transpose(2, 3) if bool(parameters.any()) else changed


@mutant("augmentation", killed_by="image_by_image")
class OneForAll(Inverted):
    """The whole batch is changed by the first image's parameters."""

    def __call__(self, images, parameters):
        return super().__call__(images, parameters[:1].expand(len(images), -1))


@mutant("augmentation", killed_by="image_by_image")
class Normalized(Darker):
    """Parameters are brought to the range of the batch."""

    def __call__(self, images, parameters):
        return super().__call__(images, parameters / parameters.max().clamp(min=1e-6))


@mutant("augmentation", killed_by="given_left_alone")
class InPlace(Inverted):
    """Images are changed where they lie."""

    def __call__(self, images, parameters):
        return images.copy_(super().__call__(images, parameters))


@mutant("augmentation", killed_by="given_left_alone")
class GivenAway(Inverted):
    """Where nothing is to be changed, the caller's own images come back."""

    def draw(self, n, generator):
        return 0 * super().draw(n, generator)

    def __call__(self, images, parameters):
        return super().__call__(images, parameters) if bool(parameters.any()) else images


@mutant("augmentation", killed_by="given_left_alone")
class Clamping(Darker):
    """Parameters are brought into their range where they lie."""

    def __call__(self, images, parameters):
        return super().__call__(images, parameters.clamp_(max=0.5))


@mutant("augmentation", killed_by="every_parameter_counts")
class Idle(Darker):
    """Of two parameters one does nothing."""

    parameters = 2

    def draw(self, n, generator):
        values = super().draw(n, generator)
        return torch.cat([values, values / 2], 1)

    def __call__(self, images, parameters):
        return super().__call__(images, parameters[:, :1])


@mutant("augmentation", killed_by="draws_by_the_generator")
class Seeded(Inverted):
    """It has a generator of its own, and draws the same in each step."""

    def draw(self, n, generator):
        return super().draw(n, torch.Generator().manual_seed(0))


@mutant("augmentation", killed_by="draws_by_the_generator")
class Integers(Inverted):
    """Parameters are integers, which no linear layer takes."""

    def draw(self, n, generator):
        return super().draw(n, generator).long()


@mutant("augmentation", killed_by="draws_images_as_they_are")
class Always(Darker):
    """Each image is made darker, by more or less."""

    def draw(self, n, generator):
        return torch.rand(n, 1, generator=generator)


@mutant("augmentation", killed_by="variants_are_what_it_draws")
class Seldom(Inverted):
    """Variants are taken to be equally likely, and negatives are seldom."""

    def draw(self, n, generator):
        return (torch.rand(n, 1, generator=generator) < 0.2).float()


@mutant("augmentation", killed_by="variants_are_what_it_draws")
class Backwards(Inverted):
    """The image itself is the last of its variants."""

    variants = torch.tensor([[1.0], [0.0]])


@mutant("augmentation", killed_by="variants_are_what_it_draws")
class Missing(Darker):
    """It has only the ends of what it draws for variants."""

    variants = torch.tensor([[0.0], [1.0]])


@mutant("augmentation", killed_by="leaves_the_process_alone")
class Global(Inverted):
    """It draws from torch's global generator, which no step of a resumed run has."""

    def __call__(self, images, parameters):
        return super().__call__(images, parameters * (torch.rand(len(images), 1) < 0.9))


@mutant("augmentation", killed_by="calls_independent")
class ByTurns(Darker):
    """Each call makes images darker than the one before."""

    turns = 0

    def __call__(self, images, parameters):
        self.turns += 1
        return super().__call__(images, parameters * self.turns / 8)


@mutant("augmentation", killed_by="works_elsewhere")
class OnTheCPU(Darker):
    """What is added to images is made on the CPU, wherever they are."""

    def __call__(self, images, parameters):
        shade = torch.full((len(images), 1, 1, 1), 0.5, device="cpu")
        return (images * (1 - shade * parameters.view(-1, 1, 1, 1))).round().to(torch.uint8)
