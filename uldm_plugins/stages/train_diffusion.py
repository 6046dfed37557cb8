"""Training a denoiser on an autoencoder's latents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Interval, MinLen
from torch import Tensor, nn

from uldm_core import Excludes, OptionError, Partial, use
from uldm_core.protocols import (
    Augmentation,
    Autoencoder,
    Condition,
    Context,
    Coupling,
    Dataset,
    Denoiser,
    Guidance,
    HasWeaker,
    LatentScaling,
    LRSchedule,
    Metric,
    NoiseScheduler,
    Optimizer,
    PairsAcrossClasses,
    Sampler,
    TimestepWeighting,
)
from uldm_plugins.shared.arrays import save_arrays
from uldm_plugins.shared.diagnostics import memorisation_diagnostics
from uldm_plugins.shared.ema import EMA, Snapshot, put
from uldm_plugins.stages.averages import STDS, averages_to_keep, write_averages
from uldm_plugins.stages.denoising_loss import DenoisingLoss
from uldm_plugins.stages.guided import AVERAGES, WEAKER, GuidedDenoiser, needs_average, with_weights
from uldm_plugins.stages.held_out import HELD_OUT, divided, held_out_loss
from uldm_plugins.stages.latents import NormalizedLatents, fit_condition
from uldm_plugins.stages.previews import Sketch, at_rest
from uldm_plugins.stages.training import OptimizerStep
from uldm_plugins.stages.watch import (
    HELD_OUT_LOSS,
    SAMPLES,
    TRAINED_LOSS,
    Watch,
    WatchedLosses,
    WatchedSamples,
    check_options,
)

Width = Annotated[float, Interval(gt=0, lt=0.28)]
"""Of a power-function average, relative to the time trained."""


class TrainDiffusion:
    """Trains a denoiser to predict, at random times, the target of its noise scheduler.

    The loss is the mean of weight(t) (prediction - target)^2. Latents are brought to unit variance first,
    measured over a full pass over the dataset. With a condition the denoiser is told the class of each image.

    Makes ``averages.safetensors``, with an early average of the weights for guidance by a weaker denoiser,
    and those of several widths if they are kept; and ``held_out.npz`` with ``indices``, int64 [N], of the
    images that the denoiser was not trained on.

    Source: Ho et al. 2020 (arXiv 2006.11239); Rombach et al. 2022 (arXiv 2112.10752); averages chosen after
    the training: Karras et al. 2024 (arXiv 2312.02696), who reconstruct any width from two that they save
    again and again, where this keeps the few that are asked for.

    Args:
        dataset: the images.
        autoencoder: frozen; gives the latents.
        denoiser: what is trained; later stages get its averaged weights.
        noise_scheduler: the forward process and what is predicted.
        latent_scaling: fitted here, used again by whoever decodes.
        condition: fitted here: what the denoiser is told beside the time.
        augmentation: changes the images that are trained. The denoiser is given its parameters unless it
            leaks. Scaling and condition are fitted to the images as they are.
        coupling: which noise is paired with which latent.
        timestep_weighting: which times are trained, and how much each counts.
        steps: optimizer steps.
        batch_size: latents a step.
        cache_latents: encode the dataset once, and keep the latents for other runs on this machine too; else
            encode every batch.
        latents_dtype: in which latents are kept; float16 takes half the room, and has three digits.
        variants: of each image, itself among them, of which latents are kept with an augmentation that has
            not few of its own, as mirror images are.
        held_out: the share of the images, drawn by the seed, that the denoiser is not trained on: to see
            whether it memorises, and for choices. Scaling and condition are fitted to them as well.
        watch: how often, over the whole training, to log the loss of the averaged weights on images that are
            held out, and on as many that are trained; 0 does not. What is trained does not change by it.
        watch_metric: measures samples against the images that are held out, as often.
        watch_sampler: draws these samples; without guidance, so that they compare from first to last.
        checkpoint: ``best`` leaves the averaged weights that did best on the images held out, by the loss or
            by the first number of ``watch_metric``; it keeps a copy of the weights more. ``last`` leaves
            those of the last step.
        drop: the share of images whose class it is not told, so that it also learns to do without.
        optimizer: of the denoiser.
        lr_schedule: of its learning rate.
        ema_decay: of the average of the weights; 0 keeps the last ones.
        ema_std: width of a power-function average, relative to the time trained; it takes the place of
            ``ema_decay``.
        ema: ``post_hoc`` keeps power-function averages of several widths, and takes the one with the least
            loss on the images that are held out, after the training. Each costs a copy of the weights.
        ema_stds: the widths of ``ema = "post_hoc"``; by default 0.03, 0.05, 0.1 and 0.15.
        weaker: the share of the steps after which the average is kept as a weaker denoiser, one copy of the
            weights more; 0 keeps none.
        max_grad_norm: the gradient is scaled down to this norm; 0 leaves it.
        previews: how often, over the whole training, to show what becomes of the same noise; 0 shows none.
        preview_sampler: draws the previews.
        guidance: of the previews.

    Raises:
        ValueError: the guidance is by a weaker denoiser, and none is kept; the coupling pairs across the
            classes of the condition; averages or the best weights are to be chosen, and no images held out,
            or both; widths of averages are given, and none is to be chosen; or the metric does not compare.
    """

    trains = ("denoiser", "latent_scaling", "condition")
    makes = (AVERAGES, HELD_OUT)
    needs: Sequence[str] = ()
    reads = ("train",)
    preview_options: Sequence[str] = ("previews", "preview_sampler", "guidance")
    adjustable: Sequence[str] = ("optimizer", "lr_schedule", "max_grad_norm")

    def __init__(
        self,
        dataset: Dataset,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        noise_scheduler: NoiseScheduler,
        latent_scaling: LatentScaling = use("unit_variance"),
        condition: Condition | None = None,
        augmentation: Augmentation | None = None,
        coupling: Coupling = use("independent"),
        timestep_weighting: TimestepWeighting = use("uniform"),
        steps: Annotated[int, Ge(1)] = 1000,
        batch_size: Annotated[int, Ge(1)] = 128,
        cache_latents: bool = True,
        latents_dtype: Literal["float32", "float16"] = "float32",
        variants: Annotated[int, Ge(2)] = 4,
        held_out: Annotated[float, Interval(ge=0, le=0.5)] = 0.0,
        watch: Annotated[int, Ge(0)] = 20,
        watch_metric: Metric | None = None,
        watch_sampler: Partial[Sampler] = use("euler", steps=10),
        checkpoint: Literal["best", "last"] = "last",
        drop: Annotated[float, Interval(ge=0, lt=1)] = 0.1,
        optimizer: Partial[Optimizer] = use("adamw", lr=1e-3),
        lr_schedule: Partial[LRSchedule] = use("linear", warmup=100),
        ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.999,
        ema_std: Annotated[Width, Excludes("ema_decay")] | None = None,
        ema: Annotated[Literal["post_hoc"], Excludes("ema_decay"), Excludes("ema_std")] | None = None,
        ema_stds: Annotated[list[Width], MinLen(2)] | None = None,
        weaker: Annotated[float, Interval(ge=0, lt=1)] = 0.125,
        max_grad_norm: Annotated[float, Ge(0)] = 1.0,
        previews: Annotated[int, Ge(0)] = 8,
        preview_sampler: Partial[Sampler] = use("euler", steps=10),
        guidance: Guidance = use("none"),
    ) -> None:
        check_guidance(guidance, weaker)
        check_coupling(coupling, condition)
        check_averages(ema, ema_stds, held_out)
        check_options(held_out, watch, watch_metric, checkpoint == "best", bool(ema))
        self.dataset = dataset
        self.autoencoder = autoencoder
        self.denoiser = denoiser
        self.noise_scheduler = noise_scheduler
        self.latent_scaling = latent_scaling
        self.condition = condition
        self.loss = DenoisingLoss(denoiser, noise_scheduler, coupling, timestep_weighting, condition)
        self.steps = steps
        self.batch_size = batch_size
        self.cache_latents = cache_latents
        self._latents_options = (augmentation, variants, getattr(torch, latents_dtype))
        self.held_out = held_out
        self.times_watched = watch if held_out else 0
        self.watch_metric, self.watch_sampler = watch_metric, watch_sampler
        self.keeps_best = checkpoint == "best"
        self.drop = drop
        self.weaker_step = max(1, round(weaker * steps)) if weaker else 0
        self.previews, self.preview_sampler = previews, preview_sampler
        self.guidance = guidance
        self._averages = averages_to_keep(ema_decay, ema_std, ema_stds or STDS if ema else ())
        self._optimizer_options = (optimizer, lr_schedule, steps, max_grad_norm)

    @property
    def artifact_bytes(self) -> int:
        """What ``averages.safetensors`` takes on disk: averages, and the hash of the weights."""
        count = bool(self.weaker_step) + len(self._averages) * self._chooses
        return 32 + count * sum(4 * parameter.numel() for parameter in self.denoiser.parameters())

    @property
    def checkpoint_bytes(self) -> int:
        """What a checkpoint has beside weights and one average: other averages, an early one, the best."""
        count = bool(self.weaker_step) + len(self._averages) - 1 + self.keeps_best
        return count * sum(4 * parameter.numel() for parameter in self.denoiser.parameters())

    def prepare(self, context: Context) -> None:
        """Fit the scaling and the condition, encode the dataset, make optimizer and averages."""
        generator = context.generator("held out")
        self.trained, self.kept_back = divided(len(self.dataset), self.held_out, generator)
        self.autoencoder.eval()
        self.denoiser.train()
        self.latents = NormalizedLatents(
            self.dataset, self.autoencoder, self.latent_scaling, context, *self._latents_options
        )
        self.latents.fit(cached=self.cache_latents)
        if self.condition is not None:
            fit_condition(self.condition, self.latents)
        self.optimizer_step = OptimizerStep(self.denoiser.parameters(), *self._optimizer_options)
        self.averages = {name: EMA(self.denoiser, decay) for name, decay in self._averages.items()}
        self.early = Snapshot()
        self.watched = self._watch(context) if self.times_watched else Watch()

    def step(self, step: int, context: Context) -> Mapping[str, Tensor]:
        """Update the denoiser once."""
        indices = self.trained[context.batch(len(self.trained), self.batch_size, step)]
        self.latents.prefetch(self.trained[context.batch(len(self.trained), self.batch_size, step + 1)])
        latents, augmentation = self.latents.augmented(indices, step)
        generator = context.generator(step)
        loss = self.loss(latents, indices, context, generator, self.drop, augmentation).mean()
        self.optimizer_step(loss, step)
        for average in self.averages.values():
            average.update()
        if step + 1 == self.weaker_step:
            self.early.take(self.averages[self._main])
        if self.watched.is_due(step + 1):
            with at_rest(self.denoiser, self.averages[self._main]):
                self.watched.take(step + 1, self.averages[self._main], context)
        return {"loss": loss.detach()}

    def preview(self, step: int, context: Context) -> None:
        """Show ``samples``: the same noise each time, drawn with the averaged weights, and guided."""
        early = self.early.parameters
        weaker = with_weights(self.denoiser, early) if early and needs_average(self.guidance) else None
        sketch = self._sketch(self.preview_sampler, weaker)
        with at_rest(self.denoiser, self.averages[self._main]):
            context.show("samples", sketch.draw(context), step)

    def diagnose(self, curves: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, str]]:
        """Yield whether the denoiser memorises; not if the weights that were best are kept anyway."""
        held_out, trained = (self.watched.values.get(name, []) for name in (HELD_OUT_LOSS, TRAINED_LOSS))
        steps = self.watched.steps
        for found in memorisation_diagnostics(steps, held_out, trained, kept=self.keeps_best):
            if found.level == "worry":
                yield found.what, found.fix

    def stateful(self) -> Mapping[str, Any]:
        """Return everything that a resumed run needs."""
        fitted = {"condition": self.condition} if self.condition else {}
        watched = {"watched": self.watched} if self.times_watched else {}
        return {
            "denoiser": self.denoiser,
            "latent_scaling": self.latent_scaling,
            "optimizer": self.optimizer_step,
            "early": self.early,
            **self.averages,
            **fitted,
            **watched,
        }

    def finish(self, context: Context) -> Mapping[str, float]:
        """Leave averaged weights in the denoiser; write the averages, and what was held out."""
        self.averages[self._main].apply()
        found = self._leave_best(context) if self.keeps_best else {}
        if self._chooses:
            found = self._choose(context)
        kept = {name: average.parameters for name, average in self.averages.items() if self._chooses}
        write_averages(context.artifact(AVERAGES), {WEAKER: self.early.parameters, **kept}, self.denoiser)
        save_arrays(context.artifact(HELD_OUT), indices=self.kept_back)
        self._rest()
        return found

    def take(self, state: Mapping[str, Any]) -> None:
        """Leave the averaged weights of a checkpoint in the denoiser, and what was fitted as it was."""
        EMA(self.denoiser, self._averages[self._main]).take(state["denoiser"], state[self._main])
        if best := state.get("watched", {}).get("parameters"):
            put(best, self.denoiser)
        self.latent_scaling.load_state_dict(state["latent_scaling"])
        if self.condition:
            self.condition.load_state_dict(state["condition"])
        early = state.get("early", {}).get("parameters")
        if early and isinstance(self.guidance, HasWeaker) and needs_average(self.guidance):
            self.guidance.weaker = with_weights(self.denoiser, early)
        self._rest()

    @property
    def _chooses(self) -> bool:
        """Whether there are averages to choose from."""
        return len(self._averages) > 1

    @property
    def _main(self) -> str:
        """The name of the average that the training itself uses; of several the one in the middle."""
        return [*self._averages][len(self._averages) // 2]

    def _sketch(self, sampler: Partial[Sampler], weaker: Denoiser | None = None) -> Sketch:
        """Return what draws samples on the way."""
        return Sketch(
            self.autoencoder,
            GuidedDenoiser(self.denoiser, self.noise_scheduler, self.guidance, self.condition, weaker),
            self.latent_scaling,
            sampler,
            self.dataset.size,
        )

    def _watch(self, context: Context) -> Watch:
        """Return what measures the averaged weights on the way."""
        sets = {HELD_OUT_LOSS: self.kept_back, TRAINED_LOSS: self.trained}
        losses = WatchedLosses(sets, self.latents.of_each, self.loss, self.batch_size, context)
        times, keep = (self.times_watched, self.steps), self.keeps_best
        if self.watch_metric is None:
            return Watch(*times, [losses], keep=keep)

        def draw() -> Tensor:
            return self._sketch(self.watch_sampler).draw(context, SAMPLES, of="watched samples", guided=False)

        samples = WatchedSamples(self.watch_metric, draw, self.dataset, self.kept_back, context)
        return Watch(*times, [losses, samples], samples.decides, samples.higher, keep)

    def _leave_best(self, context: Context) -> dict[str, float]:
        """Leave the weights that were best in the denoiser; return of which step they are, and how good."""
        step, name = self.watched.best_step, self.watched.decides
        put(self.watched.best.parameters, self.denoiser)
        context.message(f"the weights are those of step {step:,} of {self.steps:,}, the best by {name}")
        if step <= self.weaker_step and needs_average(self.guidance):
            context.message(
                f"warning: the weaker denoiser is of step {self.weaker_step:,}, no earlier one: guidance "
                "away from it may do harm; make weaker smaller"
            )
        return {"best_step": float(step), name: self.watched.best_value}

    def _choose(self, context: Context) -> dict[str, float]:
        """Leave the average with the least loss on held-out images; return the loss of each."""
        losses = {}
        for name, average in self.averages.items():
            with at_rest(self.denoiser, average):
                losses[name] = held_out_loss(self.kept_back, self.latents, self.loss, self.batch_size)
        chosen = min(losses, key=losses.__getitem__)
        self.averages[chosen].apply()
        found = {f"held_out_loss_{name}": loss for name, loss in losses.items()}
        context.log(self.steps, found)
        context.message(f"the weights are those of {chosen}, which has the least loss on held-out images")
        return found

    def _rest(self) -> None:
        self.denoiser.eval()
        if isinstance(self.latent_scaling, nn.Module):
            self.latent_scaling.eval()


def check_guidance(guidance: Guidance, weaker: float) -> None:
    """Raise ``ValueError`` if guidance needs a weaker denoiser, and none is kept."""
    if needs_average(guidance) and not weaker:
        raise OptionError("weaker = 0 keeps no weaker denoiser, which the guidance needs")


def check_coupling(coupling: Coupling, condition: Condition | None) -> None:
    """Raise ``ValueError`` if a coupling pairs across the classes of a condition."""
    across = isinstance(coupling, PairsAcrossClasses) and coupling.across_classes
    if condition is not None and across:
        raise OptionError(
            f"{type(coupling).__name__} pairs across the classes of the condition, each of which would "
            "be trained on a part of the noise: take the coupling independent, or no condition"
        )


def check_averages(ema: str | None, ema_stds: Sequence[float] | None, held_out: float) -> None:
    """Raise ``ValueError`` if averages are to be chosen without images for it, or have widths in vain."""
    if ema_stds and not ema:
        raise OptionError('ema_stds are the widths of ema = "post_hoc": add that, or give one as ema_std')
    if ema and not held_out:
        raise OptionError('ema = "post_hoc" chooses by images that are held out: add held_out = 0.05')
