"""Augmentations against torchvision's functionals, image by image."""

import pytest
import torch
from torchvision.transforms.v2 import functional

from uldm_core import MistakeError, registry

COUNT = 12


def images(channels, height=13, width=18):
    """Return smooth images, of which the last is black and the one before it white."""
    generator = torch.Generator().manual_seed(0)
    coarse = 255 * torch.rand(COUNT, channels, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255)
    smooth[-2:] = torch.tensor([255.0, 0.0]).view(-1, 1, 1, 1)
    return smooth.round().to(torch.uint8)


def drawn(augmentation):
    return augmentation.draw(COUNT, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_flips(channels):
    flip = registry.build("augmentation", "flip", vertical=True)
    given, parameters = images(channels), drawn(flip)
    for image, mirrored, (across, down) in zip(given, flip(given, parameters), parameters.tolist()):
        image = functional.hflip(image) if across else image
        assert torch.equal(mirrored, functional.vflip(image) if down else image)
    assert len(parameters.unique(dim=0)) == 4


def test_translations_are_windows_of_the_image_reflected_at_its_borders():
    translate = registry.build("augmentation", "translate", share=0.25, probability=0.9)
    given, parameters = images(3), drawn(translate)
    height, width = given.shape[2:]
    down, right = (parameters * 0.25 * torch.tensor([height, width])).round().int().T.tolist()
    for image, shifted, y, x in zip(given, translate(given, parameters), down, right):
        padded = functional.pad(image, [8, 8], padding_mode="reflect")
        assert torch.equal(shifted, functional.crop(padded, 8 - y, 8 - x, height, width))
    assert min(down) < 0 < max(down) and min(right) < 0 < max(right)


def test_parts_are_enlarged_bilinearly():
    crop = registry.build("augmentation", "crop_jitter", smallest=0.5, probability=0.9)
    given, parameters = images(3), drawn(crop)
    height, width = given.shape[2:]
    sizes = set()
    for image, enlarged, (zoom, y, x) in zip(given, crop(given, parameters), parameters.tolist()):
        h, w = round((1 - zoom / 2) * height), round((1 - zoom / 2) * width)
        top, left = round((height - h) * (y + 1) / 2), round((width - w) * (x + 1) / 2)
        wanted = functional.resized_crop(image.float(), top, left, h, w, [height, width], antialias=False)
        assert (enlarged - wanted).abs().max() <= 0.5 + 1e-3
        sizes.add((h, w))
    assert len(sizes) > 4


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colours(channels):
    color = registry.build(
        "augmentation", "color", brightness=0.5, contrast=0.4, saturation=0.9, probability=0.9
    )
    given, parameters = images(channels), drawn(color)
    changed = color(given, parameters)
    for image, other, (brightness, contrast, saturation) in zip(given, changed, parameters.tolist()):
        wanted = functional.adjust_brightness(image[:3] / 255, 1 + 0.5 * brightness)
        wanted = functional.adjust_contrast(wanted, 1 + 0.4 * contrast)
        wanted = functional.adjust_saturation(wanted, 1 + 0.9 * saturation)
        assert (other[:3] - 255 * wanted).abs().max() <= 0.5 + 1e-3
    assert torch.equal(changed[:, 3:], given[:, 3:])
    assert not torch.equal(changed, given)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_hues_are_rotations_around_the_axis_of_greys(channels):
    color = registry.build(
        "augmentation", "color", brightness=0.0, contrast=0.0, saturation=0.0, hue=0.8, probability=0.9
    )
    given, parameters = images(channels), drawn(color)
    changed = color(given, parameters)
    if channels == 1:
        assert torch.equal(changed, given)
        return
    axis = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]).double() / 3**0.5
    for image, other, (hue,) in zip(given[:, :3].double(), changed, parameters.tolist()):
        rotated = torch.einsum("ij,jhw->ihw", torch.matrix_exp(0.8 * torch.pi * hue * axis), image)
        assert (other[:3] - rotated.clamp(0, 255)).abs().max() <= 0.5 + 1e-3
    assert torch.equal(changed[:, 3:], given[:, 3:])
    assert (changed[:-2, :3] != given[:-2, :3]).any() and torch.equal(changed[-2:, :3], given[-2:, :3])


def test_a_third_of_a_turn_of_hue_exchanges_the_colours():
    color = registry.build("augmentation", "color", hue=1.0)
    red = torch.tensor([200, 30, 90], dtype=torch.uint8).view(1, 3, 1, 1)
    turned = color(red, torch.tensor([[0.0, 0.0, 0.0, 2 / 3]]))
    assert turned.flatten().tolist() == [90, 200, 30]


def test_an_order_is_applied_as_written():
    parts = [
        registry.build("augmentation", name, **options)
        for name, options in (("flip", {}), ("translate", {"probability": 0.9}))
    ]
    both = registry.build("augmentation", "compose", of=parts)
    given, parameters = images(3), drawn(both)
    mirrored = parts[0](given, parameters[:, :1])
    assert torch.equal(both(given, parameters), parts[1](mirrored, parameters[:, 1:]))
    assert both.parameters == 3 and not both.leaks


def test_flips_in_an_order_have_all_their_variants_and_leak():
    flips = [{"use": "flip"}, {"use": "flip", "horizontal": False, "vertical": True}]
    both = registry.build("augmentation", "compose", of=flips)
    assert both.variants.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]] and both.leaks
    assert not registry.build("augmentation", "compose", of=flips, leaks=False).leaks


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("flip", {"horizontal": False}, "nothing would be mirrored"),
        ("color", {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}, "nothing would change"),
    ],
)
def test_what_would_change_nothing_is_refused(name, options, message):
    with pytest.raises(MistakeError, match=message):
        registry.build("augmentation", name, **options)


def test_colours_of_two_channels_are_refused():
    color = registry.build("augmentation", "color")
    with pytest.raises(ValueError, match="of 1, 3 or 4 channels, not of 2"):
        color(images(2), drawn(color))
