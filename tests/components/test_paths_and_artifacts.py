"""What sampling and an evaluation leave to be looked at, with components that only keep the protocol."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uldm_core import MistakeError, registry, run_stage
from uldm_core.engine.context import Context
from uldm_core.engine.device import Device
from uldm_core.run_folder.stage_folder import StageFolder
from uldm_core.testing.doubles import (
    TinyAutoencoder,
    TinyDataset,
    TinyDenoiser,
    TinyScaling,
    gaussian_denoiser,
    straight,
)
from uldm_plugins.shared.images import images_at_a_time
from uldm_plugins.stages.latents import NormalizedLatents, image_batches
from uldm_plugins.stages.path import RecordedSampler, slerp
from uldm_plugins.stages.sample import load_images


class Plain:
    """A dataset of RGB squares that has no labels, no fingerprint and no test split."""

    channels, size, splits = 3, (8, 8), ("train",)

    def __len__(self):
        return 30

    def images(self, indices):
        shades = (indices * 8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
        return shades.to(torch.uint8).clone()

    def split(self, name):
        raise ValueError("there is one split only")


class Quantized(TinyAutoencoder):
    """An autoencoder with two codes a place."""

    quantizer = SimpleNamespace(codebook_size=5)

    def encode_with_indices(self, x):
        latents, losses = self.encode(x)
        codes = torch.arange(len(x)).view(-1, 1, 1, 1) + torch.arange(32).view(2, 4, 4)
        return latents, losses, codes.square() % 6


class Large:
    """A dataset of 20 grey images, 256 pixels a side."""

    channels, size, splits, fingerprint = 1, (256, 256), ("train",), "large"

    def __len__(self):
        return 20

    def images(self, indices):
        return indices.view(-1, 1, 1, 1).expand(-1, 1, 256, 256).to(torch.uint8)

    def split(self, name):
        return self


class Counting(Quantized):
    """An autoencoder that keeps in mind how many images it was given at a time."""

    def __init__(self):
        super().__init__(1)
        self.counts = []

    def encode(self, x):
        self.counts.append(len(x))
        return super().encode(x)

    def decode(self, latents):
        self.counts.append(len(latents))
        return super().decode(latents)


class HalfAtATime:
    """A sampler that asks about half of the images at a time, and writes into what it was given."""

    def __call__(self, denoise, noise_scheduler, noise, generator):
        t = torch.ones(len(noise))
        for half in noise.split(max(1, len(noise) // 2)):
            half -= denoise(half.clone(), t[: len(half)])
        return noise


class BackAndForth:
    """A sampler that goes back to more noise once."""

    def __call__(self, denoise, noise_scheduler, noise, generator):
        for number, time in enumerate((1.0, 0.6, 0.3, 0.6, 0.3)):
            denoise(noise + number, torch.full((len(noise),), time))
        return noise * 0


def build(stage, dataset=None, autoencoder=None, **options):
    torch.manual_seed(0)
    dataset = dataset or TinyDataset()
    components = {"dataset": dataset, "autoencoder": autoencoder or TinyAutoencoder(dataset.channels)}
    if stage == "sample":
        components |= {
            "denoiser": TinyDenoiser(),
            "noise_scheduler": straight(),
            "latent_scaling": TinyScaling(),
        }
    return registry.build("stage", stage, **components, **options)


def artifacts(out, ending):
    found = {path.name: path for path in out.glob(f"stages/*/artifacts/*.{ending}")}
    return {
        name: dict(np.load(path)) if ending == "npz" else json.loads(path.read_text())
        for name, path in found.items()
    }


@pytest.mark.parametrize("sampler", ["heun", "euler", "ddim", "ddpm", "dpmpp_2m"])
def test_the_path_falls_from_noise_to_the_very_samples(tmp_path, sampler):
    run_stage(build("sample", sampler={"use": sampler, "steps": 30}, count=14), tmp_path)
    made = artifacts(tmp_path, "npz")
    frames, times = made["path.npz"]["frames"], made["path.npz"]["times"]
    assert frames.shape == (12, 10, 8, 8, 1) and frames.dtype == np.uint8 and times.dtype == np.float32
    assert times[0] == 1 and times[-1] == 0 and (np.diff(times) < 0).all()
    assert np.array_equal(frames[-1], made["samples.npz"]["images"][:10])
    assert not np.array_equal(frames[0], frames[-1])


def test_watching_a_sampler_changes_nothing_and_a_seed_means_the_same_bytes(tmp_path):
    stage = build("sample", sampler={"use": "ddpm", "steps": 9}, count=7, batch_size=4)
    run_stage(stage, tmp_path / "a", name="s", seed=3)
    run_stage(stage, tmp_path / "b", name="s", seed=3)
    for name in ("samples.npz", "path.npz"):
        a, b = ((tmp_path / run / "stages/s/artifacts" / name).read_bytes() for run in "ab")
        assert a == b, name
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    noise, denoise = torch.randn(5, 2, 4, 4), gaussian_denoiser(straight(), 0.3, 1.2)
    plain = stage.sampler(denoise, straight(), noise, generators[0])
    watched = RecordedSampler(stage.sampler, 3, 6)(denoise, straight(), noise, generators[1])
    assert torch.equal(plain, watched)


def test_the_path_is_of_all_batches_and_of_unit_variance():
    recorded = RecordedSampler(registry.build("sampler", "heun", steps=40), count=300, frames=5)
    edm = registry.build("noise_scheduler", "edm")
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        recorded(
            gaussian_denoiser(edm, 0.0, 1.0), edm, torch.randn(200, 2, 4, 4, generator=generator), generator
        )
    times, latents = recorded.path()
    assert latents.shape == (5, 300, 2, 4, 4) and len(times) == 5
    assert latents.std((1, 2, 3, 4)).tolist() == pytest.approx([1] * 5, abs=0.05)


def test_as_many_steps_as_stretches_are_all_kept():
    recorded = RecordedSampler(registry.build("sampler", "heun", steps=10), count=2, frames=11)
    recorded(lambda x, t: x, straight(), torch.randn(2, 1, 2, 2), torch.Generator())
    assert recorded.path()[0].tolist() == pytest.approx([1 - number / 10 for number in range(11)])


def test_a_sampler_needs_no_more_than_the_protocol():
    noise = torch.randn(6, 1, 2, 2)
    recorded = RecordedSampler(HalfAtATime(), 4, 12)
    result = recorded(lambda x, t: x / 2, straight(), noise.clone(), torch.Generator())
    times, latents = recorded.path()
    assert (
        times.tolist() == [1, 0]
        and torch.equal(latents[0], noise[:4])
        and torch.equal(latents[1], result[:4])
    )
    recorded = RecordedSampler(BackAndForth(), 2, 12)
    recorded(lambda x, t: x, straight(), noise, torch.Generator())
    times, latents = recorded.path()
    assert times.tolist() == pytest.approx([1, 0.6, 0.3, 0])
    assert torch.allclose(latents[1] * math.hypot(0.4, 0.6), noise[:2] + 3), "the later visit counts"


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_an_arc_keeps_the_length_and_meets_its_ends(share):
    first, second = torch.randn(2, 3, 4, 8, 8)
    between = slerp(first, second, share)
    lengths = [x.flatten(1).norm(dim=1) for x in (first, second, between)]
    assert (lengths[2] > 0.97 * torch.minimum(*lengths[:2])).all()
    for end, place in ((first, 0.0), (second, 1.0)):
        assert torch.allclose(between, end, atol=1e-4) == (share == place)
    assert torch.allclose(slerp(first, first, share), first, atol=1e-3)


def test_interpolation_joins_the_images_that_are_drawn(tmp_path):
    stage = build("sample", sampler="heun", batch_size=4)
    context = Context("s", 1, Device(torch.device("cpu"), torch.float32), StageFolder(tmp_path))
    drawn, arcs = stage.draw(context, 6), stage.interpolate(context, 3, 5)
    assert arcs.shape == (5, 3, 1, 8, 8)
    for end, images in ((arcs[0], drawn[0::2]), (arcs[-1], drawn[1::2])):
        assert (end.int() - images.int()).abs().max() <= 1
    stage.sampler = registry.build("sampler", "ddpm", steps=3)
    with pytest.raises(ValueError, match="adds noise of its own"):
        stage.interpolate(context, 1, 3)


def test_large_images_pass_through_an_autoencoder_a_few_at_a_time(tmp_path):
    parts = {"dataset": Large(), "autoencoder": Counting()}
    run_stage(build("train_autoencoder", **parts, batch_size=3, steps=1, previews=1), tmp_path)
    assert max(parts["autoencoder"].counts) == 8, "of a preview"
    others = {"denoiser": TinyDenoiser(), "noise_scheduler": straight(), "latent_scaling": TinyScaling()}
    for cached in (True, False):
        options = {"batch_size": 12, "steps": 1, "previews": 1, "cache_latents": cached}
        run_stage(registry.build("stage", "train_diffusion", **parts, **others, **options), tmp_path)
    run_stage(build("sample", **parts, sampler={"use": "euler", "steps": 1}, count=10), tmp_path)
    run_stage(build("evaluate", **parts, metrics=["psnr"]), tmp_path)
    assert max(parts["autoencoder"].counts) == 8


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_a_networks_batch_is_of_half_a_million_pixels_at_most(height, width):
    count = images_at_a_time(height, width)
    assert 1 <= count <= 500 and (count == 1 or count * height * width <= 2**19)
    assert count == 500 or (count + 1) * height * width > 2**19


def test_digits_come_by_five_hundred():
    assert (images_at_a_time(28, 28), images_at_a_time(64, 64), images_at_a_time(256, 256)) == (500, 128, 8)


def test_latents_do_not_depend_on_how_a_dataset_is_cut(monkeypatch, tmp_path):
    dataset, autoencoder = TinyDataset(), TinyAutoencoder()
    context = Context("s", 1, Device(torch.device("cpu"), torch.float32), StageFolder(tmp_path))

    def latents():
        found = NormalizedLatents(dataset, autoencoder, TinyScaling(), context)
        found.fit(cached=True)
        return found.of(torch.arange(len(dataset)))

    whole = latents()
    monkeypatch.setattr("uldm_plugins.shared.images.MOST_IMAGES", 5)
    assert [len(batch) for batch in image_batches(dataset)] == [5] * 6 + [2]
    torch.testing.assert_close(latents(), whole)


def test_an_evaluation_shows_pairs_codes_neighbours_and_classes(tmp_path):
    autoencoder = Quantized()
    run_stage(
        build("sample", autoencoder=autoencoder, sampler={"use": "euler", "steps": 2}, count=14), tmp_path
    )
    run_stage(build("evaluate", autoencoder=autoencoder, metrics=["class_balance"]), tmp_path)
    made, told = artifacts(tmp_path, "npz"), artifacts(tmp_path, "json")
    pairs = made["reconstructions.npz"]
    assert pairs["originals"].shape == pairs["reconstructions"].shape == (32, 8, 8, 1)
    assert np.array_equal(pairs["originals"][:, 0, 0, 0], TinyDataset("test").pixels[:, 0, 0, 0])
    assert pairs["codes"].shape == (32, 2, 4, 4) and pairs["codes"].dtype == np.int32
    books = told["codebook.json"]["codebooks"]
    assert [book["size"] for book in books] == [5, 5] and [sum(book["counts"]) for book in books] == [
        512,
        512,
    ]
    for number, book in enumerate(books):
        counts = np.bincount(pairs["codes"][:, number].ravel(), minlength=5)  # all 32 are shown
        shares = counts[counts > 0] / 512
        assert book["counts"] == counts.tolist() and book["used"] == len(shares)
        assert book["perplexity"] == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), abs=1e-3)
    classes = told["classes.json"]
    assert classes["labels"] == list("0123456789")
    assert sum(classes["samples"]) == pytest.approx(1, abs=1e-4) and sum(classes["real"]) == pytest.approx(
        1, abs=1e-4
    )


def test_neighbours_are_the_nearest_training_images(tmp_path):
    samples = torch.cat([TinyDataset().pixels[[3, 31, 20]], torch.zeros(1, 1, 8, 8, dtype=torch.uint8)])
    (tmp_path / "stages/s/artifacts").mkdir(parents=True)
    np.savez(tmp_path / "stages/s/artifacts/samples.npz", images=samples.movedim(1, -1).numpy())
    run_stage(build("evaluate", metrics=["class_balance"]), tmp_path)
    made = artifacts(tmp_path, "npz")["nearest.npz"]
    assert made["nearest"].shape == (4, 4, 8, 8, 1) and made["distance"].dtype == np.float32
    assert (
        np.array_equal(made["nearest"][:3, 0], made["samples"][:3]) and (made["distance"][:3, 0] == 0).all()
    )
    every = (
        (samples[:, None].double() - TinyDataset().pixels.double()).div(255).square().mean((2, 3, 4)).sqrt()
    )
    assert torch.allclose(torch.from_numpy(made["distance"]), every.sort(1).values[:, :4].float(), atol=1e-6)


def test_rgb_images_without_labels_test_split_and_quantizer_can_be_evaluated(tmp_path):
    dataset = Plain()
    run_stage(build("sample", dataset, sampler={"use": "euler", "steps": 2}, count=3), tmp_path)
    run_stage(build("evaluate", dataset, metrics=["psnr", "frechet_mnist"]), tmp_path)
    made = artifacts(tmp_path, "npz")
    assert made["path.npz"]["frames"].shape == (3, 3, 8, 8, 3)
    assert made["nearest.npz"]["nearest"].shape == (3, 4, 8, 8, 3)
    assert made["reconstructions.npz"].keys() == {"originals", "reconstructions"}
    told = artifacts(tmp_path, "json")
    assert "codebook.json" not in told and told["metrics.json"]["results"]["floor"] == {}


def test_a_stage_alone_is_done_anew_and_leaves_runs_in_peace(tmp_path):
    torch.manual_seed(0)
    autoencoder = TinyAutoencoder()
    train = build("train_autoencoder", autoencoder=autoencoder, steps=12)
    before = autoencoder.encoder.weight.clone()
    run_stage(train, tmp_path, name="first")
    assert not torch.equal(autoencoder.encoder.weight, before) and not autoencoder.training
    run_stage(build("train_autoencoder", autoencoder=autoencoder, steps=2), tmp_path, name="first")
    assert [path.name for path in (tmp_path / "stages/first/checkpoints").iterdir()] == ["2"]
    with pytest.raises(MistakeError, match=r"has no samples\.npz yet"):
        run_stage(build("evaluate", metrics=["psnr"]), tmp_path)
    (tmp_path / "recipe.toml").write_text("")
    with pytest.raises(MistakeError, match="folder of a recipe's run"):
        run_stage(train, tmp_path)
    assert (tmp_path / "stages/first").is_dir()


def test_samples_of_a_stage_alone_are_those_of_its_seed(tmp_path):
    stage = build("sample", sampler={"use": "euler", "steps": 2}, count=3)
    for seed in (1, 2):
        run_stage(stage, tmp_path / str(seed), name="s", seed=seed)
    images = [load_images(tmp_path / seed / "stages/s/artifacts/samples.npz") for seed in "12"]
    assert not torch.equal(*images)
