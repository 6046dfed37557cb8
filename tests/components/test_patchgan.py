"""PatchGAN: the layout, its shapes, and the receptive field it claims."""

import pytest
import torch
from torch import nn

from uldm_core import MistakeError, registry


def support(discriminator: nn.Module, channels: int, size: int) -> int:
    """Measure how many pixels across the middle logit's gradient reaches."""
    images = torch.zeros(1, channels, size, size, requires_grad=True)
    logits = discriminator(images)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    touched = images.grad.abs().sum((0, 1, 2)).nonzero()
    return int(touched.max() - touched.min() + 1)


@pytest.mark.parametrize(("size", "patches"), [(64, 7), (28, 2)])
def test_default_layout_gives_the_known_patch_grids(size, patches):
    logits = registry.build("discriminator", "patchgan")(torch.zeros(2, 3, size, size))
    assert logits.shape == (2, 1, patches, patches)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, 46),
        (
            {
                "channels": [4, 8, 16, 32],
                "kernels": [4] * 5,
                "strides": [2, 2, 2, 1, 1],
                "paddings": [1] * 5,
            },
            70,
        ),
        ({"channels": [4], "kernels": [3, 5], "strides": [2, 1], "paddings": [0, 0]}, 11),
    ],
)
def test_receptive_field_is_what_the_gradient_reaches(options, field):
    torch.manual_seed(0)
    discriminator = registry.build("discriminator", "patchgan", in_channels=1, **options).eval()
    assert discriminator.receptive_field == field
    assert support(discriminator, 1, 160) == field


def test_bias_stands_on_the_first_and_last_convolution_only():
    network = registry.build("discriminator", "patchgan")
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [c.bias is not None for c in convolutions] == [True, False, False, True]
    assert [c.out_channels for c in convolutions] == [64, 128, 256, 1]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [norm.num_features for norm in norms] == [128, 256]
    slopes = [m.negative_slope for m in network.modules() if isinstance(m, nn.LeakyReLU)]
    assert slopes == [0.2] * 3


@pytest.mark.parametrize("name", ["kernels", "strides", "paddings"])
def test_lists_of_other_length_are_refused_by_name(name):
    with pytest.raises(MistakeError, match=f"{name} has 3 values"):
        registry.build("discriminator", "patchgan", **{name: [4, 4, 4]})
