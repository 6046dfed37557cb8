"""Other libraries' components give what their libraries give, and are listed where the library is absent."""

import subprocess
import sys

import diffusers
import pytest
import timm
import torch
import vector_quantize_pytorch
from click.testing import CliRunner
from safetensors.torch import save_file

from uldm_core import MistakeError, registry
from uldm_core.cli.main import cli
from uldm_core.registry import component

ADAPTED = ["diffusers", "timm", "vector_quantize_pytorch"]


def test_listing_them_imports_none():
    code = (
        "import sys; from uldm_core import registry; registry.default().components();"
        f"assert not [name for name in {[*ADAPTED, 'torch']} if name in sys.modules]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setattr(component, "find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("denoiser", "diffusers/unet_2d"), ("backbone", "features"), ("quantizer", "vector_quantize")],
)
def test_an_absent_library_is_named_when_it_is_wanted(kind, name, absent):
    with pytest.raises(MistakeError, match=r"needs .* not installed\n +pip install"):
        registry.build(kind, name)


def test_an_absent_library_is_listed_and_passed_over_by_checks(absent):
    listed = CliRunner().invoke(cli, ["ls", "denoiser"])
    assert "diffusers/unet_2d" in listed.output and "(pip install diffusers)" in listed.output
    checked = CliRunner().invoke(cli, ["check", "denoiser/diffusers/unet_2d"])
    assert checked.exit_code == 0 and "skipped" in checked.output


def test_our_unet_2d_and_theirs_are_one_network(tmp_path):
    ours = registry.build("denoiser", "unet_2d", channels=4)
    save_file(ours.state_dict(), tmp_path / "w.safetensors")
    theirs = registry.build("denoiser", "diffusers/unet_2d", channels=4, weights=tmp_path / "w.safetensors")
    latents, times = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        torch.testing.assert_close(ours(latents, times), theirs(latents, times), rtol=0, atol=1e-5)
        assert theirs(latents[..., :7, :5], times).shape == (2, 4, 7, 5)


@torch.no_grad()
def test_an_augmentation_is_added_to_diffusers_embedding_of_the_time(tmp_path):
    library = diffusers_unet_2d().network
    save_file(library.state_dict(), tmp_path / "w.safetensors")
    latents, times, classes = torch.randn(2, 4, 4, 4), torch.tensor([3.0, 700.0]), torch.tensor([1, 2])
    told = diffusers_unet_2d(weights=tmp_path / "w.safetensors", augmentation=2)
    wanted = library(latents, times, classes).sample
    assert torch.equal(told(latents, times, classes), wanted)
    parameters = torch.tensor([[0.0, 0.0], [1.0, -0.5]])
    added = told.network.class_embedding.augmentation.weight @ parameters[1]
    library.time_embedding.linear_2.bias += added
    moved = library(latents, times, classes).sample
    changed = told(latents, times, classes, parameters)
    torch.testing.assert_close(changed, torch.stack([wanted[0], moved[1]]), rtol=0, atol=1e-5)
    assert (moved[1] - wanted[1]).abs().max() > 1e-3


def diffusers_unet_2d(**options):
    small = {"block_out_channels": [16], "attention_levels": [True], "norm_num_groups": 4}
    return registry.build("denoiser", "diffusers/unet_2d", channels=4, classes=3, **small, **options)


def test_our_autoencoder_kl_and_theirs_are_one_network(tmp_path):
    ours = registry.build("autoencoder", "autoencoder_kl").eval()
    save_file(ours.state_dict(), tmp_path / "w.safetensors")
    name = "diffusers/autoencoder_kl"
    theirs = registry.build("autoencoder", name, weights=tmp_path / "w.safetensors").eval()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        (a, b, kl), (c, d, other) = ours(images), theirs(images)
    torch.testing.assert_close((a, b), (c, d), rtol=0, atol=1e-5)
    torch.testing.assert_close(kl["kl"], other["kl"], rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="multiples of 4"):
        theirs(images[..., :15])


def test_vq_model_is_the_librarys():
    model = registry.build("autoencoder", "vq_model", vq_embed_dim=3).eval()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        reconstruction, latents, losses = model(images)
        expected = model.network(images)
    torch.testing.assert_close(reconstruction, expected.sample)
    assert losses["quantizer"] == expected.commit_loss
    _, _, indices = model.encode_with_indices(images)
    torch.testing.assert_close(model.quantizer.lookup(indices), latents)
    assert isinstance(model.network, diffusers.VQModel) and latents.shape == (2, 3, 4, 4)


def test_features_are_timms_on_scaled_images(tmp_path):
    torch.manual_seed(0)
    reference = timm.create_model("test_resnet").eval()
    save_file(reference.state_dict(), tmp_path / "w.safetensors")
    ours = registry.build(
        "backbone", "features", model="test_resnet", weights=str(tmp_path / "w.safetensors")
    )
    images = torch.rand(2, 3, 64, 64)
    config = reference.pretrained_cfg
    mean, deviation = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = reference.forward_intermediates((images - mean) / deviation, intermediates_only=True)
        found = ours(images * 2 - 1)
    torch.testing.assert_close(list(found), expected, rtol=1e-4, atol=1e-5)
    assert [maps.shape[1] for maps in found] == list(ours.channels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet19", "weights": "random"}, "no model 'resnet19'.*resnet1"),
        ({"model": "test_resnet", "weights": "nowhere.safetensors"}, "there is no nowhere.safetensors"),
    ],
)
def test_features_refuse_what_they_cannot_build(options, message):
    with pytest.raises(MistakeError, match=message):
        registry.build("backbone", "features", **options)


def test_weights_of_another_model_are_refused(tmp_path):
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(MistakeError, match="is not of test_resnet"):
        registry.build("backbone", "features", model="test_resnet", weights=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    ("name", "options", "library"),
    [
        ("vector_quantize", {"codebook_size": 16, "dim": 4}, vector_quantize_pytorch.VectorQuantize),
        (
            "vector_quantize_pytorch/residual_vq",
            {"codebook_size": 16, "dim": 4, "num_quantizers": 3},
            vector_quantize_pytorch.ResidualVQ,
        ),
        ("vector_quantize_pytorch/fsq", {"levels": [8, 6, 5, 4]}, vector_quantize_pytorch.FSQ),
    ],
)
def test_quantizers_are_the_librarys(name, options, library):
    torch.manual_seed(0)
    reference = library(**options)
    torch.manual_seed(0)
    ours = registry.build("quantizer", name, **options)
    latents = torch.randn(2, 4, 3, 5)
    flat = latents.flatten(2).mT
    codes, losses, indices = ours(latents)
    expected, expected_indices, *rest = reference(flat)
    torch.testing.assert_close(codes.flatten(2).mT, expected)
    placed = indices.flatten(-2)
    assert torch.equal(placed.mT if placed.ndim == 3 else placed, expected_indices)
    if rest:
        torch.testing.assert_close(losses["commitment"], rest[0].sum())
    ours.eval()
    codes, _, indices = ours(latents)
    torch.testing.assert_close(ours.lookup(indices), codes)
