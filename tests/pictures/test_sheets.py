"""Sheets, animations and figures of images of any number of channels and any shape."""

import numpy as np
import pytest
import torch
from PIL import Image

from uldm_plugins.pictures.animations import save_animation
from uldm_plugins.pictures.perceptual import save_heat_maps
from uldm_plugins.pictures.reconstructions import THUMB, save_summary, save_triptych, triptych
from uldm_plugins.pictures.sheets import coloured, enlarged, side_by_side


@pytest.fixture(params=[1, 2, 3, 4, 7])
def image(request):
    return torch.randint(256, (request.param, 6, 10), dtype=torch.uint8)


def test_an_image_is_enlarged_by_a_whole_factor(image):
    shown = coloured(image)
    picture = enlarged(image, 20)
    assert picture.size == (3 * shown.shape[2], 18) and picture.mode == "RGB"
    assert np.array_equal(np.asarray(picture)[::3, ::3], shown.permute(1, 2, 0))


def test_images_of_any_kind_stand_side_by_side(image):
    codes = torch.zeros(3, 6, 4, dtype=torch.uint8)
    joined = side_by_side([image, codes], gap=2)
    shown = coloured(image)
    assert joined.shape == (3, 6, shown.shape[2] + 2 + 4) and joined[..., : shown.shape[2]].equal(shown)


def test_sheets_and_animations_take_any_image(image, tmp_path):
    pictures = triptych(image, image, torch.zeros(2, 3, 5, dtype=torch.long), 4)
    save_triptych(pictures, ["a"] * len(pictures), tmp_path / "one.png", "title")
    save_summary([pictures] * 3, ["a", "b", "c"], tmp_path / "all.png", "title")
    with Image.open(tmp_path / "all.png") as sheet:
        assert sheet.width < 1400 + side_by_side(pictures).shape[2] * THUMB / 6
    frames = torch.stack([image, 255 - image]).unsqueeze(1)
    save_animation(frames, ["a", "b"], tmp_path / "moving.gif", height=24)
    with Image.open(tmp_path / "moving.gif") as moving:
        assert moving.n_frames == 2 and moving.height >= 24


def test_distances_are_drawn_over_any_image(tmp_path):
    images, maps = torch.randint(256, (2, 4, 6, 8), dtype=torch.uint8), [torch.rand(6, 8)]
    save_heat_maps(images, ["a", "b"], maps, ["c"], tmp_path / "a.png", title="d", overlay=True)
    assert (tmp_path / "a.png").stat().st_size > 1000
