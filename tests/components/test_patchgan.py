"""PatchGAN: the layout, its shapes, and the receptive field it claims."""

import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from uldm_core import MistakeError, Recipe, registry
from uldm_core.preflight.preflight import preflight


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


LAYERS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2)), min_size=2, max_size=4)


@settings(max_examples=30)
@given(LAYERS)
def test_the_smallest_size_is_the_least_that_torch_takes(layers):
    kernels, strides, paddings = (list(values) for values in zip(*layers))
    layout = {"kernels": kernels, "strides": strides, "paddings": paddings}
    network = registry.build("discriminator", "patchgan", channels=[1] * (len(layers) - 1), **layout).eval()
    side = network.smallest_size
    assert min(network(torch.zeros(1, 3, side, side + 1)).shape) == 1
    if side > 1:
        with pytest.raises(RuntimeError, match="size"):
            network.blocks(torch.zeros(1, 3, side, side - 1))


@pytest.mark.parametrize(
    ("name", "side", "option"),
    [
        ("patchgan", 16, "channels"),
        ("patchgan_n_layers", 24, "num_layers"),
        ("multi_scale", 15, "num_scales"),
    ],
)
def test_images_that_are_too_small_are_refused_with_the_option_to_change(tmp_path, name, side, option):
    network = registry.build("discriminator", name).eval()
    assert network.smallest_size == side and network(torch.zeros(1, 3, side, side)).shape[:2] == (1, 1)
    size = side - 1
    path = tmp_path / "small.toml"
    path.write_text(f"""
uldm = 1
dataset = {{ use = "synthetic", size = {size} }}
autoencoder = "identity"

[discriminator]
use = "{name}"

[stages.first]
use = "train_autoencoder"
adversarial = "hinge"
""")
    (problem,) = [
        problem for problem in preflight(Recipe.load(path).resolve(), 20).problems if not problem.warning
    ]
    assert problem.where.line == 6
    refusal = f"images of {side}x{side} or more, not {size}x{size}: give a dataset of size >= {side}, or "
    assert refusal in problem.what and option in problem.what


@pytest.mark.parametrize(("name", "least"), [("patchgan", 4), ("patchgan_n_layers", 6), ("multi_scale", 4)])
def test_the_options_that_are_named_for_small_images_take_them(name, least):
    network = registry.build("discriminator", name)
    assert not network.for_side(least - 1)
    for side in range(least, network.smallest_size):
        named = re.findall(r"(\w+) = (\d+|\[.*?\])", network.for_side(side))
        options = {option: json.loads(value) for option, value in named}
        suited = registry.build("discriminator", name, **options).eval()
        assert suited(torch.zeros(1, 3, side, side + 5)).shape[:2] == (1, 1)
