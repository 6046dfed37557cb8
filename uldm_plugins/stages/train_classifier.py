"""Training a classifier whose features serve as a backbone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor

from uldm_core import Partial, use
from uldm_core.errors import DataError
from uldm_core.protocols import (
    Backbone,
    Context,
    Dataset,
    HasLabels,
    HasLogits,
    LRSchedule,
    Optimizer,
    Thawable,
)
from uldm_plugins.shared.ema import EMA, warmed
from uldm_plugins.shared.images import to_float
from uldm_plugins.stages.latents import image_batches, index_batches, unless_stopped
from uldm_plugins.stages.training import OptimizerStep, image_batch, prefetch


@runtime_checkable
class Classifier(Backbone, HasLogits, Thawable, Protocol):
    """A backbone that classifies and can be trained."""


class TrainClassifier:
    """Trains a backbone that has ``logits``, ``thaw`` and ``freeze`` to predict a dataset's labels.

    Images are rotated, scaled and shifted a little, anew each time. The summary gives the accuracy on the
    ``test`` split.

    Args:
        dataset: images with ``labels``.
        backbone: what is trained.
        steps: optimizer steps.
        batch_size: images a step.
        optimizer: of the classifier.
        lr_schedule: of its learning rate.
        label_smoothing: share of each target spread over all classes.
        rotate: largest rotation, in degrees.
        scale: largest relative change of size.
        shift: largest shift, in pixels.
        ema_decay: of the average of the weights.

    Raises:
        ValueError: the backbone does not classify or cannot be trained.
    """

    trains = ("backbone",)
    makes: Sequence[str] = ()
    needs: Sequence[str] = ()
    reads = ("train", "test")
    adjustable: Sequence[str] = ("optimizer", "lr_schedule")

    def __init__(
        self,
        dataset: Dataset,
        backbone: Backbone,
        steps: Annotated[int, Ge(1)] = 4000,
        batch_size: Annotated[int, Ge(1)] = 128,
        optimizer: Partial[Optimizer] = use("adamw", lr=3e-3, weight_decay=0.02),
        lr_schedule: Partial[LRSchedule] = use("linear", warmup=200),
        label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
        rotate: Annotated[float, Ge(0)] = 10.0,
        scale: Annotated[float, Interval(ge=0, lt=1)] = 0.1,
        shift: Annotated[float, Ge(0)] = 2.0,
        ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.998,
    ) -> None:
        if not isinstance(backbone, Classifier):
            raise ValueError(f"{type(backbone).__name__} is no classifier to train: it lacks logits or thaw")
        self.dataset = dataset
        self.backbone = backbone
        self.steps = steps
        self.batch_size = batch_size
        self.label_smoothing = label_smoothing
        self.rotate, self.scale, self.shift = rotate, scale, shift
        self.ema_decay = ema_decay
        self._optimizer_options = (optimizer, lr_schedule, steps)

    def prepare(self, context: Context) -> None:
        """Thaw the backbone; make optimizer and average."""
        self.backbone.thaw().train()
        self.optimizer_step = OptimizerStep(self.backbone.parameters(), *self._optimizer_options)
        self.ema = EMA(self.backbone, warmed(self.ema_decay))

    def step(self, step: int, context: Context) -> Mapping[str, Tensor]:
        """Update the classifier once."""
        indices = context.batch(len(self.dataset), self.batch_size, step)
        prefetch(self.dataset, context.batch(len(self.dataset), self.batch_size, step + 1))
        images = self._jitter(image_batch(self.dataset, indices, context), context.generator(step))
        labels = _labels(self.dataset, indices).to(images.device)
        with context.autocast():
            logits = self.backbone.logits(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        self.optimizer_step(loss, step)
        self.ema.update()
        return {"loss": loss.detach()}

    def stateful(self) -> Mapping[str, Any]:
        """Return everything that a resumed run needs."""
        return {"backbone": self.backbone, "optimizer": self.optimizer_step, "ema": self.ema}

    def finish(self, context: Context) -> Mapping[str, float]:
        """Leave the averaged weights in the backbone, frozen again, and measure its accuracy."""
        self.ema.apply()
        self.backbone.freeze()
        return {"test_accuracy": self._accuracy(self.dataset.split("test"), context)}

    def take(self, state: Mapping[str, Any]) -> None:
        """Leave the averaged weights of a checkpoint in the backbone, frozen again."""
        EMA(self.backbone, warmed(self.ema_decay)).take(state["backbone"], state["ema"])
        self.backbone.freeze()

    @torch.inference_mode()
    def _accuracy(self, test: Dataset, context: Context) -> float:
        right = 0
        batches = zip(index_batches(test), image_batches(test))
        for indices, images in unless_stopped(batches, context):
            classes = self.backbone.logits(to_float(images.to(context.device))).argmax(1).cpu()
            right += int((classes == _labels(test, indices)).sum())
        return right / len(test)

    def _jitter(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Rotate, scale and shift each image, as one affine map."""
        count, side = len(images), images.shape[-1]
        draw = torch.rand(4, count, generator=generator).mul_(2).sub_(1).to(images.device)
        angle = draw[0] * self.rotate * math.pi / 180
        zoom = 1 + draw[1] * self.scale
        shift = draw[2:] * 2 * self.shift / side
        rows = (
            zoom * angle.cos(),
            -zoom * angle.sin(),
            shift[0],
            zoom * angle.sin(),
            zoom * angle.cos(),
            shift[1],
        )
        grid = F.affine_grid(torch.stack(rows, 1).view(count, 2, 3), list(images.shape), align_corners=False)
        # zero padding is black only where black is zero
        return F.grid_sample(images + 1, grid, align_corners=False) - 1


def _labels(dataset: Dataset, indices: Tensor) -> Tensor:
    """Return labels, int64 [B]; raises ``DataError`` if the dataset has none."""
    if not isinstance(dataset, HasLabels):
        raise DataError("the dataset has no labels to train a classifier on")
    return dataset.labels[indices]
