"""Broken components of every make: what they do to the process, to each other, and to memory."""

from __future__ import annotations

import os
import random
import sys
import threading
import time

import numpy as np
import torch
from torch import nn

from mutants.catalogue import mutant, sound
from mutants.datasets import InMemory
from mutants.discriminators import Plain as Discriminator
from mutants.losses import Charbonnier
from mutants.lr_schedules import Constant
from mutants.metrics import KernelDistance
from mutants.optimizers import Lion
from mutants.samplers import Ddim
from mutants.timestep_weightings import Uniform

alone = "leaves_the_process_alone"
apart = "instances_independent"
again = "calls_independent"
graph = "keeps_no_graph"
elsewhere = "works_elsewhere"


@mutant("dataset", killed_by=alone)
class SeedsNumpy(InMemory):
    """numpy's random state is seeded, so that images are shuffled alike each time."""

    def __init__(self, subset: str = "train"):
        super().__init__(subset)
        np.random.seed(0)


@mutant("dataset", killed_by=alone)
class ShufflesWithPython(InMemory):
    """Its order is drawn from Python's random state, which is everybody's."""

    def __init__(self, subset: str = "train"):
        super().__init__(subset)
        random.Random(3).random()
        random.random()


@mutant("loss", killed_by=alone)
class DoublesEverything(Charbonnier):
    """It asks for double precision by setting the default dtype of all."""

    def __init__(self, eps: float = 0.01):
        super().__init__(eps)
        torch.set_default_dtype(torch.float64)


@mutant("metric", killed_by=alone)
class TurnsGradientsOff(KernelDistance):
    """Gradients are turned off for good, not for its own lines."""

    def compute(self):
        torch.set_grad_enabled(False)
        return super().compute()


@mutant("sampler", killed_by=alone)
class OneThread(Ddim):
    """It sets torch to one thread, and leaves it so."""

    def __call__(self, *args):
        torch.set_num_threads(torch.get_num_threads() + 1)
        return super().__call__(*args)


@mutant("timestep_weighting", killed_by=alone)
class SetsAVariable(Uniform):
    """It configures a library by a variable of the environment."""

    def sample(self, count, generator):
        os.environ["LIBRARY_MODE"] = str(count)
        return super().sample(count, generator)


@mutant("lr_schedule", killed_by=alone)
class LogsToStdout(Constant):
    """Each factor is printed where a command's data go."""

    def __call__(self, step):
        print("factor at", step)
        return 1.0


@mutant("dataset", killed_by=alone)
class ReadsAhead(InMemory):
    """A thread that decodes ahead is started, and never joined."""

    def images(self, indices):
        threading.Thread(target=time.sleep, args=(0.5,), daemon=True).start()
        return super().images(indices).clone()


@mutant("optimizer", killed_by=alone)
class Deterministic(Lion):
    """It wants deterministic algorithms, from everybody."""

    def step(self, closure=None):
        torch.use_deterministic_algorithms(True, warn_only=True)
        return super().step(closure)


@mutant("metric", killed_by=apart)
class OneListForAll(KernelDistance):
    """What was seen is kept in an attribute of the class: all instances add to it."""

    kept = {True: [], False: []}

    def __init__(self):
        pass

    def reset(self, *, keep_real: bool = False):
        pass


@mutant("lr_schedule", killed_by=apart)
class CountsInstances(Constant):
    """The rate is lowered for each instance there was before: a trick for restarts."""

    made = 0

    def __init__(self, steps: int, /):
        super().__init__(steps)
        type(self).made += 1
        self.number = self.made

    def __call__(self, step):
        return 1.0 / self.number


@mutant("loss", killed_by=again)
class RunningScale(Charbonnier):
    """Each value is divided by the running mean of those before: what one batch costs depends on the last."""

    mean = 1.0

    def __call__(self, prediction, target):
        value = super().__call__(prediction, target)
        self.mean = 0.9 * self.mean + 0.1 * float(value)
        return value / self.mean


@mutant("sampler", killed_by=again)
class RemembersTheLast(Ddim):
    """It begins at what it returned last, if that has the right shape."""

    last = None

    def __call__(self, denoise, noise_scheduler, noise, generator):
        start = (
            noise if self.last is None or self.last.shape != noise.shape else 0.9 * noise + 0.1 * self.last
        )
        self.last = super().__call__(denoise, noise_scheduler, start, generator)
        return self.last


@mutant("loss", killed_by=graph)
class KeepsEveryValue(Charbonnier):
    """Every value is kept for a plot later, with all that led to it."""

    def __init__(self, eps: float = 0.01):
        super().__init__(eps)
        self.history = []

    def __call__(self, prediction, target):
        self.history.append(super().__call__(prediction, target))
        return self.history[-1]


@mutant("discriminator", killed_by=graph)
class KeepsItsLogits(Discriminator):
    """The last logits are kept for a picture, graph and all."""

    def forward(self, images):
        self.shown = super().forward(images)
        return self.shown


@mutant("loss", killed_by=elsewhere)
class WeightsOnTheCpu(Charbonnier):
    """Rows are weighted by a tensor that is made on the CPU at every call."""

    def __call__(self, prediction, target):
        weights = torch.linspace(0.5, 1.5, prediction.shape[-1])
        return ((prediction - target).square() * weights).mean()


@mutant("sampler", killed_by=elsewhere)
class NoiseFromTheCpu(Ddim):
    """A little noise is added as the generator gives it, on the CPU, wherever the latents are."""

    def __call__(self, denoise, noise_scheduler, noise, generator):
        fresh = torch.randn(noise.shape, generator=generator)
        return super().__call__(denoise, noise_scheduler, noise + 0 * fresh, generator)


@mutant("loss", killed_by=apart)
class HeavierEachTime(Charbonnier):
    """Each instance weighs a little more than the one used before it: the class counts them."""

    used = 0
    weight = None

    def __call__(self, prediction, target):
        if self.weight is None:
            self.weight = 1 + 0.01 * type(self).used
            type(self).used += 1
        return super().__call__(prediction, target) * self.weight


@mutant("timestep_weighting", killed_by=again)
class EarlierAfterWeighing(Uniform):
    """Once it has weighed times, those that it draws lie nearer to the data."""

    weighed = False

    def sample(self, count, generator):
        times = super().sample(count, generator)
        return times**1.1 if self.weighed else times

    def weight(self, t, noise_scheduler):
        self.weighed = True
        return super().weight(t, noise_scheduler)


@mutant("discriminator", killed_by="eval_deterministic")
class GainOfTheSeed(Discriminator):
    """A gain is drawn from the process's seed at each call, in eval mode too."""

    def forward(self, images):
        generator = torch.Generator().manual_seed(torch.initial_seed() % 1000)
        return super().forward(images) * (1 + torch.rand((), generator=generator))


@mutant("discriminator", killed_by="inputs_unchanged")
class MasksACorner(Discriminator):
    """While it trains, the first pixel is masked, in the images that it was given."""

    def forward(self, images):
        if self.training:
            with torch.no_grad():
                images[..., 0, 0] = 0
        return super().forward(images)


@sound("lr_schedule")
class Announced(Constant):
    """Says on stderr that it begins, which is where messages go."""

    def __init__(self, steps: int, /):
        super().__init__(steps)
        print("a schedule of", steps, "steps", file=sys.stderr)


@sound("loss")
class Remembering(nn.Module):
    """Keeps its last value for a log, without its graph."""

    symmetric = True

    def forward(self, prediction, target):
        value = (prediction - target).abs().mean()
        self.last = value.detach()
        return value
