"""Discriminators against their published layouts."""

import pytest
import torch
from torch import nn

from uldm_core import registry


def taming(in_channels=3, width=64, layers=3):
    """The published layout of NLayerDiscriminator, written out; no package on the index holds it."""
    blocks = [nn.Conv2d(in_channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    for n in range(1, layers + 1):
        before, after = width * min(2 ** (n - 1), 8), width * min(2**n, 8)
        blocks += [nn.Conv2d(before, after, 4, 2 if n < layers else 1, 1, bias=False)]
        blocks += [nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*blocks, nn.Conv2d(width * min(2**layers, 8), 1, 4, 1, 1))


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_n_layers_computes_what_taming_computes(layers):
    ours = registry.build("discriminator", "patchgan_n_layers", width=8, num_layers=layers)
    theirs = taming(width=8, layers=layers)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.rand(2, 3, 96, 96) * 2 - 1
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_three_layers_have_the_known_size():
    pix2pix = registry.build("discriminator", "patchgan_n_layers", in_channels=6)
    assert sum(p.numel() for p in pix2pix.parameters()) == 2_768_705  # it prints "2.769 M"
    network = registry.build("discriminator", "patchgan_n_layers")
    assert network.receptive_field == 70
    assert network(torch.zeros(2, 3, 28, 28)).shape == (2, 1, 1, 1)


def test_its_weights_start_small():
    network = registry.build("discriminator", "patchgan_n_layers")
    assert network.blocks[2][0].weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_multi_scale_is_the_mean_of_its_scales():
    network = registry.build("discriminator", "multi_scale", in_channels=1).eval()
    images = torch.rand(2, 1, 28, 28)
    fine, coarse = network.scales
    small = nn.AvgPool2d(3, 2, 1, count_include_pad=False)(images)
    assert network(images).shape == (2, 1, 6, 6)
    expected = (fine(images).mean() + coarse(small).mean()) / 2
    assert coarse(small).shape == (2, 1, 2, 2)  # divides 6x6: every coarse patch counts alike
    assert network(images).mean().item() == pytest.approx(expected.item(), abs=1e-6)
