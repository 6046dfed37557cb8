"""Broken and sound stages, trainers and others."""

from __future__ import annotations

import random
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mutants.catalogue import mutant, sound
from uldm_core import Partial, use
from uldm_core.errors import DataError
from uldm_core.kinds import latent_size
from uldm_core.protocols import Optimizer


@sound("stage")
class Reconstruct:
    """Trains an autoencoder on the mean squared error; no average of weights, no schedule."""

    trains = ("autoencoder",)
    makes = ()
    needs = ()

    def __init__(self, dataset, autoencoder, steps: int = 100, batch_size: int = 8):
        self.dataset, self.autoencoder = dataset, autoencoder
        self.steps, self.batch_size = steps, batch_size

    def prepare(self, context):
        self.optimizer = torch.optim.AdamW(self.autoencoder.parameters(), 1e-2)
        self.autoencoder.train()

    def batch(self, step, context):
        indices = context.batch(len(self.dataset), self.batch_size, step)
        return self.dataset.images(indices).to(context.device).float() / 127.5 - 1

    def loss(self, step, context):
        images = self.batch(step, context)
        return F.mse_loss(self.autoencoder(images)[0], images)

    def step(self, step, context):
        loss = self.loss(step, context)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def stateful(self):
        return {"autoencoder": self.autoencoder, "optimizer": self.optimizer}

    def finish(self, context):
        self.autoencoder.eval()
        return {}


@sound("stage")
class Denoise(Reconstruct):
    """Trains a denoiser on latents of a frozen autoencoder."""

    trains = ("denoiser",)

    def __init__(self, dataset, autoencoder, denoiser, noise_scheduler, steps: int = 100):
        super().__init__(dataset, autoencoder, steps, 32)
        self.denoiser, self.noise_scheduler = denoiser, noise_scheduler

    def prepare(self, context):
        self.optimizer = torch.optim.Adam(self.denoiser.parameters(), 1e-2)
        self.autoencoder.eval()
        self.denoiser.train()

    def loss(self, step, context):
        with torch.no_grad():
            latents, _ = self.autoencoder.encode(self.batch(step, context))
        noise, t = torch.randn_like(latents), torch.rand(len(latents))
        noised = self.noise_scheduler.add_noise(latents, noise, t)
        prediction = self.denoiser(noised, self.noise_scheduler.conditioning(t))
        return F.mse_loss(prediction, self.noise_scheduler.target(latents, noise, t))

    def stateful(self):
        return {"denoiser": self.denoiser, "optimizer": self.optimizer}

    def finish(self, context):
        self.denoiser.eval()
        return {"steps": float(self.steps)}


@sound("stage")
class Adjusts(Reconstruct):
    """Sets its learning rate anew in each step, whatever rate was loaded."""

    adjustable = ("optimizer",)

    def __init__(
        self, dataset, autoencoder, steps: int = 100, optimizer: Partial[Optimizer] = use("adamw", lr=1e-2)
    ):
        super().__init__(dataset, autoencoder, steps)
        self.make = optimizer

    def prepare(self, context):
        super().prepare(context)
        self.optimizer = self.make(self.autoencoder.parameters())
        self.lr = self.optimizer.param_groups[0]["lr"]

    def step(self, step, context):
        self.optimizer.param_groups[0]["lr"] = self.lr
        return super().step(step, context)


@sound("stage")
class Average:
    """Draws the mean image: a stage done in one go."""

    trains = ()
    makes = ("mean.txt",)
    needs = ()

    def __init__(self, dataset, count: int = 32):
        self.dataset, self.count = dataset, count

    def run(self, context):
        images = self.dataset.images(torch.arange(min(self.count, len(self.dataset)))).float()
        context.artifact("mean.txt").write_text(str(images.mean(0).tolist()))
        return {"mean": float(images.mean())}


@mutant("stage", killed_by="declares_its_work")
class OneNameNotASequence(Reconstruct):
    """``trains`` is a string, whose letters the engine takes for names."""

    trains = "autoencoder"


@mutant("stage", killed_by="declares_its_work")
class NamesInNoOrder(Reconstruct):
    """``trains`` is a set, whose order is another in every process."""

    trains = frozenset({"autoencoder"})


@mutant("stage", killed_by="declares_its_work")
class TrainsWhatItDoesNotTake(Reconstruct):
    """It says that it trains an option that it does not have."""

    trains = ("model",)


@mutant("stage", killed_by="declares_its_work")
class OneSplitNotASequence(Reconstruct):
    """``reads`` is a string."""

    reads = "train"


@sound("stage")
class ReadsWhatItSays(Average):
    """Reads the training images, and says so."""

    reads = ("train",)


@mutant("stage", killed_by="reads_what_it_declares")
class ReadsTheTestSplit(Average):
    """The test split is read, and is not in its key."""

    reads = ("train",)

    def run(self, context):
        self.dataset = self.dataset.split("test")
        return super().run(context)


@mutant("stage", killed_by="reads_what_it_declares")
class TrainsOnWhatItDoesNotSay(Reconstruct):
    """It says that it reads no images."""

    reads = ()


@mutant("stage", killed_by="training_lowers_loss")
class ClimbsTheLoss(Reconstruct):
    """The loss is maximized."""

    def prepare(self, context):
        super().prepare(context)
        self.optimizer = torch.optim.SGD(self.autoencoder.parameters(), 1e-2, maximize=True)


@mutant("stage", killed_by="training_lowers_loss")
class ForgetsTheStep(Reconstruct):
    """Gradients are computed, and no step is taken."""

    def step(self, step, context):
        loss = self.loss(step, context)
        loss.backward()
        return {"loss": loss.detach()}


@mutant("stage", killed_by="training_lowers_loss")
class LogsNan(Reconstruct):
    """A metric divides by zero."""

    def step(self, step, context):
        return {**super().step(step, context), "share": torch.zeros(()) / 0}


@mutant("stage", killed_by="trains_what_it_says")
class TrainsTheWrongOne(Denoise):
    """The optimizer has the autoencoder's parameters as well, and its latents a gradient."""

    def prepare(self, context):
        super().prepare(context)
        both = [*self.denoiser.parameters(), *self.autoencoder.parameters()]
        self.optimizer = torch.optim.Adam(both, 1e-2)

    def loss(self, step, context):
        latents, _ = self.autoencoder.encode(self.batch(step, context))
        noise, t = torch.randn_like(latents), torch.rand(len(latents))
        noised = self.noise_scheduler.add_noise(latents, noise, t)
        return F.mse_loss(self.denoiser(noised, t), self.noise_scheduler.target(latents, noise, t))


@mutant("stage", killed_by="trains_what_it_says")
class FinishesWithTheStart(Reconstruct):
    """``finish`` puts back the weights from before the training."""

    def prepare(self, context):
        super().prepare(context)
        self.first = {name: value.clone() for name, value in self.autoencoder.state_dict().items()}

    def finish(self, context):
        self.autoencoder.load_state_dict(self.first)
        return super().finish(context)


@mutant("stage", killed_by="resumes_exactly")
class OptimizerNotKept(Reconstruct):
    """The optimizer's moments are not among what a resumed run gets."""

    def stateful(self):
        return {"autoencoder": self.autoencoder}


@mutant("stage", killed_by="resumes_exactly")
class OwnGenerator(Denoise):
    """Noise comes from a generator that counts on, and is not kept."""

    def prepare(self, context):
        super().prepare(context)
        self.generator = torch.Generator().manual_seed(context.seed)

    def loss(self, step, context):
        torch.manual_seed(int(torch.randint(2**31, (), generator=self.generator)))
        return super().loss(step, context)


@mutant("stage", killed_by="resumes_exactly")
class CountsItsOwnSteps(Reconstruct):
    """The rate falls with a count of its own, which starts anew when it is resumed."""

    taken = 0

    def step(self, step, context):
        self.taken += 1
        self.optimizer.param_groups[0]["lr"] = 1e-2 / self.taken
        return super().step(step, context)


@mutant("stage", killed_by="adjusted_optimizer_holds")
class LoadsTheOldRate(Adjusts):
    """A checkpoint brings its own learning rate back."""

    def step(self, step, context):
        return Reconstruct.step(self, step, context)


@mutant("stage", killed_by="finishes_in_eval")
class StaysInTraining(Reconstruct):
    """The trained autoencoder is left in training mode."""

    def finish(self, context):
        return {}


@mutant("stage", killed_by="finishes_in_eval")
class SummaryOfText(Reconstruct):
    """The summary holds words."""

    def finish(self, context):
        super().finish(context)
        return {"outcome": "good"}


@mutant("stage", killed_by="makes_what_it_says")
class MakesAnotherFile(Average):
    """It writes its artifact under another name."""

    makes = ("average.txt",)


@mutant("stage", killed_by="makes_what_it_says")
class TrainsOnTheSide(Average):
    """A stage done in one go changes the autoencoder's statistics."""

    def __init__(self, dataset, autoencoder, count: int = 32):
        super().__init__(dataset, count)
        self.autoencoder = autoencoder

    def run(self, context):
        with torch.no_grad():
            self.autoencoder.decoder.bias.add_(1)
        return super().run(context)


@mutant("stage", killed_by="same_seed_same_artifacts")
class DrawsAtLarge(Average):
    """Images are picked by torch's global state, not by the run's seed."""

    def run(self, context):
        picked = self.dataset.images(torch.randint(len(self.dataset), (4,))).float()
        context.artifact("mean.txt").write_text(str(picked.mean(0).tolist()))
        return {}


@mutant("stage", killed_by="same_seed_same_artifacts")
class WritesTheTime(Average):
    """The artifact holds a number that is another in each run."""

    def run(self, context):
        summary = super().run(context)
        with context.artifact("mean.txt").open("a") as file:
            file.write(str(id(context)) + str(context.folder.path))
        return summary


@sound("stage")
class Shows(Reconstruct):
    """Has its autoencoder in eval mode while it shows what it makes of a batch."""

    previews = 3
    preview_options = ("previews",)

    def preview(self, step, context):
        self.autoencoder.eval()
        with torch.no_grad():
            context.show("reconstructions", self.autoencoder(self.batch(step, context))[0].byte(), step)
        self.autoencoder.train()


@mutant("stage", killed_by="previews_change_nothing")
class ShowsAndStaysAtRest(Reconstruct):
    """After the first preview the autoencoder stays in eval mode."""

    previews = 3
    preview_options = ("previews",)

    def preview(self, step, context):
        self.autoencoder.eval()


@mutant("stage", killed_by="previews_change_nothing")
class ShowsTheAverageAndKeepsIt(Reconstruct):
    """What is put into the weights for a preview is never taken out again."""

    previews = 3
    preview_options = ("previews",)

    def preview(self, step, context):
        with torch.no_grad():
            for parameter in self.autoencoder.parameters():
                parameter.mul_(0.99)


@sound("stage")
class WithReplacement(Reconstruct):
    """Draws each batch at random, images that were in the last one too."""

    def batch(self, step, context):
        indices = torch.randint(len(self.dataset), (self.batch_size,), generator=context.generator(step))
        return self.dataset.images(indices).float() / 127.5 - 1


@mutant("stage", killed_by="uses_every_image")
class FirstBatchOnly(Reconstruct):
    """The step is not passed on: every batch is the first."""

    def batch(self, step, context):
        return super().batch(0, context)


@mutant("stage", killed_by="uses_every_image")
class NoLastBatch(Reconstruct):
    """Images are taken in their order, and those that fill no batch never."""

    def batch(self, step, context):
        start = self.batch_size * (step % (len(self.dataset) // self.batch_size))
        return self.dataset.images(torch.arange(start, start + self.batch_size)).float() / 127.5 - 1


@mutant("stage", killed_by="logs_scalar_tensors")
class LogsFloats(Reconstruct):
    """Metrics are fetched from the device in each step, and are no tensors any more."""

    def step(self, step, context):
        return {"loss": super().step(step, context)["loss"].item()}


@sound("stage")
class LogsTheGraph(Reconstruct):
    """What is logged is the loss itself, with its graph: the training loop detaches it."""

    def step(self, step, context):
        loss = self.loss(step, context)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss}


@mutant("stage", killed_by="parts_in_their_modes")
class TrainsAtRest(Reconstruct):
    """An autoencoder that an earlier stage left in eval mode is trained in it: dropout does nothing."""

    def prepare(self, context):
        modes = self.autoencoder.training
        super().prepare(context)
        self.autoencoder.train(modes)


@mutant("stage", killed_by="trains_what_it_says")
class StatisticsMove(Denoise):
    """The frozen autoencoder is used as it comes, in training mode: its batch norm goes on learning."""

    def prepare(self, context):
        super().prepare(context)
        self.autoencoder.train()


@mutant("stage", killed_by="noise_of_each_step")
class OneNoise(Denoise):
    """The noise has a generator of its own, which is seeded anew in each step."""

    def loss(self, step, context):
        torch.manual_seed(context.seed)
        return super().loss(step, context)


@sound("stage")
class Adversarial(Reconstruct):
    """The discriminator's step, then the generator's, whose gradient in it the next step clears; in turns."""

    def __init__(self, dataset, autoencoder, discriminator, steps: int = 100):
        super().__init__(dataset, autoencoder, steps)
        self.discriminator = discriminator

    def prepare(self, context):
        super().prepare(context)
        self.discriminator.train()
        self.opposite = torch.optim.Adam(self.discriminator.parameters(), 1e-3)

    def stateful(self):
        return {**super().stateful(), "discriminator": self.discriminator, "opposite": self.opposite}

    def teach(self, images, made):
        self.opposite.zero_grad()
        loss = F.softplus(-self.discriminator(images)).mean() + F.softplus(self.discriminator(made)).mean()
        loss.backward()
        self.opposite.step()

    def step(self, step, context):
        images = self.batch(step, context)
        made = self.autoencoder(images)[0]
        self.teach(images, made.detach())
        distance = F.mse_loss(made, images)
        verdict = F.softplus(-self.discriminator(made)).mean()
        self.optimizer.zero_grad()
        (distance + 0.01 * verdict).backward()
        self.optimizer.step()
        late = {"verdict": verdict.detach()} if step % 2 else {}
        return {"loss": distance.detach(), **late}


@mutant("stage", killed_by="generator_spares_discriminator")
class GeneratorTeaches(Adversarial):
    """The generator comes first, and the discriminator steps with the gradient too that it left there."""

    def step(self, step, context):
        images = self.batch(step, context)
        made = self.autoencoder(images)[0]
        distance = F.mse_loss(made, images)
        self.optimizer.zero_grad()
        self.opposite.zero_grad()
        (distance + 0.01 * F.softplus(-self.discriminator(made)).mean()).backward()
        self.optimizer.step()
        made = made.detach()
        (F.softplus(-self.discriminator(images)) + F.softplus(self.discriminator(made))).mean().backward()
        self.opposite.step()
        return {"loss": distance.detach()}


@mutant("stage", killed_by="data_error_undoes_nothing")
class UpdatesBetweenReads(Reconstruct):
    """A step is two updates, and the images of the second are read after the first."""

    def batch(self, step, context):
        try:
            return super().batch(step, context)
        except OSError as error:
            raise DataError(str(error)) from error

    def step(self, step, context):
        super().step(2 * step, context)
        return super().step(2 * step + 1, context)


@sound("stage")
class ReadsThenUpdates(UpdatesBetweenReads):
    """A step is two updates, and the images of both are read before."""

    def step(self, step, context):
        batches = [self.batch(2 * step, context), self.batch(2 * step + 1, context)]
        for images in batches:
            loss = F.mse_loss(self.autoencoder(images)[0], images)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return {"loss": loss.detach()}


@mutant("stage", killed_by="resumes_exactly")
class StateThatNoFileHolds(Reconstruct):
    """The state of Python's generator is tuples, which come back from a file as lists."""

    class Flips:
        def __init__(self):
            self.random = random.Random(0)

        def state_dict(self):
            return {"state": self.random.getstate()}

        def load_state_dict(self, state):
            self.random.setstate(state["state"])

    def prepare(self, context):
        super().prepare(context)
        self.flips = self.Flips()

    def batch(self, step, context):
        images = super().batch(step, context)
        return images.flip(3) if self.flips.random.random() < 0.5 else images

    def stateful(self):
        return {**super().stateful(), "flips": self.flips}


@mutant("stage", killed_by="finishes_in_eval")
class SummaryOfTensors(Reconstruct):
    """The summary holds tensors, which are in no file."""

    def finish(self, context):
        super().finish(context)
        return {"loss": torch.ones(())}


@mutant("stage", killed_by="finishes_in_eval")
class NoTrainingOfOneStep(Reconstruct):
    """The rate falls to nothing over the steps but one, of which a short training has none."""

    def step(self, step, context):
        self.optimizer.param_groups[0]["lr"] = 1e-2 * max(0.1, 1 - step / (self.steps - 1))
        return super().step(step, context)


@sound("stage")
class Averages(Reconstruct):
    """Leaves the average of the weights."""

    def __init__(self, dataset, autoencoder, steps: int = 100, ema_decay: float = 0.99):
        super().__init__(dataset, autoencoder, steps)
        self.ema_decay = ema_decay

    def prepare(self, context):
        super().prepare(context)
        self.average = deepcopy(self.autoencoder).requires_grad_(False)

    def step(self, step, context):
        logged = super().step(step, context)
        for mean, value in zip(self.average.parameters(), self.autoencoder.parameters()):
            mean.lerp_(value.detach(), 1 - self.ema_decay)
        return logged

    def stateful(self):
        return {**super().stateful(), "average": self.average}

    def finish(self, context):
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.autoencoder.parameters()):
                value.copy_(mean)
        return super().finish(context)


@sound("stage")
class TakesTheAverage(Averages):
    """What it trains can be used before it is done."""

    def take(self, state):
        self.autoencoder.load_state_dict(state["autoencoder"])
        for name, value in self.autoencoder.named_parameters():
            value.data.copy_(state["average"][name])
        self.autoencoder.eval()


@mutant("stage", killed_by="takes_what_finish_would_leave")
class TakesTheLast(TakesTheAverage):
    """It takes the weights of the last step, not their average."""

    def take(self, state):
        super().take(state)
        self.autoencoder.load_state_dict(state["autoencoder"])


@mutant("stage", killed_by="takes_what_finish_would_leave")
class TakesAndStaysInTraining(TakesTheAverage):
    """What it takes is left in train mode."""

    def take(self, state):
        super().take(state)
        self.autoencoder.train()


@sound("stage")
class AveragesLate(Averages):
    """The average begins after a hundred steps; until then it is the weights themselves."""

    def step(self, step, context):
        logged = super().step(step, context)
        if step < 100:
            self.average.load_state_dict(self.autoencoder.state_dict())
        return logged


@sound("stage")
class DecoderOnly(Reconstruct):
    """Trains an autoencoder's decoder; its encoder stays as it is."""

    def prepare(self, context):
        super().prepare(context)
        self.autoencoder.eval()
        self.autoencoder.decoder.train()
        self.optimizer = torch.optim.Adam(self.autoencoder.decoder.parameters(), 1e-2)

    def loss(self, step, context):
        images = self.batch(step, context)
        with torch.no_grad():
            latents = self.autoencoder.encode(images)[0]
        return F.mse_loss(self.autoencoder.decode(latents), images)


@sound("stage")
class Quiet(Reconstruct):
    """Logs nothing."""

    def step(self, step, context):
        super().step(step, context)
        return {}


@mutant("stage", killed_by="leaves_the_average")
class LeavesTheLast(Averages):
    """The average is kept and never put into the autoencoder."""

    def finish(self, context):
        return Reconstruct.finish(self, context)


@mutant("stage", killed_by="weights_load_elsewhere")
class AverageWithin(Averages):
    """The average is a part of the autoencoder, whose weights no other autoencoder takes any more."""

    def finish(self, context):
        self.autoencoder.average = self.average
        return super().finish(context)


@mutant("stage", killed_by="weights_load_elsewhere")
class LeavesHalf(Reconstruct):
    """The weights are left in half precision, to save room."""

    def finish(self, context):
        self.autoencoder.bfloat16()
        return super().finish(context)


@mutant("stage", killed_by="takes_colour")
class GreyOnly(Reconstruct):
    """Images are taken for grey, whatever the dataset says."""

    def batch(self, step, context):
        return super().batch(step, context).view(self.batch_size, 1, self.dataset.size[0], -1)


@mutant("stage", killed_by="writes_within_its_folder")
class WritesWhereItStands(Reconstruct):
    """What is left is written into the working folder."""

    def finish(self, context):
        Path("done.txt").write_text(str(self.steps))
        return super().finish(context)


@sound("stage")
class FitsScaling:
    """Trains in one go: measures the latents, once."""

    trains = ("latent_scaling",)
    makes = ()
    needs = ()

    def __init__(self, dataset, autoencoder, latent_scaling):
        self.dataset, self.autoencoder, self.latent_scaling = dataset, autoencoder, latent_scaling

    def run(self, context):
        images = self.dataset.images(torch.arange(len(self.dataset))).float() / 127.5 - 1
        with torch.no_grad():
            self.latent_scaling.fit([self.autoencoder.eval().encode(images)[0]])
        return {}


@sound("stage")
class Draws:
    """Draws each image with a generator of its own, in a few steps of Euler's."""

    trains = ()
    makes = ("drawn.npz",)
    needs = ()

    def __init__(
        self, dataset, autoencoder, denoiser, noise_scheduler, count: int = 100, batch_size: int = 50
    ):
        self.dataset, self.autoencoder, self.denoiser = dataset, autoencoder, denoiser
        self.noise_scheduler, self.count, self.batch_size = noise_scheduler, count, batch_size

    def noise(self, context, number):
        size = latent_size(self.dataset.size, self.autoencoder.downscale)
        shape = (self.autoencoder.latent_channels, *size)
        return torch.randn(shape, generator=context.generator(number))

    def batches(self):
        return torch.arange(self.count).split(self.batch_size)

    @torch.no_grad()
    def run(self, context):
        self.autoencoder.eval()
        self.denoiser.eval()
        drawn = []
        for numbers in self.batches():
            x = torch.stack([self.noise(context, number) for number in numbers.tolist()])
            for step in range(4):
                t = torch.full((len(x),), 1 - step / 4)
                x = x - self.denoiser(x, self.noise_scheduler.conditioning(t)) / 4
            drawn.append(self.autoencoder.decode(x))
        images = ((torch.cat(drawn) + 1) * 127.5).clamp(0, 255).byte()
        np.savez(context.artifact("drawn.npz"), images=images.numpy())
        return {"count": float(len(images))}


@mutant("stage", killed_by="another_seed_another_draw")
class SeedOfItsOwn(Draws):
    """Noise is drawn with seed 0 in every run."""

    def noise(self, context, number):
        return super().noise(type(context)("", 0, context.run_device, context.folder), number)


@mutant("stage", killed_by="whole_whatever_the_batch")
class WholeBatchesOnly(Draws):
    """The rest that fills no batch is not drawn."""

    def batches(self):
        whole = max(1, self.count // self.batch_size)
        return super().batches()[:whole]


@mutant("stage", killed_by="parts_in_their_modes")
class DrawsInTraining(Draws):
    """The denoiser draws as training left it, with dropout."""

    def run(self, context):
        self.denoiser.eval = lambda: self.denoiser
        with torch.random.fork_rng():
            torch.manual_seed(context.seed)
            return super().run(context)


@mutant("stage", killed_by="declares_its_work")
class AdjustsWhatItHasNot(Reconstruct):
    """What may change in mid-training is called other than the option is."""

    adjustable = ("learning_rate",)


@mutant("stage", killed_by="trains_what_it_says")
class StatisticsOfTheStart(Averages):
    """Of the average all is taken over, also the batch norm's statistics, which nobody averaged."""

    def finish(self, context):
        self.autoencoder.load_state_dict(self.average.state_dict())
        return Reconstruct.finish(self, context)


@mutant("stage", killed_by="images_in_range")
class ZeroToOne(Reconstruct):
    """Images are given in [0, 1]."""

    def batch(self, step, context):
        return (super().batch(step, context) + 1) / 2


@mutant("stage", killed_by="images_in_range")
class Bytes(Reconstruct):
    """Images are given as they lie in files."""

    def prepare(self, context):
        super().prepare(context)
        self.optimizer = torch.optim.AdamW(self.autoencoder.parameters(), 1e-3)

    def batch(self, step, context):
        return (super().batch(step, context) + 1) * 127.5


@mutant("stage", killed_by="passes_conditioning")
class TellsTheTime(Denoise):
    """The denoiser is told t, whatever the process wants it to be told."""

    def prepare(self, context):
        super().prepare(context)
        self.noise_scheduler.conditioning = lambda t: t


@sound("stage")
class DenoiseScaled(Denoise):
    """Measures the latents first, and brings them to unit variance."""

    trains = ("denoiser", "latent_scaling")

    def __init__(self, dataset, autoencoder, denoiser, noise_scheduler, latent_scaling, steps: int = 100):
        super().__init__(dataset, autoencoder, denoiser, noise_scheduler, steps)
        self.latent_scaling = latent_scaling

    def prepare(self, context):
        super().prepare(context)
        images = self.dataset.images(torch.arange(len(self.dataset))).float() / 127.5 - 1
        with torch.no_grad():
            self.latent_scaling.fit([self.autoencoder.encode(images)[0]])

    def latents(self, step, context):
        with torch.no_grad():
            return self.latent_scaling.normalize(self.autoencoder.encode(self.batch(step, context))[0])

    def loss(self, step, context):
        latents = self.latents(step, context)
        noise, t = torch.randn_like(latents), torch.rand(len(latents))
        noised = self.noise_scheduler.add_noise(latents, noise, t)
        prediction = self.denoiser(noised, self.noise_scheduler.conditioning(t))
        return F.mse_loss(prediction, self.noise_scheduler.target(latents, noise, t))

    def stateful(self):
        return {**super().stateful(), "latent_scaling": self.latent_scaling}

    def finish(self, context):
        self.latent_scaling.eval()
        return super().finish(context)


@mutant("stage", killed_by="latents_scaled")
class FitsForNothing(DenoiseScaled):
    """The latents are measured, and then taken as they are."""

    def latents(self, step, context):
        with torch.no_grad():
            return self.autoencoder.encode(self.batch(step, context))[0]
