"""What trainers share: optimizer steps on a loss, images of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from uldm_core import Partial, Weighted
from uldm_core.errors import DataError
from uldm_core.protocols import (
    Augmentation,
    Context,
    Dataset,
    Denoiser,
    Loss,
    LRSchedule,
    NoiseScheduler,
    Optimizer,
    Prefetches,
    ScalesInput,
)
from uldm_core.registry.component import format_failure
from uldm_plugins.shared.images import to_float


class OptimizerStep:
    """An optimizer with its schedule; the learning rate is derived from the step, not remembered.

    Args:
        parameters: what is trained; of a network without any, nothing is.
        optimizer: makes the optimizer.
        schedule: makes the schedule.
        steps: of the whole training.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        optimizer: Partial[Optimizer],
        schedule: Partial[LRSchedule],
        steps: int,
        max_grad_norm: float = 0.0,
    ) -> None:
        self.parameters = list(parameters)
        self.optimizer = optimizer(self.parameters) if self.parameters else None
        self.schedule = schedule(steps)
        groups = self.optimizer.param_groups if self.optimizer else []
        self.rates = [group["lr"] for group in groups]
        self.options = [
            {name: group[name] for name in optimizer.options if name in group} for group in groups
        ]
        self.max_grad_norm = max_grad_norm
        self.rate_factor = 1.0

    def __call__(self, loss: Tensor, step: int) -> None:
        """Take one step on the loss."""
        if self.optimizer is None:
            return
        factor = self.schedule(step) * self.rate_factor
        for group, rate in zip(self.optimizer.param_groups, self.rates):
            group["lr"] = rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state."""
        return self.optimizer.state_dict() if self.optimizer else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the optimizer's state; its options stay those it was made with."""
        if self.optimizer:
            self.optimizer.load_state_dict(state)
            for group, options in zip(self.optimizer.param_groups, self.options):
                group.update(options)


def image_batch(
    dataset: Dataset,
    indices: Tensor,
    context: Context,
    augmentation: Augmentation | None = None,
    step: int = 0,
) -> Tensor:
    """Return images as floats in [-1, 1] on the stage's device; a trainer's step begins with them.

    Args:
        dataset: the images.
        indices: of some, int64 [B].
        context: of the stage.
        augmentation: changes them.
        step: by which the augmentation draws.

    Raises:
        DataError: the dataset cannot give them.
    """
    images = read_images(dataset, indices).to(context.device, non_blocking=True)
    if augmentation is not None:
        parameters = augmentation.draw(len(images), context.generator(step, "augmentation"))
        images = augmentation(images, parameters.to(images.device))
    return to_float(images)


def read_images(dataset: Dataset, indices: Tensor) -> Tensor:
    """Return ``dataset.images(indices)``.

    Raises:
        DataError: the dataset cannot give them: a file is damaged or gone, say.
    """
    try:
        return dataset.images(indices)
    except Exception as error:  # of whatever reads the files
        raise DataError(f"the dataset cannot give its images: {format_failure(error)}") from error


def prefetch(dataset: Dataset, indices: Tensor) -> None:
    """Have a dataset that can do so read the images that are asked for next.

    It is called before the images are read that are worked on meanwhile: there is no time in which none are.
    """
    if isinstance(dataset, Prefetches):
        dataset.prefetch(indices)


def read_batches(dataset: Dataset, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the images at each of some batches of indices, read ahead while those before are worked on.

    Raises:
        DataError: the dataset cannot give them.
    """
    coming = iter(batches)
    indices = next(coming, None)
    while indices is not None:
        following = next(coming, None)
        if following is not None:
            prefetch(dataset, following)
        yield read_images(dataset, indices)
        indices = following


def weighted_sum(terms: Iterable[Weighted[Loss]], prediction: Tensor, target: Tensor, step: int) -> Tensor:
    """Add up the terms that have started."""
    total = prediction.new_zeros(())
    for term in terms:
        if step >= term.start and term.weight:
            total = total + term.weight * term.component(prediction, target)
    return total


def predict(
    denoiser: Denoiser,
    noise_scheduler: NoiseScheduler,
    x_t: Tensor,
    t: Tensor,
    condition: Tensor | None = None,
    augmentation: Tensor | None = None,
) -> Tensor:
    """Call the denoiser with the input and the time of the noise scheduler; float32 [B, C, H, W].

    It is given classes [B] and parameters of an augmentation [B, P] only where there are some.
    """
    scaled = noise_scheduler.scale_input(x_t, t) if isinstance(noise_scheduler, ScalesInput) else x_t
    given: tuple[Tensor | None, ...] = (condition, augmentation)
    while given and given[-1] is None:  # not every denoiser takes them
        given = given[:-1]
    return denoiser(scaled, noise_scheduler.conditioning(t), *given).float()


def detached(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the losses without their graphs, for the log."""
    return {name: loss.detach() for name, loss in losses.items()}
