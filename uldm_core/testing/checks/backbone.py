"""The contract of backbones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from uldm_core.protocols import Backbone
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import expect, expect_close, expect_finite
from uldm_core.testing.images import accepted, check_refused
from uldm_core.testing.tensors import as_module, copy_of_state

SIZES = ((32, 32), (28, 40), (40, 28), (33, 47), (37, 29))
LARGER = tuple((side, side) for side in (64, 128, 224, 256, 299))


def _sizes(case: Case, backbone: Backbone) -> list[tuple[int, int]]:
    """Return heights and widths that the backbone takes."""

    def call(*size: int) -> None:
        backbone(torch.zeros(1, 3, *size))

    def found() -> Iterator[list[tuple[int, int]]]:
        smallest = getattr(backbone, "smallest_size", 1)
        likely = [(max(height, smallest), max(width, smallest)) for height, width in SIZES]
        with torch.no_grad():
            try:
                yield accepted(call, likely)
            except ValueError:
                yield accepted(call, LARGER)

    taken: list[tuple[int, int]] = case.subject.found("sizes", found(), len)
    return taken


def _images(case: Case, backbone: Backbone) -> tuple[Tensor]:
    size = case.draw(st.sampled_from(_sizes(case, backbone)), "size")
    channels = case.draw(st.sampled_from((1, 3)), "channels")
    return (case.images((case.batch(), channels, *size)),)


contract = Contract(inputs=_images)


def _built(case: Case) -> tuple[Backbone, Tensor]:
    backbone = case.copy()
    return backbone, *_images(case, backbone)


@contract.check
def feature_maps(case: Case) -> None:
    """A tuple of maps [B, channels[i], h, w], as many as ``channels``, finest first, for grey and RGB.

    Images may be odd, and need not be square; a size that it cannot take is refused with a ``ValueError``.
    """
    backbone = case.copy()
    for number, size in enumerate(_sizes(case, backbone)):
        _expect_maps(backbone, case.images((1 + number % 2, 3 if number % 2 else 1, *size)))


def _expect_maps(backbone: Backbone, images: Tensor) -> None:
    maps = backbone(images)
    of_what = f"of images {list(images.shape)}"
    expect(isinstance(maps, tuple), f"the maps come as {type(maps).__name__}, not as a tuple")
    expect(all(features.ndim == 4 for features in maps), "maps are not [B, C, h, w]")
    found = [tuple(features.shape[:2]) for features in maps]
    wanted = [(len(images), channels) for channels in backbone.channels]
    expect(found == wanted, f"maps {of_what} have batch and channels {found}, declared are {wanted}")
    areas = [features.shape[2] * features.shape[3] for features in maps]
    expect(areas == sorted(areas, reverse=True), f"maps {of_what} are not finest first: {areas} positions")
    for index, features in enumerate(maps):
        expect_finite(features, f"map {index} {of_what}")


@contract.check
def small_images_refused(case: Case) -> None:
    """Images smaller than ``smallest_size``, where it declares one, are refused with a ``ValueError``."""
    backbone = case.copy()

    def call(height: int, width: int) -> None:
        _expect_maps(backbone, case.images((1, 3, height, width)))

    check_refused(getattr(backbone, "smallest_size", None), call)


@contract.check
def whole_range(case: Case) -> None:
    """Dark images differ from each other, and bright ones: it takes [-1, 1], and clips neither half away."""
    backbone, images = _built(case)
    half = (images - images.amin()) / (images.amax() - images.amin()).clamp(min=1e-6)
    for name, shown in (("dark", -0.1 - 0.9 * half), ("bright", 0.1 + 0.9 * half)):
        flat = shown.mean((2, 3), keepdim=True).expand_as(shown)
        differ = any(not torch.equal(a, b) for a, b in zip(backbone(shown), backbone(flat), strict=True))
        expect(differ, f"all {name} images have the same maps: images are in [-1, 1]")


@contract.check
def any_grad_mode(case: Case) -> None:
    """Used to measure first, under ``inference_mode`` and ``no_grad``, it passes gradients after that."""
    backbone, images = _built(case)
    wanted = backbone(images.clone().requires_grad_())
    backbone = case.copy()
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            measured = backbone(images)
        expect(
            not any(features.requires_grad for features in measured), "its maps have a graph under no_grad"
        )
        for one, other in zip(measured, wanted, strict=True):
            expect_close(one, other, f"under {mode.__name__} its maps are others", rtol=1e-3, atol=1e-4)
    given = images.clone().requires_grad_()
    features = backbone(given)[-1]
    if features.requires_grad:
        features.sum().backward()


@contract.check
def frozen(case: Case) -> None:
    """No parameter requires grad, and train mode, its owner's too, changes neither outputs nor buffers."""
    backbone, images = _built(case)
    module = as_module(backbone)
    free = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    expect(not free, f"{', '.join(free[:3])} require grad")
    owner = nn.ModuleList([module])
    owner.eval()
    state = copy_of_state(module)
    wanted = backbone(images)
    owner.train()
    torch.manual_seed(5)
    for one, other in zip(backbone(images), wanted, strict=True):
        expect_close(one, other, "its output changes in train mode", rtol=0)
    for name, tensor in module.state_dict().items():
        expect(torch.equal(tensor, state[name]), f"{name} changes in train mode")


@contract.check
def grey_is_rgb(case: Case) -> None:
    """A grey image gives the maps of the image whose three channels all equal it."""
    backbone, images = _built(case)
    grey = images[:, :1]
    for one, other in zip(backbone(grey), backbone(grey.expand(-1, 3, -1, -1)), strict=True):
        expect_close(one, other, "a grey image is not seen as its three equal channels", rtol=1e-3, atol=1e-4)


@contract.check
def passes_gradients(case: Case) -> None:
    """Gradients pass through every map to the images, though none stays in the network."""
    backbone, images = _built(case)
    for index in range(len(backbone.channels)):
        given = images.clone().requires_grad_()
        features = backbone(given)[index]
        expect(features.requires_grad, f"map {index} has no gradient")
        (features * case.normal(*features.shape, salt=index + 1)).sum().backward()
        expect(given.grad is not None and bool(given.grad.abs().sum() > 0), f"map {index} passes no gradient")
        expect_finite(torch.zeros(1) if given.grad is None else given.grad, f"the gradient of map {index}")
