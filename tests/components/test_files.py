"""Image files as they come: transparent, turned, of sixteen bits, in a palette."""

import numpy as np
import pytest
import torch
from PIL import Image

from uldm_plugins.nn.files import image_shape, read_image, read_square


@pytest.fixture
def ramp():
    return np.linspace(0, 255, 20, dtype=np.uint8)[None].repeat(10, 0)


def test_an_image_keeps_its_size_and_channels_unless_told(tmp_path, ramp):
    Image.fromarray(ramp).save(tmp_path / "a.png")
    grey = torch.from_numpy(ramp)
    assert torch.equal(read_image(tmp_path / "a.png"), grey[None])
    assert torch.equal(read_image(tmp_path / "a.png", channels=3), grey.expand(3, -1, -1))
    assert read_image(tmp_path / "a.png", size=7).shape == (1, 7, 7)
    Image.fromarray(ramp).convert("RGB").save(tmp_path / "b.png")
    assert torch.equal(read_image(tmp_path / "b.png"), grey.expand(3, -1, -1))
    assert torch.equal(read_image(tmp_path / "b.png", channels=1), grey[None])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_laid_on_white(tmp_path, mode):
    image = Image.new("RGBA", (4, 2), (10, 10, 10, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    (image if mode == "RGBA" else image.convert(mode)).save(tmp_path / "a.png")
    grey = read_image(tmp_path / "a.png", channels=1)[0]
    assert grey[0, 0] == 255 and grey[1, 3] == 10
    assert mode == "P" or 126 <= grey[0, 1] <= 128
    assert read_square(tmp_path / "a.png", 2, 3).max() > 50
    assert image_shape(tmp_path / "a.png") == (1 if mode == "LA" else 3, 2, 4)


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_an_image_is_turned_as_its_exif_says(tmp_path, ramp, ending):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(ramp).save(tmp_path / f"a.{ending}", exif=exif, quality=95)
    found = read_image(tmp_path / f"a.{ending}")
    assert found.shape == (1, 20, 10) == image_shape(tmp_path / f"a.{ending}")
    assert found[0, -1].float().mean() - found[0, 0].float().mean() > 240


def test_sixteen_bits_keep_their_upper_half(tmp_path, ramp):
    Image.fromarray(ramp.astype(np.uint16) * 256 + 255).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png"), torch.from_numpy(ramp)[None])
    assert image_shape(tmp_path / "a.png") == (1, 10, 20)


@pytest.mark.parametrize("read", [read_image, image_shape, lambda path: read_square(path, 4, 1)])
def test_what_is_no_image_is_named(tmp_path, read):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.png cannot be decoded"):
        read(tmp_path / "a.png")
