"""Broken and sound couplings."""

from __future__ import annotations

import torch

from mutants.catalogue import mutant, sound


@sound("coupling")
class ByMean:
    """The noise of the greatest mean goes to the latent of the greatest mean."""

    def __call__(self, latents, noise):
        return noise[self.order(latents, noise)]

    def order(self, latents, noise):
        ranks = latents.flatten(1).mean(1).argsort().argsort()
        return noise.flatten(1).mean(1).argsort()[ranks]


@sound("coupling")
def backwards():
    """A function, which gives the noise in the opposite order."""
    return lambda latents, noise: noise.flip(0)


@mutant("coupling", killed_by="permutation_of_noise")
class Nearest(ByMean):
    """Each latent takes the noise that is nearest: some is taken twice, and some never."""

    def order(self, latents, noise):
        return torch.cdist(latents.flatten(1), noise.flatten(1)).argmin(1)


@mutant("coupling", killed_by="permutation_of_noise")
class Blended(ByMean):
    """Noise is drawn towards its latent a little."""

    def __call__(self, latents, noise):
        return super().__call__(latents, noise).lerp(latents, 0.1)


@mutant("coupling", killed_by="permutation_of_noise")
class Mirrored(ByMean):
    """The sign is turned where that brings the noise nearer: half of the Gaussian is left."""

    def __call__(self, latents, noise):
        return noise * (latents * noise).sum((1, 2, 3), keepdim=True).sign()


@mutant("coupling", killed_by="permutation_of_noise")
class Standardized(ByMean):
    """The noise of a batch is brought to mean 0, as if that were an improvement."""

    def __call__(self, latents, noise):
        return noise - noise.mean()


@mutant("coupling", killed_by="noise_kept_in_kind")
class InDouble(ByMean):
    """What is computed in float32 is returned in it, whatever the noise was."""

    def __call__(self, latents, noise):
        return super().__call__(latents.float(), noise.float())


@mutant("coupling", killed_by="noise_kept_in_kind")
class Flat(ByMean):
    """The noise comes back as the vectors that were compared."""

    def __call__(self, latents, noise):
        return super().__call__(latents, noise).flatten(1)


@mutant("coupling", killed_by="given_left_alone")
class InPlace(ByMean):
    """The noise is sorted where it lies."""

    def __call__(self, latents, noise):
        return noise.copy_(super().__call__(latents, noise))


@mutant("coupling", killed_by="given_left_alone")
class Centring(ByMean):
    """The latents are centred in place, to compare them."""

    def order(self, latents, noise):
        latents.detach().sub_(latents.detach().mean())
        return super().order(latents, noise)


@mutant("coupling", killed_by="graph_free")
class WithGraph(ByMean):
    """Nothing of the latents is added, and with it their graph."""

    def __call__(self, latents, noise):
        return super().__call__(latents, noise) + 0 * latents


@mutant("coupling", killed_by="leaves_the_process_alone")
class Shuffling(ByMean):
    """Pairs are shuffled by torch's global generator, which no step of a resumed run has."""

    def order(self, latents, noise):
        return torch.randperm(len(noise))


@mutant("coupling", killed_by="calls_independent")
class ByTurns(ByMean):
    """Each call turns the batch by one more."""

    turns = 0

    def order(self, latents, noise):
        self.turns += 1
        return torch.arange(len(noise)).roll(self.turns)
