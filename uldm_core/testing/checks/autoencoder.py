"""The contract of autoencoders."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from uldm_core.kinds import latent_size
from uldm_core.testing import strategies
from uldm_core.testing.case import Case
from uldm_core.testing.contract import Contract, Skip, expect, expect_close, expect_finite
from uldm_core.testing.images import channels_of
from uldm_core.testing.losses import check_losses, total

ODD = 27
PLACES = 16
"""Of latents, along a side: so many that their middle is out of a border's reach."""
PERIODIC = 0.1
"""Share of the energy that may lie in periodic patterns. Drawn apart, the sub-pixels of a transposed
convolution start with three quarters; nearest-neighbour upsampling starts with a hundredth at most."""


def _images(case: Case, autoencoder: Any) -> tuple[Tensor]:
    shape = case.draw(
        strategies.image_shapes(st.just(_channels(case, autoencoder)), *_sides(autoencoder)), "shape"
    )
    return (case.images(shape),)


def _channels(case: Case, autoencoder: Any) -> int:
    return channels_of(case, autoencoder, lambda images: autoencoder.encode(images), _legal(autoencoder))


def _legal(autoencoder: Any) -> int:
    """Return a side that it must take: its ``size``, or the first multiple of ``downscale`` from 32."""
    size = getattr(autoencoder, "size", None)
    return int(size) if size else -(-32 // autoencoder.downscale) * autoencoder.downscale


def _sides(autoencoder: Any) -> tuple[st.SearchStrategy[int], st.SearchStrategy[int]]:
    """Return strategies of legal heights and widths: its ``size`` alone, or multiples of ``downscale``."""
    size = getattr(autoencoder, "size", None)
    if size:
        return st.just(int(size)), st.just(int(size))
    low = max(16, 2 * autoencoder.downscale)
    return (strategies.sides(low, max(32, low), autoencoder.downscale),) * 2


contract = Contract(
    options={"in_channels": strategies.channel_counts(), "size": st.sampled_from((16, 28))},
    inputs=_images,
    call=lambda autoencoder, images: autoencoder(images),
    discrete=True,
)


def _built(case: Case) -> tuple[Any, Tensor]:
    """Build an autoencoder in eval mode, and draw images for it."""
    autoencoder = _set_mode(case.build(), training=False)
    return autoencoder, *_images(case, autoencoder)


def _set_mode(autoencoder: Any, *, training: bool) -> Any:
    return autoencoder.train(training) if isinstance(autoencoder, nn.Module) else autoencoder


@contract.check
def image_shape(case: Case) -> None:
    """``decode(encode(x))`` has x's shape for every legal size, grey or RGB, and is finite."""
    autoencoder, images = _built(case)
    decoded = autoencoder.decode(autoencoder.encode(images)[0])
    expect(decoded.shape == images.shape, f"{list(images.shape)} comes back as {list(decoded.shape)}")
    expect_finite(decoded, "the reconstruction")


@contract.check
def latent_shape(case: Case) -> None:
    """Latents are [B, latent_channels, H / downscale, W / downscale], rounded up, as it declares."""
    autoencoder, images = _built(case)
    latents, _ = autoencoder.encode(images)
    height, width = (latent_size(side, autoencoder.downscale) for side in images.shape[2:])
    wanted = [len(images), autoencoder.latent_channels, height, width]
    expect(list(latents.shape) == wanted, f"latents are {list(latents.shape)}, declared are {wanted}")


@contract.check
def odd_sizes(case: Case) -> None:
    """A size that is not legal is refused with ``ValueError``, or comes back as it was."""
    autoencoder = _set_mode(case.build(), training=False)
    images = case.images((1, _channels(case, autoencoder), ODD, case.draw(strategies.sides(25, 31), "width")))
    try:
        decoded = autoencoder.decode(autoencoder.encode(images)[0])
    except ValueError:
        return
    expect(decoded.shape == images.shape, f"{list(images.shape)} comes back as {list(decoded.shape)}")


@contract.check
def forward_agrees(case: Case) -> None:
    """``forward`` is ``encode`` then ``decode``: what is trained is what is used."""
    autoencoder, images = _built(case)
    reconstruction, latents, losses = autoencoder(images)
    encoded, own = autoencoder.encode(images)
    expect_close(latents, encoded, "forward's latents are not encode's")
    expect_close(reconstruction, autoencoder.decode(encoded), "forward is not decode(encode(x))", rtol=1e-3)
    expect(losses.keys() == own.keys(), f"losses of forward {list(losses)}, of encode {list(own)}")
    for name, loss in losses.items():
        expect_close(loss, own[name], f"{name} of forward is not encode's")


@contract.check
def indices_agree(case: Case) -> None:
    """``encode_with_indices`` gives the latents of ``encode``, and integers for them."""
    autoencoder, images = _built(case)
    if not hasattr(autoencoder, "encode_with_indices"):
        raise Skip("it has no encode_with_indices")
    latents, _, indices = autoencoder.encode_with_indices(images)
    expect_close(
        latents, autoencoder.encode(images)[0], "encode_with_indices gives other latents than encode"
    )
    expect(not indices.is_floating_point(), f"indices are {indices.dtype}")
    expect(indices.shape[-2:] == latents.shape[-2:], f"indices are {list(indices.shape)}")


@contract.check
def losses_are_weighted_scalars(case: Case) -> None:
    """Its own losses are named, finite scalars, not below zero: the trainer adds them up as they are."""
    autoencoder, images = _built(case)
    for training in (False, True):
        both = torch.cat([images, images.flip(0)])
        check_losses(_set_mode(autoencoder, training=training)(both)[2])


@contract.check
def decodes_any_latents(case: Case) -> None:
    """``decode`` takes latents that no image gave, as a sampler's are: finite images of the right shape."""
    autoencoder, images = _built(case)
    latents = case.normal(*autoencoder.encode(images)[0].shape, salt=1)
    decoded = autoencoder.decode(latents * 2)
    expect(decoded.shape == images.shape, f"latents of {list(images.shape)} decode to {list(decoded.shape)}")
    expect_finite(decoded, "what is decoded")


@contract.check
def starts_without_checkerboard(case: Case) -> None:
    """Untrained, it decodes constant latents to images without a pattern of 2, 4 or 8 pixels.

    Of what differs between two such images, in the middle, a tenth of the energy at most repeats with
    ``downscale``, up to 8 pixels. (Odena et al. 2016, Deconvolution and checkerboard artifacts.)
    """
    first, second = (_decoded_constants(case, seed=seed) for seed in (case.seed(), case.seed() + 1))
    if torch.equal(first[1], second[1]):
        raise Skip("it does not start at random")
    shares = [_periodic_share(images, period) for period, images in (first, second)]
    share = sum(shares) / len(shares)
    expect(
        share <= PERIODIC,
        f"{share:.0%} of the energy of what it decodes constant latents to lies in a checkerboard: have the "
        "weights of sub-pixels start equal, or convolve after upsampling",
    )


def _decoded_constants(case: Case, seed: int) -> tuple[int, Tensor]:
    """Return the period to look for, and differences of what pairs of constant latents decode to."""
    autoencoder = case.build(seed=seed)
    if autoencoder.downscale == 1:
        raise Skip("its latents are as large as images")
    side = PLACES * autoencoder.downscale
    if case.subject.takes("size"):
        autoencoder = case.build(seed=seed, size=side)
    if getattr(autoencoder, "size", None) not in (None, side):
        raise Skip("its images have one size")
    _set_mode(autoencoder, training=False)
    with torch.no_grad():
        latents = autoencoder.encode(case.images((1, _channels(case, autoencoder), side, side)))[0]
        constants = strategies.normal((4, latents.shape[1], 1, 1), seed)
        decoded = autoencoder.decode(constants.expand(-1, -1, *latents.shape[2:]))
    return min(autoencoder.downscale, 8), decoded[:2] - decoded[2:]  # what biases add to all is left out


def _periodic_share(images: Tensor, period: int) -> float:
    """Return which share of the energy in the middle of images repeats with a period, in pixels."""
    margin = images.shape[-1] * 3 // 8 // period * period
    middle = images[..., margin:-margin, margin:-margin].double()
    energy = middle.square().mean()
    if energy < 1e-12:
        return 0.0
    start, end = margin - period // 2, margin - (period - 1) // 2
    around = F.avg_pool2d(images[..., start:-end, start:-end].double(), period, 1)
    rest = (middle - around).unflatten(-2, (-1, period)).unflatten(-1, (-1, period))  # slow changes left out
    pattern = rest.mean((-4, -2))
    return float((pattern - pattern.mean((-2, -1), keepdim=True)).square().mean() / energy)


@contract.check
def reconstruction_reaches_encoder(case: Case) -> None:
    """The gradient of the reconstruction alone reaches the image: no cut lies between the halves."""
    autoencoder, images = _built(case)
    given = images.clone().requires_grad_()
    reconstruction = _set_mode(autoencoder, training=True)(torch.cat([given, given.flip(-1)]))[0]
    weights = case.normal(*reconstruction.shape, salt=1)
    expect(reconstruction.requires_grad, "the reconstruction has no gradient")
    (gradient,) = torch.autograd.grad((reconstruction * weights).sum(), given, allow_unused=True)
    expect(
        gradient is not None and bool(gradient.abs().sum() > 0), "no gradient passes from decoder to encoder"
    )
    if gradient is not None:
        expect_finite(gradient, "the gradient of the image")


@contract.check
def learns(case: Case) -> None:
    """A few steps on one batch lower the reconstruction error."""
    autoencoder, _ = _built(case)
    if not _trainable(autoencoder):
        raise Skip("it has nothing to train")
    side = _legal(autoencoder)
    batch = case.images((4, _channels(case, autoencoder), side, side), "checkerboard")
    batch[::2] *= -0.5
    errors = _fit(autoencoder, batch, steps=12, lr=2e-3)
    expect(
        min(errors[-3:]) < errors[0], f"after 12 steps the error is {errors[-1]:.3g}, it was {errors[0]:.3g}"
    )


@contract.check
def whole_range(case: Case) -> None:
    """It can be taught black (-1) as well as white (1): images are in [-1, 1], not in [0, 1]."""
    side = _legal(_built(case)[0])
    for value in (-1.0, 1.0):
        autoencoder = case.build()
        images = torch.full((2, _channels(case, autoencoder), side, side), value)
        images += 0.01 * case.normal(*images.shape)
        errors = _fit(autoencoder, images, steps=40, lr=1e-2, enough=0.2)
        expect(
            min(errors) < 0.5, f"images of {value:g} are not learned: the error stays at {min(errors):.3g}"
        )


def _trainable(autoencoder: Any) -> list[nn.Parameter]:
    parameters = autoencoder.parameters() if isinstance(autoencoder, nn.Module) else []
    return [parameter for parameter in parameters if parameter.requires_grad]


def _fit(autoencoder: Any, images: Tensor, steps: int, lr: float, enough: float = 0.0) -> list[float]:
    """Train on one batch, and return the mean squared error of each step; of one, with nothing to train."""
    parameters = _trainable(_set_mode(autoencoder, training=True))
    if not parameters:
        return [(autoencoder(images)[0] - images).square().mean().item()]
    optimizer = torch.optim.Adam(parameters, lr)
    errors: list[float] = []
    while len(errors) < steps and min(errors, default=1.0) >= enough:
        reconstruction, _, losses = autoencoder(images)
        error = (reconstruction - images).square().mean()
        optimizer.zero_grad()
        (error + total(losses)).backward()
        optimizer.step()
        errors.append(error.item())
    return errors
