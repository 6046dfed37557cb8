"""The contract of autoencoders."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from uldm_core.kinds import latent_size
from uldm_core.protocols import Autoencoder
from uldm_core.shapes import height_and_width
from uldm_core.testing import strategies
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import Skip, expect, expect_close, expect_finite
from uldm_core.testing.images import channels_of
from uldm_core.testing.losses import check_losses, total
from uldm_core.testing.tensors import set_mode, trainable

ODD = 27


def _images(case: Case, autoencoder: Autoencoder) -> tuple[Tensor]:
    shape = case.draw(
        strategies.image_shapes(st.just(_channels(case, autoencoder)), *_sides(autoencoder)), "shape"
    )
    return (case.images(shape),)


def _channels(case: Case, autoencoder: Autoencoder) -> int:
    """Return its images' channels; of several that it takes, those that give the latents it declares."""

    def fits(images: Tensor) -> None:
        latents, _ = autoencoder.encode(images)
        expect(latents.shape[1] == autoencoder.latent_channels, "these are no channels of its images")

    size = _legal(autoencoder)
    try:
        return channels_of(case, autoencoder, fits, *size)
    except Exception:
        return channels_of(case, autoencoder, lambda images: autoencoder.encode(images), *size)


def _legal(autoencoder: Autoencoder) -> tuple[int, int]:
    """Return a size that it must take: its ``size``, or the first multiple of ``downscale`` from 32."""
    side = -(-32 // autoencoder.downscale) * autoencoder.downscale
    return height_and_width(getattr(autoencoder, "size", None) or side)


def _sides(autoencoder: Autoencoder) -> tuple[st.SearchStrategy[int], st.SearchStrategy[int]]:
    """Return strategies of legal heights and widths: its ``size`` alone, or multiples of ``downscale``."""
    size = getattr(autoencoder, "size", None)
    if size:
        height, width = height_and_width(size)
        return st.just(height), st.just(width)
    low = max(16, 2 * autoencoder.downscale)
    return (strategies.sides(low, max(32, low), autoencoder.downscale),) * 2


contract = Contract(
    options={"in_channels": strategies.channel_counts(), "size": st.sampled_from((16, 28))},
    inputs=_images,
    call=lambda autoencoder, images: autoencoder(images),
    discrete=True,
)


def _built(case: Case) -> tuple[Autoencoder, Tensor]:
    """Build an autoencoder in eval mode, and draw images for it."""
    autoencoder = set_mode(case.copy(), training=False)
    return autoencoder, *_images(case, autoencoder)


@contract.check
def image_shape(case: Case) -> None:
    """``decode(encode(x))`` has x's shape for every legal size, square or not, with any channels."""
    autoencoder, images = _built(case)
    _expect_back(autoencoder, images)
    if not getattr(autoencoder, "size", None):
        _expect_back(autoencoder, images.repeat(1, 1, 1, 2))
    if case.subject.inferred("size"):
        oblong = set_mode(case.copy(size=(16, 28)), training=False)
        _expect_back(oblong, case.images((2, images.shape[1], 16, 28)))
    if case.subject.inferred("in_channels"):
        try:
            four = set_mode(case.copy(in_channels=4), training=False)
        except ValueError:
            return
        _expect_back(four, images[:, :1].repeat(1, 4, 1, 1))


def _expect_back(autoencoder: Autoencoder, images: Tensor) -> None:
    decoded = autoencoder.decode(autoencoder.encode(images)[0])
    expect(decoded.shape == images.shape, f"{list(images.shape)} comes back as {list(decoded.shape)}")
    expect_finite(decoded, "the reconstruction")


@contract.check
def latent_shape(case: Case) -> None:
    """Latents are [B, latent_channels, H / downscale, W / downscale], rounded up, at every side it takes."""
    autoencoder, images = _built(case)
    for given in (images, _odd(case, autoencoder)):
        try:
            latents, _ = autoencoder.encode(given)
        except ValueError:
            expect(given is not images, f"{list(given.shape)} is refused, though its sides divide")
            continue
        height, width = latent_size((given.shape[2], given.shape[3]), autoencoder.downscale)
        wanted = [len(given), autoencoder.latent_channels, height, width]
        expect(list(latents.shape) == wanted, f"latents are {list(latents.shape)}, declared are {wanted}")


def _odd(case: Case, autoencoder: Autoencoder) -> Tensor:
    """Return an image whose height divides by nothing but 3 and 9."""
    return case.images((1, _channels(case, autoencoder), ODD, case.draw(strategies.sides(25, 31), "width")))


@contract.check
def odd_sizes(case: Case) -> None:
    """A size that is not legal is refused with ``ValueError``, or comes back as it was."""
    autoencoder = set_mode(case.copy(), training=False)
    images = _odd(case, autoencoder)
    try:
        decoded = autoencoder.decode(autoencoder.encode(images)[0])
    except ValueError:
        return
    expect(decoded.shape == images.shape, f"{list(images.shape)} comes back as {list(decoded.shape)}")


@contract.check
def forward_agrees(case: Case) -> None:
    """``forward`` is ``encode`` then ``decode``: what is trained is what is used, by itself or after it."""
    autoencoder, images = _built(case)
    encoded, own = autoencoder.encode(images)
    reconstruction, latents, losses = autoencoder(images)
    expect_close(latents, encoded, "forward's latents are not encode's")
    expect_close(reconstruction, autoencoder.decode(encoded), "forward is not decode(encode(x))", rtol=1e-3)
    expect(losses.keys() == own.keys(), f"losses of forward {list(losses)}, of encode {list(own)}")
    for name, loss in losses.items():
        expect_close(loss, own[name], f"{name} of forward is not encode's")


@contract.check
def indices_agree(case: Case) -> None:
    """``encode_with_indices`` gives the latents and losses of ``encode``, and each image's own indices."""
    autoencoder, images = _built(case)
    if not hasattr(autoencoder, "encode_with_indices"):
        raise Skip("it has no encode_with_indices")
    images = torch.cat([images[:1], -images[:1]])
    set_mode(autoencoder, training=True)(images)  # some place their codes on the first batch
    set_mode(autoencoder, training=False)
    latents, losses, indices = autoencoder.encode_with_indices(images)
    wanted, of_encode = autoencoder.encode(images)
    expect_close(latents, wanted, "encode_with_indices gives other latents than encode")
    named = f"losses of encode_with_indices {list(losses)}, of encode {list(of_encode)}"
    expect(losses.keys() == of_encode.keys(), named)
    expect(not indices.is_floating_point(), f"indices are {indices.dtype}")
    grid = (len(images), *latents.shape[-2:])
    expect((len(indices), *indices.shape[-2:]) == grid, f"indices are {list(indices.shape)}")
    own, other = (autoencoder.encode_with_indices(one)[2] for one in images.split(1))
    same, swapped = (int((indices[:1] == alone).sum()) for alone in (own, other))  # rounding may flip a few
    expect(same >= swapped, "in a batch, images get the indices of others")


@contract.check
def losses_are_weighted_scalars(case: Case) -> None:
    """Its own losses are named, finite scalars, not below zero: the trainer adds them up as they are.

    A loss of eval mode is there in training too, where it is minimised, with a gradient.
    """
    autoencoder, images = _built(case)
    both = torch.cat([images, images.flip(0)])
    watched = autoencoder(both)[2]
    check_losses(watched)
    trained = set_mode(autoencoder, training=True)(both)[2]
    check_losses(trained)
    missing = sorted(watched.keys() - trained.keys())
    expect(not missing, f"{', '.join(missing)}: of eval mode only, so that nothing minimises it")
    if trainable(autoencoder):
        vain = [name for name, loss in trained.items() if loss.item() > 0 and not loss.requires_grad]
        expect(not vain, f"{', '.join(vain)}: it has no gradient, so that nothing minimises it")


@contract.check
def losses_averaged(case: Case) -> None:
    """Its own losses are means over the batch: twice the same images cost what they cost once."""
    autoencoder, images = _built(case)
    once, twice = (autoencoder(x)[2] for x in (images, torch.cat([images, images])))
    for name, loss in once.items():
        expect_close(twice[name], loss, f"{name} changes with the size of the batch", rtol=1e-3, atol=0.0)


@contract.check
def decodes_any_latents(case: Case) -> None:
    """``decode`` takes latents that no image gave, as a sampler's are, and needs nothing but them."""
    autoencoder = set_mode(case.copy(), training=False)
    down, (height, width) = autoencoder.downscale, _legal(autoencoder)
    width = width if getattr(autoencoder, "size", None) else 2 * width
    latents = case.normal(2, autoencoder.latent_channels, height // down, width // down, salt=1)
    decoded = autoencoder.decode(latents)
    channels = _channels(case, autoencoder)
    wanted = [2, channels, height, width]
    expect(
        list(decoded.shape) == wanted, f"{list(latents.shape)} decodes to {list(decoded.shape)}, not {wanted}"
    )
    expect_finite(decoded, "what is decoded")
    autoencoder.encode(case.images((2, channels, height, width)))
    expect_close(autoencoder.decode(latents), decoded, "what latents decode to changes with what was encoded")


@contract.check
def reconstruction_reaches_encoder(case: Case) -> None:
    """The gradient of the reconstruction alone reaches the image, each channel: no cut lies between."""
    autoencoder, images = _built(case)
    given = images.clone().requires_grad_()
    both = torch.cat([given, given.flip(-1)])
    latents, losses = set_mode(autoencoder, training=True).encode(both.detach())
    if trainable(autoencoder) and not any(x.requires_grad for x in (latents, *losses.values())):
        raise Skip("its encoder has nothing to train")
    reconstruction = autoencoder(both)[0]
    weights = case.normal(*reconstruction.shape, salt=1)
    expect(reconstruction.requires_grad, "the reconstruction has no gradient")
    (gradient,) = torch.autograd.grad((reconstruction * weights).sum(), given, allow_unused=True)
    reached = gradient is not None and bool(gradient.abs().sum() > 0)
    expect(reached, "no gradient passes from decoder to encoder")
    if gradient is not None:
        expect_finite(gradient, "the gradient of the image")
        for channel, amount in enumerate(gradient.abs().sum((0, 2, 3)).tolist()):
            expect(amount > 0, f"channel {channel} of the image has no part in the reconstruction")


@contract.check
def last_layer_is_last(case: Case) -> None:
    """``last_layer`` is a weight that the reconstruction hangs on, and no other weight comes after it."""
    autoencoder, images = _built(case)
    if not hasattr(autoencoder, "last_layer"):
        raise Skip("it names no last_layer")
    layer = autoencoder.last_layer
    expect(isinstance(layer, Tensor), f"last_layer is {type(layer).__name__}, not the weight itself")
    given = images.clone().requires_grad_()
    reconstruction = set_mode(autoencoder, training=True)(torch.cat([given, given]))[0]
    weighted = (reconstruction * case.normal(*reconstruction.shape, salt=1)).sum()
    grows = layer.requires_grad and weighted.requires_grad
    gradient = (
        torch.autograd.grad(weighted, layer, retain_graph=True, allow_unused=True)[0] if grows else None
    )
    reached = gradient is not None and bool(gradient.abs().sum() > 0)
    expect(reached, "the reconstruction's gradient does not reach last_layer")
    weights = {p for p in trainable(autoencoder) if sum(side > 1 for side in p.shape) > 1} - {layer}
    after = _passes(weights, on_the_way={layer, given}, output=weighted)
    expect(not after, "another weight comes after last_layer")


def _passes(weights: set[nn.Parameter], on_the_way: set[Tensor], output: Tensor) -> bool:
    """Return whether one of the weights is taken in where what hangs on all of ``on_the_way`` already flows.

    That is a node of the graph that has all of them among its leaves, and an argument made of weights alone.
    """
    leaves: dict[Any, set[Tensor]] = {}
    pending: list[Any] = [output.grad_fn]
    while pending:
        arguments = [child for child, _ in pending[-1].next_functions if child is not None]
        if missing := [child for child in arguments if child not in leaves]:
            pending += missing
            continue
        node = pending.pop()
        own = {node.variable} if hasattr(node, "variable") else set()
        leaves[node] = own.union(*(leaves[child] for child in arguments))
        taken_in = any(leaves[child] and leaves[child] <= weights for child in arguments)
        if taken_in and any(on_the_way <= leaves[child] for child in arguments):
            return True
    return False


@contract.check
def whole_range(case: Case) -> None:
    """It can be taught black (-1) and white (1), and colours: images are in [-1, 1], of several channels."""
    if case.subject.inferred("in_channels"):
        case.drawn["in_channels"] = 3
    size = _legal(_built(case)[0])
    for value in (-1.0, 1.0):
        autoencoder = case.copy()
        images = torch.full((2, _channels(case, autoencoder), *size), value)
        images[:, 1::2] *= -1
        images += 0.01 * case.normal(*images.shape)
        errors = _fit(autoencoder, images, steps=40, lr=1e-2, enough=0.2)
        what = f"images of {value:g}" + (f" and {-value:g} by channel" if images.shape[1] > 1 else "")
        expect(min(errors) < 0.5, f"{what} are not learned: the error stays at {min(errors):.3g}")


def _fit(autoencoder: Autoencoder, images: Tensor, steps: int, lr: float, enough: float = 0.0) -> list[float]:
    """Train on one batch, and return the mean squared error of each step; of one, with nothing to train."""
    parameters = trainable(set_mode(autoencoder, training=True))
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
