"""``uldm codebook``: counts over a whole split, where codes lie and what they decode to."""

import json

import pytest
import torch
from PIL import Image

from uldm_core import registry
from uldm_core.engine.opened_run import TrainedRun
from uldm_plugins.nn.codebooks import code_counts, perplexity
from uldm_plugins.pictures.codebooks import principal
from uldm_plugins.shared.images import to_float
from uldm_plugins.stages.codebooks import vectors


@torch.inference_mode()
def test_every_place_of_the_split_is_counted(uldm, run):
    report = json.loads(uldm("codebook", run, "--json")[1])
    (book,) = report["codebooks"]
    trained = TrainedRun.open(run)
    test = trained.component("dataset").split("test")
    assert report["images"] == len(test) and sum(book["counts"]) == len(test) * 7 * 7
    images = to_float(test.images(torch.arange(len(test))))
    codes = trained.component("autoencoder").cpu().eval().encode_with_indices(images)[2]
    if trained.device.precision is torch.float32:
        assert book["counts"] == codes.flatten().bincount(minlength=512).tolist()
    assert (
        book["used"] == sum(count > 0 for count in book["counts"]) and 1 <= book["perplexity"] <= book["used"]
    )


def test_a_folder_gets_pictures_and_numbers(uldm, run, tmp_path):
    code, out, _ = uldm("codebook", run, "--out", "out", "--split", "train")
    assert code == 0 and out.startswith("40 images of split 'train'\n") and "of 512 codes used (" in out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"usage.png", "map.png", "codes.png", "codebook.json"}
    assert json.loads((tmp_path / "out" / "codebook.json").read_text())["split"] == "train"


def test_one_picture_holds_all_of_several_codebooks(uldm, residual_run, tmp_path):
    code, out, _ = uldm("codebook", residual_run, "--out", "book.png")
    assert code == 0 and "codebook 2: " in out and [path.name for path in tmp_path.iterdir()] == ["book.png"]
    with Image.open(tmp_path / "book.png") as picture:
        width, height = picture.size
    assert width > 1500 and height > 3000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "x.jpg"], "--out x.jpg: must be a folder or end in .png"),
        (["--out", "nowhere/x.png"], "there is no folder nowhere"),
        (["--split", "valid"], "--split: there is no split 'valid'"),
    ],
)
def test_what_cannot_be_done_is_said(uldm, run, arguments, said):
    code, out, error = uldm("codebook", run, *arguments)
    assert (code, out) == (2, "") and said in error


def test_where_there_is_no_codebook_it_is_said(uldm, run_without_codes):
    code, out, error = uldm("codebook", run_without_codes)
    assert (code, out) == (2, "") and "its autoencoder (AutoencoderKL) has no codebook" in error


@pytest.mark.parametrize("name", ["vq", "vq_ema", "fsq", "lfq", "sim_vq", "residual_vq"])
def test_vectors_are_what_the_quantizer_looks_up(name):
    quantizer = registry.build("quantizer", name).eval()
    size = quantizer.codebook_size
    latents = torch.randn(4, quantizer.dim, 8, 8)
    quantized, _, indices = quantizer(latents)
    counts = code_counts(indices, size)
    found = vectors(quantizer, torch.arange(size), 0, counts)
    assert found.shape == (size, quantizer.dim)
    first = indices if indices.ndim == 3 else indices[:, 0]
    if len(counts) == 1:
        assert torch.allclose(found[first].movedim(-1, 1), quantized, atol=1e-5)
    else:  # the second codebook's most used code is added to all of the first's
        coarse = quantizer.layers[0].codes()
        rest = found - coarse
        assert torch.allclose(rest, rest[:1].expand_as(rest), atol=1e-5)
        assert torch.allclose(rest[0], quantizer.layers[1].codes()[counts[1].argmax()], atol=1e-5)


def test_perplexity_is_one_of_one_code_and_all_of_codes_used_alike():
    counts = torch.tensor([[5, 0, 0, 0], [3, 3, 3, 3], [2, 2, 0, 0], [0, 0, 0, 0]])
    assert perplexity(counts).tolist() == pytest.approx([1, 4, 2, 0])


def test_principal_directions_are_those_of_the_codes_in_use():
    spread = torch.tensor([[3.0, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 99]])
    places, shares = principal(spread, torch.tensor([5, 5, 5, 5, 0]))
    assert places.abs()[:4].tolist() == [[3, 0], [3, 0], [0, 1], [0, 1]]
    assert shares == pytest.approx((0.9, 0.1))
    flat, shares = principal(torch.tensor([[1.0], [2.0]]), torch.tensor([1, 1]))
    assert flat.shape == (2, 2) and shares == pytest.approx((1, 0))
