"""Broken and sound stages, trainers and others."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mutants.catalogue import mutant, sound
from uldm_core import Factory, spec
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
        self.context = context
        self.optimizer = torch.optim.AdamW(self.autoencoder.parameters(), 1e-2)
        self.autoencoder.train()

    def batch(self, step):
        indices = self.context.batch(len(self.dataset), self.batch_size, step)
        return self.dataset.images(indices).to(self.context.device).float() / 127.5 - 1

    def loss(self, step):
        images = self.batch(step)
        return F.mse_loss(self.autoencoder(images)[0], images)

    def step(self, step):
        loss = self.loss(step)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def stateful(self):
        return {"autoencoder": self.autoencoder, "optimizer": self.optimizer}

    def finish(self):
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
        self.context = context
        self.optimizer = torch.optim.Adam(self.denoiser.parameters(), 1e-2)
        self.autoencoder.eval()
        self.denoiser.train()

    def loss(self, step):
        with torch.no_grad():
            latents, _ = self.autoencoder.encode(self.batch(step))
        noise, t = torch.randn_like(latents), torch.rand(len(latents))
        noised = self.noise_scheduler.add_noise(latents, noise, t)
        prediction = self.denoiser(noised, self.noise_scheduler.conditioning(t))
        return F.mse_loss(prediction, self.noise_scheduler.target(latents, noise, t))

    def stateful(self):
        return {"denoiser": self.denoiser, "optimizer": self.optimizer}

    def finish(self):
        self.denoiser.eval()
        return {"steps": float(self.steps)}


@sound("stage")
class Adjusts(Reconstruct):
    """Sets its learning rate anew in each step, whatever rate was loaded."""

    adjustable = ("optimizer",)

    def __init__(
        self, dataset, autoencoder, steps: int = 100, optimizer: Factory[Optimizer] = spec("adamw", lr=1e-2)
    ):
        super().__init__(dataset, autoencoder, steps)
        self.make = optimizer

    def prepare(self, context):
        super().prepare(context)
        self.optimizer = self.make(self.autoencoder.parameters())
        self.lr = self.optimizer.param_groups[0]["lr"]

    def step(self, step):
        self.optimizer.param_groups[0]["lr"] = self.lr
        return super().step(step)


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

    def step(self, step):
        loss = self.loss(step)
        loss.backward()
        return {"loss": loss.detach()}


@mutant("stage", killed_by="training_lowers_loss")
class LogsNan(Reconstruct):
    """A metric divides by zero."""

    def step(self, step):
        return {**super().step(step), "share": torch.zeros(()) / 0}


@mutant("stage", killed_by="trains_what_it_says")
class TrainsTheWrongOne(Denoise):
    """The optimizer has the autoencoder's parameters as well, and its latents a gradient."""

    def prepare(self, context):
        super().prepare(context)
        both = [*self.denoiser.parameters(), *self.autoencoder.parameters()]
        self.optimizer = torch.optim.Adam(both, 1e-2)

    def loss(self, step):
        latents, _ = self.autoencoder.encode(self.batch(step))
        noise, t = torch.randn_like(latents), torch.rand(len(latents))
        noised = self.noise_scheduler.add_noise(latents, noise, t)
        return F.mse_loss(self.denoiser(noised, t), self.noise_scheduler.target(latents, noise, t))


@mutant("stage", killed_by="trains_what_it_says")
class FinishesWithTheStart(Reconstruct):
    """``finish`` puts back the weights from before the training."""

    def prepare(self, context):
        super().prepare(context)
        self.first = {name: value.clone() for name, value in self.autoencoder.state_dict().items()}

    def finish(self):
        self.autoencoder.load_state_dict(self.first)
        return super().finish()


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

    def loss(self, step):
        torch.manual_seed(int(torch.randint(2**31, (), generator=self.generator)))
        return super().loss(step)


@mutant("stage", killed_by="resumes_exactly")
class CountsItsOwnSteps(Reconstruct):
    """The rate falls with a count of its own, which starts anew when it is resumed."""

    taken = 0

    def step(self, step):
        self.taken += 1
        self.optimizer.param_groups[0]["lr"] = 1e-2 / self.taken
        return super().step(step)


@mutant("stage", killed_by="adjusted_optimizer_holds")
class LoadsTheOldRate(Adjusts):
    """A checkpoint brings its own learning rate back."""

    def step(self, step):
        return Reconstruct.step(self, step)


@mutant("stage", killed_by="finishes_in_eval")
class StaysInTraining(Reconstruct):
    """The trained autoencoder is left in training mode."""

    def finish(self):
        return {}


@mutant("stage", killed_by="finishes_in_eval")
class SummaryOfText(Reconstruct):
    """The summary holds words."""

    def finish(self):
        super().finish()
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
            self.autoencoder.encoder.bias.add_(1)
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

    def preview(self, step):
        self.autoencoder.eval()
        with torch.no_grad():
            self.context.show("reconstructions", self.autoencoder(self.batch(step))[0].byte(), step)
        self.autoencoder.train()


@mutant("stage", killed_by="previews_change_nothing")
class ShowsAndStaysAtRest(Reconstruct):
    """After the first preview the autoencoder stays in eval mode."""

    def preview(self, step):
        self.autoencoder.eval()


@mutant("stage", killed_by="previews_change_nothing")
class ShowsTheAverageAndKeepsIt(Reconstruct):
    """What is put into the weights for a preview is never taken out again."""

    def preview(self, step):
        with torch.no_grad():
            for parameter in self.autoencoder.parameters():
                parameter.mul_(0.99)
