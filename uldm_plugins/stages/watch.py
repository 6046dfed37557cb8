"""Measuring a denoiser on images that are held out, while it is trained, and keeping its best average."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from uldm_core.errors import OptionError
from uldm_core.protocols import Context, Dataset, Metric
from uldm_plugins.shared.ema import EMA, Snapshot
from uldm_plugins.shared.images import in_batches
from uldm_plugins.stages.denoising_loss import DenoisingLoss
from uldm_plugins.stages.evaluate import check_compares, higher_is_better, measure, show_some
from uldm_plugins.stages.held_out import some
from uldm_plugins.stages.latents import unless_stopped
from uldm_plugins.stages.training import read_images

HELD_OUT_LOSS, TRAINED_LOSS = "held_out_loss", "trained_loss"
LOSSES = 256
"""Losses that are averaged: of so many images, or of fewer, each at several times."""
SAMPLES = 256
"""Images that are drawn to be measured."""

Measure = Callable[[], Mapping[str, float]]


class Watch:
    """Measures a denoiser now and then, and remembers when it was best.

    Args:
        times: how often it measures over the whole training, evenly spaced, after the last step as well;
            0 never.
        steps: of the training.
        measures: what is measured.
        decides: the name of the number that says what is best.
        higher: whether the higher one is better.
        keep: whether to keep the average that was best: a copy of the weights.
    """

    def __init__(
        self,
        times: int = 0,
        steps: int = 1,
        measures: Sequence[Measure] = (),
        decides: str = HELD_OUT_LOSS,
        higher: bool = False,
        keep: bool = False,
    ) -> None:
        self.times, self.of_steps, self.measures = times, steps, measures
        self.decides, self.higher, self.keep = decides, higher, keep
        self.steps: list[int] = []
        self.values: dict[str, list[float]] = {}
        self.best = Snapshot()

    def is_due(self, step: int) -> bool:
        """Whether to measure after so many steps."""
        return step * self.times // self.of_steps > (step - 1) * self.times // self.of_steps

    def take(self, step: int, average: EMA, context: Context) -> None:
        """Measure and log, after so many steps; the denoiser has the weights of the average now."""
        found = {name: value for measured in self.measures for name, value in measured().items()}
        context.log(step, found)
        self.steps.append(step)
        for name, value in found.items():
            self.values.setdefault(name, []).append(value)
        if self.keep and self.best_step == step:
            self.best.take(average)

    @property
    def best_step(self) -> int:
        """After how many steps it was best, the first such; 0 before it has measured."""
        scores = [-value if self.higher else value for value in self.values.get(self.decides, ())]
        return self.steps[scores.index(min(scores))] if scores else 0

    @property
    def best_value(self) -> float:
        """What was measured then."""
        return self.values[self.decides][self.steps.index(self.best_step)]

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured after which steps, and the parameters of the best average if kept."""
        return {"steps": self.steps, "values": self.values, **self.best.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.steps = list(state["steps"])
        self.values = {name: list(values) for name, values in state["values"].items()}
        self.best.load_state_dict(dict(state))


class WatchedLosses:
    """The loss on some of the images that are held out, and on as many of those that are trained.

    The images, their times and their noises stay the same, and times and noises are those of both sets: from
    one time to the next nothing changes but the denoiser.

    Args:
        sets: indices of images, int64 [N], by the name of their loss.
        latents: gives those of each batch of images, [B, C, h, w]; each image is asked for once.
        loss: of latents.
        batch_size: latents at a time.
        context: of the stage.
    """

    def __init__(
        self,
        sets: Mapping[str, Tensor],
        latents: Callable[[Iterable[Tensor]], Iterator[Tensor]],
        loss: DenoisingLoss,
        batch_size: int,
        context: Context,
    ) -> None:
        self.loss, self.batch_size, self.context = loss, batch_size, context
        count = min(LOSSES, *map(len, sets.values()))
        self.sets = {name: some(indices, count, context.generator(name)) for name, indices in sets.items()}
        self.latents = {
            name: torch.cat([*unless_stopped(latents(indices.split(batch_size)), context)])
            for name, indices in self.sets.items()
        }

    def __call__(self) -> dict[str, float]:
        """Return the mean loss of each set."""
        return {name: self._mean(self.latents[name], indices) for name, indices in self.sets.items()}

    def _mean(self, latents: Tensor, indices: Tensor) -> float:
        losses = []
        for number, batch in enumerate((torch.arange(LOSSES) % len(indices)).split(self.batch_size)):
            generator = self.context.generator("watched", number)
            own = latents[batch.to(latents.device)]
            losses.append(self.loss(own, indices[batch], self.context, generator))
        return torch.cat(losses).mean().item()


class WatchedSamples:
    """How far samples are from the images that are held out.

    Args:
        metric: one that compares.
        draw: gives samples, uint8 [N, C, H, W].
        dataset: the images.
        held_out: indices of those held out, int64 [N].
        context: of the stage.

    Raises:
        MistakeError: the metric cannot be measured of these images.
    """

    def __init__(
        self,
        metric: Metric,
        draw: Callable[[], Tensor],
        dataset: Dataset,
        held_out: Tensor,
        context: Context,
    ) -> None:
        self.metric, self.draw = metric, draw
        generator = context.generator("held out", "compared")
        held_out = show_some(metric, dataset, held_out, generator, context)
        self.decides = next(iter(self._numbers(read_images(dataset, held_out[:SAMPLES]))))
        self.higher = higher_is_better(metric, self.decides.removeprefix("held_out_"))

    def __call__(self) -> dict[str, float]:
        """Return the metric's numbers, each as ``held_out_NAME``."""
        return self._numbers(self.draw())

    def _numbers(self, images: Tensor) -> dict[str, float]:
        numbers = measure([self.metric], in_batches(images.cpu()))
        return {f"held_out_{name}": value for name, value in numbers.items()}


def check_options(held_out: float, watch: int, metric: Metric | None, best: bool, post_hoc: bool) -> None:
    """Raise ``ValueError`` where options of a training do not fit together, see ``TrainDiffusion``."""
    if metric is not None:
        check_compares(metric, "watch_metric")
    for option, wanted in {"watch_metric": metric, 'checkpoint = "best"': best}.items():
        if wanted and not (held_out and watch):
            raise OptionError(f"{option} goes by held-out images: add held_out = 0.05, and watch = 20")
    if best and post_hoc:
        raise OptionError('ema = "post_hoc" chooses at the end, checkpoint = "best" before: take one of them')
