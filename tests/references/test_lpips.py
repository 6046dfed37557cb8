"""LPIPS against the package that its authors published, on a shared random trunk."""

import warnings
from copy import deepcopy
from functools import cache
from pathlib import Path

import lpips
import pytest
import torch
from safetensors.torch import load_file
from torchvision import models

from uldm_core import registry

TRUNKS = {"vgg16": "vgg", "alexnet": "alex", "squeezenet": "squeeze"}


@cache  # torchvision draws 120 million weights of VGG16's classifier each time, which nothing here uses
def theirs_of(name, spatial=False):
    with warnings.catch_warnings():  # lpips calls torchvision in an old way
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net=TRUNKS[name], pnet_rand=True, spatial=spatial, verbose=False).eval()


def sharing(name, spatial=False, **options):
    """Return ours and theirs on one random trunk; ours are new, theirs are shared."""
    ours = registry.build("loss", "lpips", backbone={"use": name, "weights": "random"}, **options)
    theirs = theirs_of(name, spatial)
    for index, stage in enumerate(ours.backbone.stages):
        for own, copy in zip(stage, getattr(theirs.net, f"slice{index + 1}"), strict=True):
            copy.load_state_dict(own.state_dict())
    return ours, theirs


def pair(side=64, count=2, channels=3):
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(2, count, channels, side, side, generator=generator) * 2 - 1).unbind()


@pytest.mark.parametrize("name", TRUNKS)
def test_values_are_equal(name):
    ours, theirs = sharing(name)
    first, second = pair()
    with torch.no_grad():
        expected = theirs(first, second)
        assert expected.shape == ours.distances(first, second).shape == (2, 1, 1, 1)
        torch.testing.assert_close(ours.distances(first, second), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours(first, second), expected.mean(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TRUNKS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_gradients_are_equal(name, dtype, tolerance):
    """To a share of the largest: in float32 what is left is rounding, as float64 shows."""
    ours, theirs = (deepcopy(network).to(dtype) for network in sharing(name))
    first, second = (images.to(dtype) for images in pair())
    gradients = []
    for call in (ours.distances, theirs):
        given = first.clone().requires_grad_()
        call(given, second).sum().backward()
        gradients.append(given.grad)
    largest = gradients[1].abs().max()
    assert 1e-6 < largest < 0.3
    torch.testing.assert_close(gradients[0] / largest, gradients[1] / largest, rtol=0, atol=tolerance)


def test_under_autocast_only_the_trunk_loses_digits():
    ours, _ = sharing("alexnet")
    first, second = pair()
    with torch.autocast("cpu", torch.bfloat16):
        assert {layer.dtype for layer in ours.backbone(first)} == {torch.bfloat16}
        assert ours.distances(first, second).dtype == ours.maps(first, second).dtype == torch.float32


def test_maps_are_the_spatial_ones():
    ours, theirs = sharing("squeezenet", spatial=True)
    first, second = pair(side=48)
    with torch.no_grad():
        torch.testing.assert_close(ours.maps(first, second), theirs(first, second), rtol=0, atol=1e-6)


def test_normalize_takes_images_from_zero_to_one():
    ours, theirs = sharing("alexnet", normalize=True)
    first, second = ((images + 1) / 2 for images in pair())
    with torch.no_grad():
        expected = theirs(first, second, normalize=True)
        torch.testing.assert_close(ours.distances(first, second), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TRUNKS)
def test_the_shipped_heads_are_the_published_ones(name):
    theirs = theirs_of(name)
    ours = registry.build("loss", "lpips", backbone={"use": name, "weights": "random"})
    for index, head in enumerate(theirs.lins):
        assert torch.equal(getattr(ours, f"head_{index}"), head.model[-1].weight.data)
    shipped = Path(__file__).parents[2] / "uldm_plugins/nn/weights/lpips_heads.safetensors"
    assert all((head >= 0).all() for head in load_file(shipped).values())


@pytest.mark.parametrize("name", TRUNKS)
def test_trunks_are_torchvisions(name, tmp_path):
    from safetensors.torch import save_file

    reference = getattr(models, {"squeezenet": "squeezenet1_1"}.get(name, name))(weights=None).eval()
    features = {f"features.{name}": value for name, value in reference.features.state_dict().items()}
    save_file(features, tmp_path / "w.safetensors")
    ours = registry.build("backbone", name, weights=str(tmp_path / "w.safetensors"))
    images = pair()[0]
    with torch.no_grad():
        maps = (images - ours.shift) / ours.scale
        for index, layer in enumerate(reference.features[: ours.cuts[-1]]):
            if index in ours.cuts[1:]:
                found = ours(images)[ours.cuts.index(index) - 1]
                torch.testing.assert_close(found, maps, rtol=1e-5, atol=1e-6)
            maps = layer(maps)
        torch.testing.assert_close(ours(images)[-1], maps, rtol=1e-5, atol=1e-6)
