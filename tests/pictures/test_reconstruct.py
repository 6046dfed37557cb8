"""``uldm reconstruct`` on images of one's own: what is written, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from uldm_core.engine.opened_run import TrainedRun
from uldm_plugins.commands.real_images import distinct_names
from uldm_plugins.datasets.mnist import Mnist
from uldm_plugins.pictures.codes import code_map
from uldm_plugins.shared.images import to_float, to_uint8


@pytest.fixture
def digits(tmp_path):
    """Three digits as files: grey, colour in a folder below, and not square."""
    images = Mnist(subset="test", limit=3).images(torch.arange(3))[:, 0].numpy()
    (tmp_path / "in" / "below").mkdir(parents=True)
    Image.fromarray(images[0]).save(tmp_path / "in" / "one.png")
    Image.fromarray(images[1]).convert("RGB").save(tmp_path / "in" / "below" / "two.png")
    Image.fromarray(images[2]).resize((60, 40)).save(tmp_path / "in" / "wide.webp", lossless=True)
    return tmp_path / "in"


def pixels(path):
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture))


def test_each_image_has_its_pictures_and_losses(uldm, run, digits, tmp_path):
    code, out, error = uldm("reconstruct", run, digits, "--out", "out")
    assert code == 0 and out.startswith("out: 3 images; l1 ")
    assert "1 of 3 images are of another size: the middle part is resized to 28x28" in error
    kinds = ("recon.png", "recon_indices.png", "code_hist.png", "loss.json")
    expected = {f"{name}_{kind}" for name in ("one", "two", "wide") for kind in kinds}
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == expected | {"summary.png", "summary.json"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [one["name"] for one in summary["images"]] == ["two", "one", "wide"]
    losses = [one["losses"] for one in summary["images"]]
    assert summary["mean"]["l1"] == pytest.approx(sum(loss["l1"] for loss in losses) / 3)
    assert json.loads((tmp_path / "out" / "two_loss.json").read_text()) == losses[0]


@torch.inference_mode()
def test_it_is_the_runs_own_autoencoder_that_is_shown(uldm, run, digits, tmp_path):
    uldm("reconstruct", run, digits / "one.png", "--out", "out", "--device", "cpu", "--precision", "float32")
    original = pixels(digits / "one.png")
    autoencoder = TrainedRun.open(run).component("autoencoder").cpu().eval()
    latents, losses, codes = autoencoder.encode_with_indices(to_float(original)[None, None])
    decoded = autoencoder.decode(latents)
    assert torch.equal(pixels(tmp_path / "out" / "one_recon.png"), to_uint8(decoded)[0, 0])
    found = json.loads((tmp_path / "out" / "one_loss.json").read_text())
    assert found["l1"] == pytest.approx((decoded - to_float(original)).abs().mean().item())
    assert found["commitment"] == pytest.approx(losses["commitment"].item())
    panels = pixels(tmp_path / "out" / "one_recon_indices.png")
    first = panels[35:259, 10:234, 0]
    assert torch.equal(first, original.repeat_interleave(8, 0).repeat_interleave(8, 1))
    drawn = code_map(codes, 224, autoencoder.quantizer.codebook_size)[0].permute(1, 2, 0)
    assert torch.equal(panels[35:259, 478:702], drawn)


def test_losses_are_of_one_image_whatever_its_batch(uldm, run, digits, tmp_path):
    uldm("reconstruct", run, digits, "--out", "all")
    uldm("reconstruct", run, digits / "below" / "two.png", "--out", "alone")
    both = [json.loads((tmp_path / folder / "two_loss.json").read_text()) for folder in ("all", "alone")]
    assert both[0] == pytest.approx(both[1], rel=1e-4)


def test_a_split_into_a_folder_and_into_a_file(uldm, run, tmp_path):
    assert uldm("reconstruct", run, "--out", "out", "--count", 2)[0] == 0
    assert (tmp_path / "out" / "test_1_recon.png").is_file()
    assert not (tmp_path / "out" / "test_2_recon.png").exists()
    assert uldm("reconstruct", run, "--split", "train", "--count", 3, "--out", "x.npz")[0] == 0
    with np.load(tmp_path / "x.npz") as file:
        assert file["images"].shape == (3, 28, 28, 1)
    assert uldm("reconstruct", run, "--out", "x.png")[0] == 0 and (tmp_path / "x.png").is_file()


def test_several_codebooks_have_a_map_each(uldm, residual_run, tmp_path):
    assert uldm("reconstruct", residual_run, "--count", 1, "--out", "out")[0] == 0
    width = pixels(tmp_path / "out" / "test_0_recon_indices.png").shape[1]
    assert width == 10 + 4 * (224 + 10)


def test_without_a_quantizer_there_are_no_codes(uldm, run_without_codes, digits, tmp_path):
    code, _, error = uldm("reconstruct", run_without_codes, digits, "--out", "out")
    assert code == 0 and "has no codebook" in error
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert (
        "one_recon.png" in names
        and "summary.png" in names
        and not [n for n in names if "ind" in n or "hist" in n]
    )
    assert set(json.loads((tmp_path / "out" / "one_loss.json").read_text())) == {"l1", "l2", "psnr", "kl"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["none.png", "--out", "out"], 2, "there is no file or folder none.png"),
        (["text.png", "--out", "out"], 2, "text.png: no PNG, JPEG, WebP, BMP, TIFF or GIF"),
        (["empty", "--out", "out"], 2, "empty has no images"),
        (
            ["in/wide.webp", "--resize", "off", "--out", "out"],
            2,
            "in/wide.webp is 60x40, the run's images are 28x28",
        ),
        (["in", "--out", "in/out"], 2, "lies in the folder of the images"),
        (["in", "--out", "text.png/out.npz"], 2, "there is no folder text.png"),
        (["in", "--out", "file"], 2, "--out file: is a file"),
        (["in", "--out", "x.jpg"], 2, "must end in .npz or .png"),
        (["in", "--count", "2", "--out", "out"], 2, "name images, or give --split and --count"),
        (["--split", "valid", "--out", "out"], 2, "--split: there is no split 'valid'"),
        (["--count", "0", "--out", "out"], 2, "0 is not in the range"),
    ],
)
def test_what_cannot_be_shown_is_said(uldm, run, digits, tmp_path, arguments, code, said):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    found, _, error = uldm("reconstruct", run, *arguments)
    assert found == code and said in error and not (tmp_path / "out").exists()


def test_unusable_files_of_a_folder_are_left_out(uldm, run, digits, tmp_path, caplog):
    (digits / "broken.png").write_bytes((digits / "one.png").read_bytes()[:-20])
    assert uldm("reconstruct", run, digits, "--out", "out")[1].startswith("out: 3 images")
    assert "left out of 4 images: 1 cut short (broken.png)" in caplog.text


@pytest.mark.parametrize("resize", ["crop", "stretch"])
def test_another_size_is_cropped_or_stretched(uldm, run, tmp_path, resize):
    half = np.zeros((28, 84), np.uint8)
    half[:, :28] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    uldm("reconstruct", run, "half.png", "--resize", resize, "--out", "out")
    shown = pixels(tmp_path / "out" / "half_recon_indices.png")[35:259, 10:234, 0]
    assert (shown[:, 8] > 200).all() == (resize == "stretch") and shown[:, -8].max() < 20


def test_names_are_distinct(tmp_path):
    paths = [tmp_path / name for name in ("a/x.png", "a/x.jpg", "b/x.png", "b/y.png", "b/Y.png", "c/z.png")]
    names = distinct_names([*paths, tmp_path / "other" / "a" / "x.png"])
    assert names == ["a_x_png", "a_x_jpg", "b_x_png", "b_y_png", "b_Y_png_2", "z", "a_x_png_2"]


def test_names_as_long_as_a_file_may_have_are_cut_for_an_ending(tmp_path):
    longest = [tmp_path / f"{'ü' * 125}{end}.png" for end in "ab"]
    first, second = distinct_names(longest)
    assert first == "ü" * 100 and second == "ü" * 100 + "_2"
