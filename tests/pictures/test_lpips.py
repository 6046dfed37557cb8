"""``uldm lpips``: the distance, the picture, and what is said where weights are missing."""

import json
import urllib.error

import numpy as np
import pytest
import torch
from PIL import Image

from uldm_core import registry
from uldm_plugins.nn.perceptual import enlarged
from uldm_plugins.shared.images import to_float


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.fixture
def pair(tmp_path):
    """Two photographs' stand-ins of one size, the second changed in a corner; a third of another size."""
    first = np.random.default_rng(0).integers(256, size=(40, 48, 3), dtype=np.uint8)
    second = first.copy()
    second[:10, :10] = 255 - second[:10, :10]
    for name, image in (("a", first), ("b", second), ("c", first[:30])):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    return [torch.from_numpy(image).permute(2, 0, 1) for image in (first, second)]


def report(uldm, *arguments):
    code, out, error = uldm("lpips", *arguments, "--json")
    assert code == 0, error
    return json.loads(out)


@pytest.mark.parametrize("backbone", ["dummy", "mnist_classifier", "mnist_judge"])
def test_the_distance_is_that_of_the_loss(uldm, pair, backbone):
    found = report(uldm, "a.png", "b.png", "--no-resize", "--backbone", backbone, "--device", "cpu")
    loss = registry.build("loss", "lpips", backbone=backbone, heads="even")
    expected = loss(*(to_float(image.unsqueeze(0)) for image in pair)).item()
    assert found["distance"] == pytest.approx(expected, rel=1e-5) and found["size"] == [40, 48]
    assert sum(found["layers"]) == pytest.approx(expected, rel=1e-5)
    assert len(found["layers"]) == len(loss.backbone.channels)


def test_the_same_image_is_at_no_distance(uldm, pair):
    assert report(uldm, "a.png", "a.png", "--backbone", "dummy")["distance"] == 0


def test_both_are_stretched_to_one_size(uldm, pair):
    assert report(uldm, "a.png", "c.png", "--backbone", "dummy")["size"] == [256, 256]
    assert report(uldm, "a.png", "c.png", "--backbone", "dummy", "--size", 32)["size"] == [32, 32]
    code, _, error = uldm("lpips", "a.png", "c.png", "--backbone", "dummy", "--no-resize")
    assert code == 2 and "a.png is 48x40, c.png is 48x30" in error and "--size 256" in error


def test_random_images_follow_the_seed(uldm, tmp_path):
    distances = [
        report(uldm, "--backbone", "dummy", "--size", 32, "--seed", seed, "--out", f"{index}.png")["distance"]
        for index, seed in enumerate((0, 0, 1))
    ]
    assert distances[0] == distances[1] != distances[2]
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()


def test_the_picture_shows_where_they_differ(uldm, pair, tmp_path):
    assert uldm("lpips", "a.png", "b.png", "--backbone", "dummy")[1].startswith("LPIPS 0.")
    uldm("lpips", "a.png", "b.png", "--backbone", "dummy", "--overlay", "--out", "over.png")
    widths = []
    for name in ("lpips_heatmap.png", "over.png"):
        with Image.open(tmp_path / name) as picture:
            widths.append(picture.width)
    assert 1000 < widths[0] < widths[1]


def test_the_layers_add_up_to_the_map():
    loss = registry.build("loss", "lpips", backbone="dummy", heads="even")
    first, second = torch.rand(2, 1, 3, 12, 20) * 2 - 1
    layers = loss.layers(first, second)
    maps = enlarged(layers, first.shape[-2:])
    assert {layer.shape for layer in maps} == {(1, 1, 12, 20)} and layers[1].shape == (1, 1, 6, 10)
    assert torch.allclose(sum(maps), loss.maps(first, second))


def test_a_file_of_weights_and_any_other_option_reach_the_backbone(uldm, tmp_path):
    found = report(uldm, "--backbone", "squeezenet", "--weights", "random", "--size", 32)
    assert found["heads"] == "published" and found["weights"] == "random" and len(found["layers"]) == 7
    options = ("--option", "weights=random", "--option", "dropout=0.5")
    assert len(report(uldm, "--backbone", "mnist_classifier", *options)["layers"]) == 5


@pytest.mark.parametrize("flag", [(), ("--auto-download",), ("--no-auto-download",)])
def test_without_weights_it_is_said_what_works_at_once(uldm, flag, tmp_path):
    code, out, error = uldm("lpips", *flag)
    assert (code, out) == (2, "") and "vgg16-397923af.pth" in error and str(tmp_path / "hub") in error
    assert "--weights FILE; --backbone mnist_classifier and dummy need none" in error
    assert ("auto_download is off" in error) == (flag == ("--no-auto-download",))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.png"], "name two images, or none"),
        (["a.png", "b.png", "c.png"], "name two images, or none"),
        (["a.png", "none.png"], "there is no file or folder none.png"),
        (["a.png", "hub"], "hub is a folder"),
        (["--size", "8", "--no-resize"], "--size and --no-resize exclude each other"),
        (["--backbone", "vgg61"], "unknown backbone 'vgg61' (did you mean 'vgg16'?)"),
        (["--backbone", "dummy", "--weights", "x"], "--weights: backbone dummy has no such option"),
        (["--backbone", "dummy", "--no-auto-download"], "--auto-download: backbone dummy has no such option"),
        (["--backbone", "dummy", "--option", "x=1"], "unknown option 'x'"),
        (["--weights", "none.pth"], "there is no none.pth"),
        (["--weights-url", "https://example.org/w.pth"], "carries no hash in its name"),
        (
            ["--backbone", "vgg16", "--weights", "random", "--size", "8"],
            "vgg16 needs images of 16x16 or more",
        ),
        (["--backbone", "dummy", "--out", "x.jpg"], "must end in .png"),
        (["--backbone", "dummy", "--device", "abacus"], "device 'abacus' cannot be used"),
    ],
)
def test_what_cannot_be_compared_is_said(uldm, pair, tmp_path, arguments, said):
    (tmp_path / "hub").mkdir()
    code, out, error = uldm("lpips", *arguments)
    assert (code, out) == (2, "") and said in error and "Traceback" not in error
