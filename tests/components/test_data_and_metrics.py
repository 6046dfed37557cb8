"""MNIST in its files, images on paper, moments and distances."""

import gzip
import shutil
import time
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from uldm_core import MistakeError, registry
from uldm_plugins.commands.output import write_images
from uldm_plugins.datasets.mnist import EMBEDDED
from uldm_plugins.metrics.features import Vectors
from uldm_plugins.metrics.frechet import Moments, frechet_distance
from uldm_plugins.pictures.reconstructions import save_image
from uldm_plugins.shared.images import displayable, png_of_grid, save_grid, to_float, to_uint8
from uldm_plugins.stages.evaluate import measure


def test_mnist_is_whole_and_embedded():
    train = registry.build("dataset", "mnist")
    test = train.split("test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.pixels.dtype == torch.uint8 and train.pixels.shape[1:] == (1, 28, 28)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert train.split("train") is train
    assert train.fingerprint != test.fingerprint


def test_mnist_is_read_in_under_a_second():
    def seconds():
        start = time.perf_counter()
        registry.build("dataset", "mnist")
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 1


@pytest.mark.parametrize("layout", ["gz", "plain", "torchvision"])
def test_mnist_reads_ordinary_folders(tmp_path, layout):
    folder = tmp_path / "MNIST" / "raw" if layout == "torchvision" else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    for file in EMBEDDED.glob("t10k-*.gz"):
        if layout == "gz":
            shutil.copy(file, folder)
        else:
            (folder / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    own = registry.build("dataset", "mnist", root=str(tmp_path), subset="test", limit=100)
    shipped = registry.build("dataset", "mnist", subset="test")
    assert len(own) == 100
    assert torch.equal(own.images(torch.arange(100)), shipped.images(torch.arange(100)))


def test_broken_files_are_refused_by_name(tmp_path):
    with pytest.raises(MistakeError, match="has no train-images"):
        registry.build("dataset", "mnist", root=str(tmp_path))
    for file in EMBEDDED.glob("train-*.gz"):
        shutil.copy(file, tmp_path)
    images = tmp_path / "train-images-idx3-ubyte.gz"
    whole = gzip.decompress(images.read_bytes())
    for content, message in [
        (whole[:5000], "cut short"),
        (b"\x00\x00\x0d\x03" + whole[4:5000], "expected an IDX file of uint8"),
        (b"abc", "not an IDX file"),
    ]:
        images.write_bytes(gzip.compress(content))
        with pytest.raises(MistakeError, match=message):
            registry.build("dataset", "mnist", root=str(tmp_path))
    images.write_bytes(b"no gzip at all")
    with pytest.raises(MistakeError, match="not an IDX file"):
        registry.build("dataset", "mnist", root=str(tmp_path))


@given(st.integers(0, 255))
def test_bytes_survive_the_range_of_networks(value):
    pixel = torch.full((1, 1, 1, 1), value, dtype=torch.uint8)
    assert -1 <= to_float(pixel).item() <= 1
    assert torch.equal(to_uint8(to_float(pixel)), pixel)


def test_a_grid_shows_every_image_in_order(tmp_path):
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 1, 4, 4) * 40
    save_grid(images, tmp_path / "grid.png", columns=3, scale=1, gap=1)
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    assert pixels.shape == (11, 16)
    assert [int(pixels[1 + 5 * (i // 3) + 1, 1 + 5 * (i % 3) + 1]) for i in range(6)] == [
        0,
        40,
        80,
        120,
        160,
        200,
    ]
    assert pixels[0, 0] == 255


def test_images_of_any_channels_are_shown_in_grey_or_colour():
    images = torch.randint(256, (3, 7, 16, 24), dtype=torch.uint8)
    assert displayable(images[:, :1]).equal(images[:, :1]) and displayable(images[:, :3]).equal(images[:, :3])
    for channels in (2, 5, 7):
        shown = displayable(images[:, :channels])
        assert shown.shape == (3, 1, 16, channels * 24)
        assert all(
            part.equal(images[:, place, None]) for place, part in enumerate(shown.split(24, 3)[:channels])
        )


def test_what_is_transparent_is_shown_on_a_light_checkerboard():
    images = torch.randint(256, (2, 4, 16, 24), dtype=torch.uint8)
    images[:, 3], images[:, 3, :, :12], images[:, 3, :, 12:16] = 255, 0, 51
    shown = displayable(images)
    assert shown.shape == (2, 3, 16, 24) and shown[..., 16:].equal(images[:, :3, :, 16:])
    board = shown[0, 0]
    assert (
        sorted(set(board[:, :12].flatten().tolist())) == [220, 255]
        and board[0, 0] != board[0, 2] != board[0, 4]
    )
    assert (shown[..., :12] == board[:, :12]).all()
    squares = torch.where((torch.arange(16)[:, None] // 2 + torch.arange(12, 16) // 2) % 2 == 0, 255, 220)
    mixed = (images[:, :3, :, 12:16].double() * 51 + squares * 204) / 255
    assert (shown[..., 12:16] - mixed).abs().max() <= 0.51


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_grids_show_images_of_any_channels_and_shape(tmp_path, channels):
    images = torch.randint(256, (3, channels, 6, 10), dtype=torch.uint8)
    shown = displayable(images)
    save_grid(images, tmp_path / "grid.png", columns=1, scale=1, gap=0)
    pixels = np.asarray(Image.open(tmp_path / "grid.png")).reshape(18, shown.shape[3], -1)
    assert np.array_equal(pixels, shown.permute(0, 2, 3, 1).flatten(0, 1))
    with Image.open(BytesIO(png_of_grid(images))) as picture:
        scale = 64 // shown.shape[3] or 1
        assert picture.size == ((3 * (shown.shape[3] + 2) + 2) * scale, 10 * scale)
        assert "A" in picture.mode and picture.getpixel((0, 0))[-1] == 0


@pytest.mark.parametrize(("channels", "mode"), [(4, "RGBA"), (3, "RGB"), (1, "L"), (2, "L")])
def test_one_image_keeps_its_alpha_in_a_file_of_its_own(tmp_path, channels, mode):
    image = torch.randint(256, (channels, 6, 10), dtype=torch.uint8)
    save_image(image, tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.mode == mode and (channels != 4 or np.array_equal(picture, image.permute(1, 2, 0)))
    write_images(image[None], tmp_path / "other.png")
    with Image.open(tmp_path / "other.png") as picture:
        assert picture.mode == mode


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_moments_do_not_depend_on_the_batches(sizes, seed):
    vectors = torch.randn(sum(sizes) + 2, 5, generator=torch.Generator().manual_seed(seed)) + 3
    moments = Moments()
    for batch in vectors.split([*sizes, 2]):
        moments.update(batch)
    assert torch.allclose(moments.mean, vectors.double().mean(0))
    assert torch.allclose(moments.covariance, torch.cov(vectors.double().T), atol=1e-9)


def gaussian_moments(mean, covariance, count=50):
    """Moments that hold exactly the given mean and covariance."""
    moments = Moments()
    moments.count = count
    moments.total = mean * count
    moments.products = covariance * (count - 1) + count * torch.outer(mean, mean)
    return moments


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=25)
def test_frechet_distance_equals_the_closed_form(seed):
    """For commuting covariances: |m1 - m2|^2 + sum (sqrt(a) - sqrt(b))^2; zero for equal ones."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    a, b = torch.rand(2, 4, generator=generator, dtype=torch.float64).unbind()
    means = torch.randn(2, 4, generator=generator, dtype=torch.float64).unbind()
    first, second = (gaussian_moments(m, rotation @ d.diag() @ rotation.T) for m, d in zip(means, (a, b)))
    expected = (means[0] - means[1]).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert frechet_distance(first, second) == pytest.approx(expected.item(), abs=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_frechet_mnist_is_low_for_digits_and_high_for_noise():
    test = registry.build("dataset", "mnist", subset="test")
    metric = registry.build("metric", "frechet_mnist")
    values = []
    for fake in (test.pixels[1000:2000], torch.randint(0, 256, (1000, 1, 28, 28), dtype=torch.uint8)):
        metric.reset()
        metric.update(test.pixels[:1000], real=True)
        metric.update(fake, real=False)
        values.append(metric.compute()["frechet_mnist"])
    assert values[0] < 0.1 * values[1]
    assert "mnist_judge" not in metric.description["features"]  # the class and the hash of its weights
    assert metric.description["features"].startswith("MnistJudge ")


@given(total=st.integers(1, 300), count=st.integers(1, 40), sizes=st.lists(st.integers(1, 50), min_size=1))
def test_images_are_chosen_by_chance_and_whatever_the_batches(total, count, sizes):
    def chosen(batches):
        vectors = Vectors(lambda images: images.flatten(1), count)
        for batch in batches:
            vectors.update(batch)
        assert vectors.seen == total
        return vectors.all().flatten()

    numbers = torch.arange(total).view(-1, 1, 1, 1)
    cuts = [size for _ in range(total) for size in sizes]
    found = chosen(
        numbers[start : start + size] for start, size in zip(np.cumsum([0, *cuts]), cuts) if start < total
    )
    assert torch.equal(found, chosen([numbers]))
    assert len(found) == min(total, count) and (found.diff() > 0).all()


def test_chosen_images_are_of_no_period_and_from_everywhere():
    vectors = Vectors(lambda images: images.flatten(1).float(), 1000)
    vectors.update(torch.arange(60_000).view(-1, 1, 1, 1))
    found = vectors.all().flatten()
    assert abs(found.mean() - 30_000) < 2000 and len(found.diff().unique()) > 100
    vectors.update(torch.arange(60_000, 60_001).view(-1, 1, 1, 1))
    assert vectors.all().shape == (1000, 1)


def test_frechet_refuses_too_few_images():
    metric = registry.build("metric", "frechet_mnist")
    with pytest.raises(ValueError, match="two images or more"):
        metric.compute()


def test_class_balance_counts_the_fakes():
    test = registry.build("dataset", "mnist", subset="test")
    metric = registry.build("metric", "class_balance")
    metric.update(test.pixels[test.labels == 3], real=False)
    metric.update(test.pixels[:100], real=True)
    shares = metric.compute()
    assert shares["largest_class"] > 0.97 and shares["smallest_class"] == 0


@pytest.mark.parametrize("per_channel", [True, False])
def test_latents_come_to_unit_variance_and_back(per_channel):
    latents = torch.randn(200, 3, 4, 4) * torch.tensor([0.1, 1.0, 5.0]).view(3, 1, 1) + 2
    scaling = registry.build("latent_scaling", "unit_variance", channels=3, per_channel=per_channel)
    scaling.fit(latents.split(64))
    normal = scaling.normalize(latents)
    assert normal.mean().item() == pytest.approx(0, abs=1e-3)
    if per_channel:
        assert torch.allclose(normal.std((0, 2, 3)), torch.ones(3), atol=1e-3)
    else:
        assert normal.square().mean().item() == pytest.approx(1, rel=0.2)
        assert len(set(scaling.std.tolist())) == 1
    assert torch.allclose(scaling.denormalize(normal), latents, atol=1e-4)


@pytest.mark.parametrize(
    ("metric", "side"),
    [
        ("ssim", 11),
        ({"use": "lpips", "backbone": {"use": "vgg16", "weights": "random"}}, 16),
        ({"use": "frechet", "backbone": {"use": "vgg16", "weights": "random"}}, 16),
    ],
    ids=["ssim", "lpips", "frechet"],
)
def test_a_metric_says_at_once_that_images_are_too_small(metric, side):
    metric = registry.build("metric", metric)
    images = torch.zeros(1, 1, side - 1, side, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"dataset of size >= {side}"):
        metric.update(images, real=True)
    with pytest.raises(MistakeError, match=f"needs images of {side}x{side} or more, not {side - 1}x{side}"):
        measure([metric], [images])
