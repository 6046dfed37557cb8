"""The contract of backbones."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from uldm_core.testing import strategies
from uldm_core.testing.case import Case
from uldm_core.testing.contract import NOT_A_MODULE, Contract, Skip, expect, expect_close, expect_finite

SIDES = (32, 28, 40)


def _images(case: Case, backbone: Any) -> tuple[Tensor]:
    smallest = getattr(backbone, "smallest_size", 1)
    sides = st.sampled_from([max(side, smallest) for side in SIDES])
    channels = strategies.channel_counts()
    shape = case.draw(strategies.image_shapes(channels, sides, sides, strategies.batch_sizes(1, 3)), "shape")
    return (case.images(shape),)


contract = Contract(inputs=_images)


def _built(case: Case) -> tuple[Any, Tensor]:
    backbone = case.build()
    return backbone, *_images(case, backbone)


@contract.check
def feature_maps(case: Case) -> None:
    """A tuple of maps [B, channels[i], h, w], as many as ``channels``, finest first, for grey and RGB."""
    backbone, images = _built(case)
    maps = backbone(images)
    expect(isinstance(maps, tuple), f"the maps come as {type(maps).__name__}, not as a tuple")
    found = [tuple(features.shape[:2]) for features in maps]
    wanted = [(len(images), channels) for channels in backbone.channels]
    expect(found == wanted, f"maps have batch and channels {found}, declared are {wanted}")
    areas = [features.shape[2] * features.shape[3] for features in maps]
    expect(areas == sorted(areas, reverse=True), f"maps are not finest first: {areas} positions")
    for index, features in enumerate(maps):
        expect_finite(features, f"map {index}")


@contract.check
def frozen(case: Case) -> None:
    """No parameter requires grad, and train mode, its owner's too, changes neither outputs nor buffers."""
    backbone, images = _built(case)
    if not isinstance(backbone, nn.Module):
        raise Skip(NOT_A_MODULE)
    free = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    expect(not free, f"{', '.join(free[:3])} require grad")
    owner = nn.ModuleList([backbone])
    owner.eval()
    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    wanted = backbone(images)
    owner.train()
    torch.manual_seed(5)
    for one, other in zip(backbone(images), wanted, strict=True):
        expect_close(one, other, "its output changes in train mode", rtol=0)
    for name, tensor in backbone.state_dict().items():
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
