"""Training an autoencoder: reconstruction, perceptual loss, its own losses, and a discriminator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval
from attrs import frozen
from torch import Tensor

from uldm_core import Excludes, Partial, Weighted, use
from uldm_core.protocols import (
    AdversarialLoss,
    Augmentation,
    Autoencoder,
    Context,
    Dataset,
    Discriminator,
    HasLastLayer,
    Loss,
    LRSchedule,
    Optimizer,
    Quantized,
)
from uldm_plugins.nn.codebooks import code_counts, perplexity
from uldm_plugins.nn.frozen import without_gradients
from uldm_plugins.shared.diagnostics import autoencoder_diagnostics
from uldm_plugins.shared.ema import EMA, averaging
from uldm_plugins.stages.previews import at_rest, reconstructed
from uldm_plugins.stages.training import OptimizerStep, detached, image_batch, prefetch, weighted_sum


class TrainAutoencoder:
    """Trains an autoencoder on a dataset's images.

    The loss is the sum of ``losses``, the autoencoder's own losses (codebook, commitment, KL), and, once
    ``adversarial`` starts, the generator's side of it; the discriminator is trained from then on as well.

    Source: Esser et al. 2021 (arXiv 2012.09841); ``VQLPIPSWithDiscriminator`` of taming-transformers.

    Args:
        dataset: the images.
        autoencoder: what is trained; later stages get its averaged weights.
        discriminator: of images and reconstructions, if there is one.
        augmentation: changes the images that are trained; reconstructions are compared with the changed ones.
        steps: optimizer steps.
        batch_size: images a step.
        losses: terms between reconstruction and image.
        adversarial: the GAN loss; its ``start`` is the warm-up, in steps.
        adaptive_weight: multiply the GAN loss's weight by |gradient of ``losses``| / |its own gradient|,
            both at the decoder's last layer, so that neither drowns the other.
        optimizer: of the autoencoder.
        discriminator_optimizer: of the discriminator.
        lr_schedule: of both learning rates.
        ema_decay: of the average of the weights; 0 keeps the last ones.
        ema_std: width of a power-function average, relative to the time trained; it takes the place of
            ``ema_decay``.
        max_grad_norm: the gradient is scaled down to this norm; 0 leaves it.
        previews: how often, over the whole training, to show reconstructions of test images; 0 shows none.
    """

    trains = ("autoencoder",)
    makes: Sequence[str] = ()
    needs: Sequence[str] = ()
    reads = ("train",)
    preview_options: Sequence[str] = ("previews",)
    adjustable: Sequence[str] = ("optimizer", "discriminator_optimizer", "lr_schedule", "max_grad_norm")

    def __init__(
        self,
        dataset: Dataset,
        autoencoder: Autoencoder,
        discriminator: Discriminator | None = None,
        augmentation: Augmentation | None = None,
        steps: Annotated[int, Ge(1)] = 1000,
        batch_size: Annotated[int, Ge(1)] = 64,
        losses: list[Weighted[Loss]] = [use("l1")],  # noqa: B006 - read only
        adversarial: Weighted[AdversarialLoss] | None = None,
        adaptive_weight: bool = False,
        optimizer: Partial[Optimizer] = use("adamw", lr=1e-3),
        discriminator_optimizer: Partial[Optimizer] = use("adamw", lr=1e-3, betas=(0.5, 0.99)),
        lr_schedule: Partial[LRSchedule] = use("linear", warmup=50, hold=0.5),
        ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.99,
        ema_std: Annotated[float, Interval(gt=0, lt=0.28), Excludes("ema_decay")] | None = None,
        max_grad_norm: Annotated[float, Ge(0)] = 0.0,
        previews: Annotated[int, Ge(0)] = 8,
    ) -> None:
        if adversarial is not None and discriminator is None:
            raise ValueError("adversarial needs a discriminator, and the recipe has none")
        if adaptive_weight and not isinstance(autoencoder, HasLastLayer):
            raise ValueError(f"adaptive_weight: {type(autoencoder).__name__} names no last_layer")
        self.dataset = dataset
        self.autoencoder = autoencoder
        self.adversary = Adversary(discriminator, adversarial) if discriminator and adversarial else None
        self.augmentation = augmentation
        self.steps = steps
        self.batch_size = batch_size
        self.losses = losses
        self.adaptive_weight = adaptive_weight
        self.previews = previews
        self._average = averaging(ema_decay, ema_std)
        self._optimizer_options = (optimizer, lr_schedule, steps, max_grad_norm)
        self._discriminator_options = (discriminator_optimizer, lr_schedule, steps, max_grad_norm)

    def prepare(self, context: Context) -> None:
        """Make the optimizers and the average."""
        self.optimizer_step = OptimizerStep(self.autoencoder.parameters(), *self._optimizer_options)
        self.ema = EMA(self.autoencoder, self._average)
        self.autoencoder.train()
        if self.adversary is not None:
            discriminator = self.adversary.discriminator
            self.discriminator_step = OptimizerStep(discriminator.parameters(), *self._discriminator_options)
            discriminator.train()

    def step(self, step: int, context: Context) -> Mapping[str, Tensor]:
        """Update autoencoder and discriminator once."""
        indices = context.batch(len(self.dataset), self.batch_size, step)
        prefetch(self.dataset, context.batch(len(self.dataset), self.batch_size, step + 1))
        images = image_batch(self.dataset, indices, context, self.augmentation, step)
        adversary = self.adversary if self.adversary and step >= self.adversary.loss.start else None
        with context.autocast():
            reconstruction, _, own = self.autoencoder(images)
            reconstruction = reconstruction.float()
            distance = weighted_sum(self.losses, reconstruction, images, step)
            loss = distance + sum(own.values())
            logged = {"distance": distance, **own}
            if adversary is not None:
                generator_loss = logged["generator"] = adversary.generator_loss(reconstruction)
                loss = loss + self._adversarial_weight(adversary, distance, generator_loss) * generator_loss
        self.optimizer_step(loss, step)
        self.ema.update()
        if adversary is not None:
            loss = adversary.discriminator_loss(images, reconstruction.detach(), context)
            self.discriminator_step(loss, step)
            logged["discriminator"] = loss
        return detached(logged)

    def preview(self, step: int, context: Context) -> None:
        """Show ``reconstructions``: test images, each followed by what the averaged weights make of it.

        With a quantizer also their ``codes``, as colours (see ``code_map``), and logs ``code_use``: the
        perplexity of the codes in these images, of the worst codebook, as a share of what it can be.
        """
        with at_rest(self.autoencoder, self.ema):
            shown, codes = reconstructed(self.dataset, self.autoencoder, context)
        if codes is not None and isinstance(self.autoencoder, Quantized):
            counts = code_counts(codes, self.autoencoder.quantizer.codebook_size)
            most = min(counts.shape[1], int(counts[0].sum()))
            context.log(step, {"code_use": float(perplexity(counts).min()) / most})
        for name, images in shown.items():
            context.show(name, images, step)

    def stateful(self) -> Mapping[str, Any]:
        """Return everything that a resumed run needs."""
        state = {"autoencoder": self.autoencoder, "optimizer": self.optimizer_step, "ema": self.ema}
        if self.adversary is None:
            return state
        own = {
            "discriminator": self.adversary.discriminator,
            "discriminator_optimizer": self.discriminator_step,
        }
        return {**state, **own}

    def finish(self, context: Context) -> Mapping[str, float]:
        """Leave the averaged weights in the autoencoder."""
        self.ema.apply()
        self.autoencoder.eval()
        return {}

    def take(self, state: Mapping[str, Any]) -> None:
        """Leave the averaged weights of a checkpoint in the autoencoder."""
        EMA(self.autoencoder, self._average).take(state["autoencoder"], state["ema"])
        self.autoencoder.eval()

    def diagnose(self, curves: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, str]]:
        """Yield what goes wrong with discriminator, codebook or reconstructions, and the option to turn."""
        loss = self.adversary.loss.component if self.adversary else None
        chance = loss.discriminator(torch.zeros(1), torch.zeros(1)).item() if loss else None
        at_once = all(term.start == 0 for term in self.losses)
        for found in autoencoder_diagnostics(curves, chance, rising=at_once):
            if found.level == "worry":
                yield found.what, found.fix

    def _adversarial_weight(
        self, adversary: Adversary, distance: Tensor, generator_loss: Tensor
    ) -> Tensor | float:
        """Return what the generator's loss is multiplied by."""
        weight = adversary.loss.weight
        if self.adaptive_weight and isinstance(self.autoencoder, HasLastLayer):
            return weight * gradient_ratio(distance, generator_loss, self.autoencoder.last_layer)
        return weight


@frozen
class Adversary:
    """A discriminator and the GAN loss that it is trained with."""

    discriminator: Discriminator
    loss: Weighted[AdversarialLoss]

    def generator_loss(self, reconstruction: Tensor) -> Tensor:
        """Return the generator's loss; no gradient is left in the discriminator."""
        with without_gradients(self.discriminator):
            return self.loss.component.generator(self.discriminator(reconstruction).float())

    def discriminator_loss(self, images: Tensor, reconstruction: Tensor, context: Context) -> Tensor:
        """Return the discriminator's loss."""
        with context.autocast():
            real, fake = self.discriminator(images), self.discriminator(reconstruction)
        return self.loss.component.discriminator(real.float(), fake.float())


def gradient_ratio(distance: Tensor, other: Tensor, parameter: Tensor) -> Tensor:
    """Return |d distance / d parameter| / (|d other / d parameter| + 1e-4), at most 10,000; no gradient.

    Source: Esser et al. 2021, equation 7; ``calculate_adaptive_weight`` of taming-transformers.
    """
    norms = [torch.autograd.grad(loss, parameter, retain_graph=True)[0].norm() for loss in (distance, other)]
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()
