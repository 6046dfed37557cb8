"""Choosing how samples are drawn, by a metric against training images that were held out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from attrs import asdict, evolve, frozen
from torch import Tensor

from uldm_core import use
from uldm_core.errors import OptionError, RunError, listing
from uldm_core.protocols import (
    Autoencoder,
    Condition,
    Context,
    Dataset,
    Denoiser,
    Guidance,
    HasSteps,
    HasWeight,
    LatentScaling,
    Metric,
    NoiseScheduler,
    Sampler,
)
from uldm_core.run_folder.files import damaged, write_json
from uldm_plugins.shared.arrays import read_arrays
from uldm_plugins.shared.images import in_batches
from uldm_plugins.stages.evaluate import check_compares, higher_is_better, measure, show_some
from uldm_plugins.stages.guided import AVERAGES, calls_per_image
from uldm_plugins.stages.held_out import HELD_OUT
from uldm_plugins.stages.sample import Sample
from uldm_plugins.stages.tuned import TRAINED, TUNED, Choice, kept_averages, write_tuned

CANDIDATES = "candidates.json"
"""The artifact of everything that was tried."""
ORDER = ("weight", "interval", "average", "steps")
WEIGHTS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)


@frozen
class Candidate:
    """Samples that were drawn in one way, and measured.

    Args:
        option: what of it differs from the best before; empty of the first, which is the recipe's own.
        choice: how they were drawn.
        calls: of the denoiser, for each image.
        numbers: of the metric.
        seconds: that it took.
    """

    option: str
    choice: Choice
    calls: float
    numbers: Mapping[str, float]
    seconds: float

    @property
    def score(self) -> float:
        """The metric's first number."""
        return next(iter(self.numbers.values()))


class Tune:
    """Chooses how the stages ``sample`` behind it draw: by a metric against held-out training images.

    It tries the recipe's own way first, then candidates for the guidance's weight, its interval, the average
    of the denoiser's weights and the sampler's steps, in this order, each with the best found so far of the
    others. All draw from the same noise, and the same classes. Images of the test split are never read: what
    the samples score on them later is not what they were chosen by.

    It compares with the images that ``train_diffusion`` did not train the denoiser on, see its option
    ``held_out``, or with all training images. Where none were held out it takes images that the denoiser was
    trained on, and then copies score well.

    Makes ``tuned.json``, the choice, and ``candidates.json``, everything that was tried. After an interrupt
    it begins anew.

    Args:
        dataset: the images; only the training split is read.
        autoencoder: decodes.
        denoiser: trained.
        noise_scheduler: the process it was trained on.
        latent_scaling: as fitted in training.
        condition: as fitted in training.
        guidance: whose weight and interval are chosen; that of the stage ``sample``.
        sampler: whose steps are chosen; that of the stage ``sample``.
        metric: one that compares; its first number decides.
        weights: of the guidance; by default 1, 1.25, 1.5, 2, 2.5 and 3, if it has a weight.
        intervals: of noise levels, sigma / alpha, ``[0.2, 3]`` say; not tried with a weight of 1.
        averages: of the denoiser's weights, those that its training kept; by default all of them.
        sampler_steps: fewer steps are chosen if they are nearly as good.
        worse: how much worse than the best, by a factor, fewer steps may be.
        compare_with: the images that were held out, or ``all`` of the training split: of a few hundred that
            were held out, distances are so inexact that another weight may seem the best.
        count: how many images are drawn with each candidate.
        minutes: after which no other candidate is tried, and the best so far is chosen; 0 is no limit.
        batch_size: latents at a time, see ``sample``.

    Raises:
        ValueError: the metric does not compare; the guidance has no weight or the sampler no steps to choose.
    """

    trains: Sequence[str] = ()
    makes = (TUNED,)
    needs: Sequence[str] = ()
    optional_needs = (AVERAGES, HELD_OUT)
    reads = ("train",)

    def __init__(
        self,
        dataset: Dataset,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        noise_scheduler: NoiseScheduler,
        latent_scaling: LatentScaling = use("unit_variance"),
        condition: Condition | None = None,
        guidance: Guidance = use("none"),
        sampler: Sampler = use("heun"),
        metric: Metric = use("frechet_mnist"),
        weights: list[Annotated[float, Ge(0)]] | None = None,
        intervals: list[tuple[Annotated[float, Ge(0)], Annotated[float, Ge(0)]]] = [],  # noqa: B006 - read only
        averages: list[str] | None = None,
        sampler_steps: list[Annotated[int, Ge(1)]] = [],  # noqa: B006 - read only
        worse: Annotated[float, Ge(1)] = 1.05,
        compare_with: Literal["held_out", "all"] = "held_out",
        count: Annotated[int, Ge(2)] = 1000,
        minutes: Annotated[float, Ge(0)] = 0.0,
        batch_size: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        check_compares(metric, "metric")
        if (weights or intervals) and not isinstance(guidance, HasWeight):
            raise OptionError("weights and intervals: the guidance has none to choose: take auto, say")
        if sampler_steps and not isinstance(sampler, HasSteps):
            raise OptionError("sampler_steps: the sampler has no number of steps to choose")
        for low, high in intervals:
            if low > high:
                raise OptionError(f"intervals: {[low, high]} does not rise")
        self.dataset = dataset
        self.guidance = guidance
        self.sampler = sampler
        self.noise_scheduler = noise_scheduler
        self.metric = metric
        self.weights = weights
        self.intervals = intervals
        self.averages = averages
        self.sampler_steps = sampler_steps
        self.worse = worse
        self.compare_with = compare_with
        self.count = count
        self.minutes = minutes
        self.condition = condition
        self._parts = (autoencoder, denoiser, noise_scheduler, latent_scaling, condition)
        self._batch_size = batch_size

    def run(self, context: Context) -> Mapping[str, float]:
        """Try the candidates, and write which is best."""
        self._until = time.monotonic() + 60 * self.minutes
        values = self.values(context.products)
        costs = self._costs(values)
        planned = int(costs["candidates"])
        context.message(
            f"[{context.name}] up to {planned} candidates of {self.count:,} images each: "
            f"{costs['denoiser_calls_per_image_in_all']:,.0f} calls of the denoiser an image in all"
        )
        against = self._show_real(context)
        candidates, best = self._search(values, context)
        if len(candidates) < planned and self._time_is_up:
            context.message(f"[{context.name}] time is up: the best of {len(candidates)} candidates is taken")
        context.message(f"[{context.name}] chosen: {best.choice}")
        write_tuned(context.artifact(TUNED), best.choice, metric=dict(best.numbers))
        self._write_candidates(candidates, best, planned, against, context)
        return {**best.choice.numbers, **best.numbers, "tried": float(len(candidates))}

    def values(self, products: Mapping[str, Path]) -> dict[str, list[Any]]:
        """Return what is tried of each option beside what the recipe has.

        Raises:
            RunError: ``averages`` names one that the training did not keep.
        """
        kept = [TRAINED, *kept_averages(products)]
        averages = kept if self.averages is None else self.averages
        if unknown := sorted(set(averages) - set(kept)):
            raise RunError(f"averages: there is no {listing(unknown)}", hint=f"there are: {listing(kept)}")
        return self._values(averages)

    def _values(self, averages: Sequence[str]) -> dict[str, list[Any]]:
        own = Choice.of(self.guidance, self.sampler)
        weights = WEIGHTS if self.weights is None and own.weight is not None else self.weights or ()
        found = dict(zip(ORDER, (weights, self.intervals, averages, self.sampler_steps)))
        return {
            option: [
                value for value in dict.fromkeys(map(_hashable, values)) if value != getattr(own, option)
            ]
            for option, values in found.items()
        }

    def costs(self) -> Mapping[str, float]:
        """Return how many candidates there are at most, and how often they call the denoiser for an image.

        Averages that the training is going to keep are not known yet; those that are named count.
        """
        return self._costs(self._values([TRAINED, *(self.averages or ())]))

    def _costs(self, values: Mapping[str, Sequence[Any]]) -> dict[str, float]:
        own = Choice.of(self.guidance, self.sampler)
        weights = [evolve(own, weight=weight) for weight in values["weight"]]
        dearest = max([own, *weights], key=self.calls)
        others = [
            evolve(dearest, **{option: value})
            for option in values
            for value in values[option]
            if option != "weight"
        ]
        tried = [own, *weights, *others]
        return {
            "candidates": float(len(tried)),
            "denoiser_calls_per_image_in_all": float(sum(map(self.calls, tried))),
        }

    def calls(self, choice: Choice) -> int:
        """Return how often a denoiser is called to draw one image in a way."""
        parts = choice.sampled(self.sampler), choice.guided(self.guidance)
        return calls_per_image(*parts, self.noise_scheduler, self.condition.classes if self.condition else 0)

    def _show_real(self, context: Context) -> str:
        """Give the metric the images to compare with; return what they are."""
        every = torch.arange(len(self.dataset))
        if self.compare_with == "all":
            indices, what = every, "of all that there are"
        elif len(held_out := _held_out(context.products, len(self.dataset))):
            indices, what = held_out, "that the denoiser was not trained on"
        else:
            indices, what = every, "that the denoiser was trained on"
            context.message(
                f"[{context.name}] warning: no training images are held out, so copies score well: "
                "set train_diffusion's held_out = 0.05"
            )
        chosen = show_some(self.metric, self.dataset, indices, context.generator("real"), context)
        return f"{len(chosen):,} training images {what}"

    def _search(
        self, values: Mapping[str, Sequence[Any]], context: Context
    ) -> tuple[list[Candidate], Candidate]:
        """Try each option's candidates in turn with the best of the others; return all, and the best."""
        best = self._try("", Choice.of(self.guidance, self.sampler), context)
        candidates = [best]
        for option in ORDER:
            tried = [best]
            for value in values[option]:
                if self._time_is_up or (option == "interval" and best.choice.weight == 1):
                    break
                tried.append(self._try(option, evolve(best.choice, **{option: value}), context))
            candidates += tried[1:]
            best = self._best(option, tried)
        return candidates, best

    @property
    def _time_is_up(self) -> bool:
        return bool(self.minutes) and time.monotonic() > self._until

    def _try(self, option: str, choice: Choice, context: Context) -> Candidate:
        """Draw in one way, and measure."""
        started = time.monotonic()
        sample = Sample(self.dataset, *self._parts, self.guidance, self.sampler, self.count, self._batch_size)
        sample.take(choice, context.products)
        images = sample.draw(context, self.count)
        with context.interruptible():
            numbers = measure([self.metric], in_batches(images))
        candidate = Candidate(option, choice, self.calls(choice), numbers, time.monotonic() - started)
        name = next(iter(numbers))
        context.message(
            f"[{context.name}] {choice}: {name} {candidate.score:.4g} ({candidate.seconds:.1f} s)"
        )
        return candidate

    def _best(self, option: str, tried: Sequence[Candidate]) -> Candidate:
        """Return the best candidate; of steps, the fewest that are nearly as good."""
        sign = -1 if self._higher_is_better(tried[0]) else 1
        best = min(tried, key=lambda candidate: sign * candidate.score)
        if option != "steps":
            return best
        bound = sign * best.score + abs(best.score) * (self.worse - 1)
        return min(
            (candidate for candidate in tried if sign * candidate.score <= bound),
            key=lambda candidate: candidate.choice.steps or 0,
        )

    def _higher_is_better(self, candidate: Candidate) -> bool:
        return higher_is_better(self.metric, next(iter(candidate.numbers)))

    def _write_candidates(
        self, candidates: Sequence[Candidate], best: Candidate, planned: int, against: str, context: Context
    ) -> None:
        write_json(
            context.artifact(CANDIDATES),
            {
                "metric": next(iter(best.numbers)),
                "higher_is_better": self._higher_is_better(best),
                "count": self.count,
                "against": against,
                "planned": planned,
                "worse": self.worse,
                "best": candidates.index(best),
                "candidates": list(map(_written, candidates)),
            },
        )


def _written(candidate: Candidate) -> dict[str, Any]:
    """Return a candidate as JSON has it."""
    choice = asdict(candidate.choice)
    of_choice = {name: choice[name] for name in ORDER}
    numbers, seconds = dict(candidate.numbers), round(candidate.seconds, 2)
    return {
        "option": candidate.option,
        **of_choice,
        "calls": candidate.calls,
        "numbers": numbers,
        "seconds": seconds,
    }


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _held_out(products: Mapping[str, Path], count: int) -> Tensor:
    """Return the indices of the training images that the denoiser was not trained on, int64 [N].

    Raises:
        MistakeError: their file is damaged, or of a training set of other images.
    """
    if HELD_OUT not in products:
        return torch.empty(0, dtype=torch.int64)
    path = products[HELD_OUT]
    try:
        indices = torch.from_numpy(read_arrays(path, ["indices"])["indices"])
    except ValueError as error:
        raise damaged(path, str(error)) from error
    if indices.ndim != 1 or indices.dtype != torch.int64 or bool(((indices < 0) | (indices >= count)).any()):
        raise damaged(path, f"not the indices of some of {count:,} images")
    return indices
