"""How preflight runs a component of each kind on shapes alone: one probe a kind, named by its ``Kind``.

A probe takes the recipe's ``Inputs``, the component and a number of samples, and returns the output. It
raises ``MistakeError`` where the output has not the shape that the kind promises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch
from attrs import define
from torch import Tensor, nn

from uldm_core.errors import MistakeError
from uldm_core.kinds import latent_size
from uldm_core.preflight.dry_build import DryBuild, check_time
from uldm_core.protocols import (
    Augmentation,
    Autoencoder,
    Backbone,
    Denoiser,
    Discriminator,
    LatentScaling,
    Loss,
    Metric,
    Quantizer,
    Sampler,
)


@define
class Inputs:
    """Images and latents of a recipe's shapes; tensors are made on the device that is current.

    ``name`` and ``shape`` are of what was asked for last; empty if nothing was.
    """

    tried: DryBuild
    name: str = ""
    shape: tuple[int, ...] = ()

    def component(self, name: str) -> Any:
        """Return a component of the recipe as it was built for its shapes.

        Raises:
            NotImplementedError: there is none, or it could not be built so.
        """
        if (name,) not in self.tried.made:
            raise NotImplementedError(f"there is no {name} to run it with")
        return self.tried.made[name,]

    def images(self, batch: int) -> Tensor:
        """Return images of the dataset's shape, float [batch, C, H, W]."""
        dataset = self.component("dataset")
        return self._noted("images", torch.zeros(batch, dataset.channels, *dataset.size))

    def latents(self, batch: int, autoencoder: Autoencoder | None = None) -> Tensor:
        """Return latents of the shape that an autoencoder declares, the recipe's: float [batch, C, h, w]."""
        dataset, autoencoder = self.component("dataset"), autoencoder or self.component("autoencoder")
        size = latent_size(dataset.size, autoencoder.downscale)
        return self._noted("latents", torch.zeros(batch, autoencoder.latent_channels, *size))

    def _noted(self, name: str, tensor: Tensor) -> Tensor:
        self.name, self.shape = name, tuple(tensor.shape)
        return tensor


def expect_shape(what: str, output: object, shape: Sequence[int]) -> Tensor:
    """Return an output if it is a tensor of the shape; raises ``MistakeError`` if not."""
    if not isinstance(output, Tensor):
        raise MistakeError(f"{what} are of type {type(output).__name__}, not a tensor {list(shape)}")
    if list(output.shape) != list(shape):
        raise MistakeError(f"{what} are {list(output.shape)}, not {list(shape)}")
    return output


def show(inputs: Inputs, dataset: object, batch: int) -> Tensor:
    """Return images; a dataset is not read."""
    return inputs.images(batch)


def augment(inputs: Inputs, augmentation: Augmentation, batch: int) -> Tensor:
    """Return changed images."""
    images = inputs.images(batch).to(torch.uint8)
    return expect_shape(
        "images", augmentation(images, torch.zeros(batch, augmentation.parameters)), images.shape
    )


def autoencode(inputs: Inputs, autoencoder: Autoencoder, batch: int) -> Tensor:
    """Return latents of images that are reconstructed."""
    images = inputs.images(batch)
    reconstruction, latents, _ = autoencoder(images)
    expect_shape("reconstructions", reconstruction, images.shape)
    height, width = latent_size((images.shape[-2], images.shape[-1]), autoencoder.downscale)
    return expect_shape("latents", latents, (batch, autoencoder.latent_channels, height, width))


def denoise(inputs: Inputs, denoiser: Denoiser, batch: int) -> Tensor:
    """Return predictions for latents, with what the recipe gives the denoiser beside the time."""
    latents, times = inputs.latents(batch), torch.zeros(batch)
    given = _conditioning(inputs, batch)
    if isinstance(denoiser, nn.Module) and not _takes(denoiser.forward, latents, times, *given):
        raise _takes_no_augmentation() if len(given) > 1 else _takes_no_condition()
    predictions = denoiser(latents, times, *given)
    return expect_shape("predictions", predictions, latents.shape)


def _conditioning(inputs: Inputs, batch: int) -> tuple[Tensor | None, ...]:
    """Return a class and parameters of an augmentation, as far as the recipe gives them to its denoiser."""
    components = inputs.tried.components
    condition = torch.zeros(batch, dtype=torch.int64) if "condition" in components else None
    augmentation = inputs.component("augmentation") if "augmentation" in components else None
    if augmentation is None or augmentation.leaks:
        return () if condition is None else (condition,)
    return condition, torch.zeros(batch, augmentation.parameters)


def _takes_no_condition() -> MistakeError:
    return MistakeError(
        "takes no condition, and the recipe has one",
        hint="leave [condition] out, or take a denoiser that has an option classes",
    )


def _takes_no_augmentation() -> MistakeError:
    return MistakeError(
        "cannot be given what the augmentation did, and the recipe's does not leak",
        hint="give [augmentation] leaks = true: samples will look changed as well; or take a denoiser that "
        "has an option augmentation, such as unet",
    )


def _takes(function: Callable[..., object], *arguments: object) -> bool:
    """Whether a function can be called with so many arguments."""
    try:
        signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


def discriminate(inputs: Inputs, discriminator: Discriminator, batch: int) -> Tensor:
    """Return logits of images."""
    logits = discriminator(inputs.images(batch))
    rows, columns = (*logits.shape[2:], 0, 0)[:2]
    return expect_shape("logits", logits, (batch, 1, rows, columns))


def quantize(inputs: Inputs, quantizer: Quantizer, batch: int) -> Tensor:
    """Return the codes of latents, which have the quantizer's own channels."""
    latents = torch.zeros(batch, quantizer.dim, *inputs.latents(batch).shape[2:])
    return expect_shape("quantized latents", quantizer(latents)[0], latents.shape)


def extract(inputs: Inputs, backbone: Backbone, batch: int) -> tuple[Tensor, ...]:
    """Return feature maps of images."""
    maps = backbone(inputs.images(batch))
    channels = [feature.shape[1] for feature in maps]
    if channels != list(backbone.channels):
        raise MistakeError(f"its maps have {channels} channels, and it declares {list(backbone.channels)}")
    return maps


def compare(inputs: Inputs, loss: Loss, batch: int) -> Tensor:
    """Return the loss between images."""
    target = inputs.images(batch)
    prediction = torch.zeros_like(target, requires_grad=torch.is_grad_enabled())  # a reconstruction
    return expect_shape("losses", loss(prediction, target), ())


def normalize(inputs: Inputs, scaling: LatentScaling, batch: int) -> Tensor:
    """Return normalized latents."""
    latents = inputs.latents(batch)
    return expect_shape("normalized latents", scaling.normalize(latents), latents.shape)


def sample(inputs: Inputs, sampler: Sampler, batch: int) -> Tensor:
    """Return samples drawn with a denoiser that predicts zeros.

    A step is so cheap that it is done with values. What a sampler refuses then is the process, not a shape.
    """
    process = inputs.component("noise_scheduler")

    def predict_zeros(latents: Tensor, t: Tensor) -> Tensor:
        check_time(inputs.tried.until)  # torch functions do not, where they have values
        return torch.zeros_like(latents)

    shape = list(inputs.latents(batch).shape)
    with torch._C.DisableTorchFunction():  # under which tensors keep their values
        noise = torch.zeros(shape, device="cpu")
        try:
            samples = sampler(predict_zeros, process, noise, torch.Generator())
        except ValueError as error:
            raise MistakeError(str(error)) from error
    return expect_shape("samples", samples, shape)


def measure(inputs: Inputs, metric: Metric, batch: int) -> None:
    """Give a metric images, as samples."""
    metric.update(inputs.images(batch).to(torch.uint8), real=False)
