"""What trainers show of themselves: when, what, and that training is the same bit for bit."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from uldm_core.engine import loop
from uldm_core.engine.progress import Silent
from uldm_core.engine.run import run
from uldm_core.engine.signals import Interrupted, Stop
from uldm_core.recipe import Recipe
from uldm_core.run_folder.files import read_tensors
from uldm_core.run_folder.folder import RunFolder
from uldm_plugins.pictures.codes import code_colours

SMOKE = Path(__file__).parent.parent / "recipes" / "mnist_smoke.toml"
TINY = (
    "dataset.limit=64",
    "autoencoder.quantizer.codebook_size=16",
    "discriminator.channels=[4, 8, 8]",
    "denoiser.width=32",
    "denoiser.hidden=32",
    "stages.first.steps=6",
    "stages.first.batch_size=8",
    "stages.first.adversarial.start=2",
    "stages.second.steps=5",
    "stages.second.batch_size=8",
)
WEIGHTS = ("first/weights/autoencoder", "second/weights/denoiser", "second/weights/latent_scaling")
STATES = ("first/checkpoints/6/state", "second/checkpoints/5/state")


def tiny(previews):
    shown = (f"stages.first.previews={previews}", f"stages.second.previews={previews}")
    return Recipe.load(SMOKE, (*TINY, *shown))


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    return run(tiny(3), out=tmp_path_factory.mktemp("runs") / "shown", until="second")


def files(folder):
    paths = [*folder.glob("stages/*/images/*/*.png"), *folder.glob("stages/*/metrics.jsonl")]
    return {str(path.relative_to(folder)): path for path in paths}


def assert_same_training(ours, theirs):
    for name in (*WEIGHTS, *STATES):
        paths = [folder / "stages" / f"{name}.safetensors" for folder in (ours, theirs)]
        assert paths[0].read_bytes() == paths[1].read_bytes(), name


def test_previews_change_no_bit_of_what_is_trained(shown, tmp_path):
    quiet = run(tiny(0), out=tmp_path / "quiet", until="second")
    assert not list(quiet.glob("stages/*/images"))
    assert_same_training(shown, quiet)


def test_previews_are_spread_over_the_training(shown):
    names = {str(path.relative_to(shown / "stages")) for path in shown.glob("stages/*/images/*/*.png")}
    names_of = ("reconstructions", "codes")
    first = {f"first/images/{name}/{step:08d}.png" for name in names_of for step in (2, 4, 6)}
    assert names == first | {f"second/images/samples/{step:08d}.png" for step in (2, 4, 5)}


@pytest.mark.parametrize(
    ("steps", "previews", "wanted"),
    [(100, 4, {25, 50, 75, 100}), (3, 8, {1, 2, 3}), (7, 1, {7}), (7, 0, set()), (1, 2, {1})],
)
def test_steps_of_previews(steps, previews, wanted):
    class Shows:
        preview_options = ("previews",)

        def preview(self, step, context):
            pass

    trainer = Shows()
    trainer.steps, trainer.previews = steps, previews
    assert loop._preview_steps(trainer) == wanted
    assert loop._preview_steps(object()) == set()


def cell(path, index, side=28, gap=2, scale=2):
    """Return one grey image of a grid of ten a row, its transparency left out."""
    picture = np.asarray(Image.open(path))[::scale, ::scale, 0]
    top, left = (place * (side + gap) + gap for place in divmod(index, 10))
    return picture[top : top + side, left : left + side]


def test_reconstructions_stand_behind_test_images(shown):
    from uldm_core import registry

    test = registry.build("dataset", "mnist").split("test")
    path = shown / "stages/first/images/reconstructions/00000006.png"
    for place in (0, 1, 7):
        assert np.array_equal(cell(path, 2 * place), test.images([place])[0, 0].numpy())
        assert not np.array_equal(cell(path, 2 * place + 1), cell(path, 2 * place))


def test_the_last_reconstructions_are_those_of_the_averaged_weights(shown):
    """They are what later stages get, and not the weights of the last step."""
    from uldm_core.engine.opened_run import TrainedRun
    from uldm_plugins.stages.latents import reconstruct

    trained = TrainedRun.open(shown)
    context = trained.context("first", 0)
    test = trained.component("dataset").split("test")
    batch = next(reconstruct(test, trained.component("autoencoder"), context))
    path = shown / "stages/first/images/reconstructions/00000006.png"
    difference = np.abs(cell(path, 1).astype(int) - batch[0, 0].numpy().astype(int))
    assert difference.max() <= 1


def test_a_colour_stands_for_a_code(shown):
    colours = np.asarray(Image.open(shown / "stages/first/images/codes/00000006.png").convert("RGB"))
    place = colours[4 : 4 + 28 * 2, 4 : 4 + 28 * 2]
    assert place.shape == (56, 56, 3)
    blocks = place.reshape(7, 8, 7, 8, 3)
    assert (blocks == blocks[:, :1, :, :1]).all(), "a square a code"
    known = {tuple(colour) for colour in code_colours(16).tolist()}
    assert {tuple(colour) for colour in place.reshape(-1, 3).tolist()} <= known


def test_without_a_quantizer_there_are_no_codes(tmp_path):
    plain = (
        "autoencoder.use=autoencoder_kl",
        "autoencoder.block_out_channels=[32, 32]",
        "stages.first.steps=1",
    )
    tiny = [override for override in TINY if "quantizer" not in override and "first.steps" not in override]
    folder = run(Recipe.load(SMOKE, (*tiny, *plain)), out=tmp_path / "run", until="first")
    assert [path.name for path in (folder / "stages/first/images").iterdir()] == ["reconstructions"]


def test_samples_are_of_the_same_noise_each_time(tmp_path):
    """Where hardly anything is learned, the same noise gives nearly the same images."""
    still = ("stages.second.optimizer.lr=1e-9", "stages.second.previews=2")
    folder = run(Recipe.load(SMOKE, (*TINY, *still)), out=tmp_path / "run", until="second")
    before, after = (
        np.asarray(Image.open(path)).astype(int)
        for path in sorted(folder.glob("stages/second/images/samples/*.png"))
    )
    assert np.abs(before - after).max() <= 2 and before.std() > 10


def test_a_preview_that_fails_costs_the_training_nothing(shown, tmp_path, monkeypatch):
    tried, said = [], []

    def fail(*_):
        tried.append(1)
        torch.rand(5)
        raise ValueError("cannot be drawn")

    class Messages(Silent):
        def message(self, text):
            said.append(text)

    monkeypatch.setattr("uldm_plugins.stages.train_autoencoder.reconstructed", fail)
    folder = run(tiny(3), out=tmp_path / "run", until="second", reporter=Messages())
    (warning,) = [text for text in said if text.startswith("warning: stages.first")]
    assert "trains on without previews: ValueError: cannot be drawn" in warning and len(tried) == 1
    assert_same_training(shown, folder)


def test_a_process_of_few_timesteps_is_shown_in_as_few_steps(tmp_path):
    few = ("noise_scheduler.use=cosine", "noise_scheduler.timesteps=8")
    folder = run(Recipe.load(SMOKE, (*TINY, *few)), out=tmp_path / "run", until="second")
    assert len(list(folder.glob("stages/second/images/samples/*.png"))) == 5


def test_other_previews_are_no_other_training(shown):
    said = []

    class Messages(Silent):
        def message(self, text):
            said.append(text)

    other = ("stages.second.preview_sampler.use=heun", "stages.second.previews=1")
    run(Recipe.load(SMOKE, (*TINY, *other)), out=shown, until="second", reporter=Messages())
    assert said[-1].endswith("nothing to do: every stage is done")


def test_a_stopped_run_shows_what_an_uninterrupted_one_does(shown, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 1)

    class StopAt(Silent):
        def advanced(self, done, metrics, rate):
            stop.signum = signal.SIGTERM if metrics and done == 3 else 0

    for _ in range(2):
        stop = Stop()
        with pytest.raises(Interrupted):
            run(tiny(3), out=tmp_path / "cut", until="second", reporter=StopAt(), stop=stop)
    cut = run(tiny(3), out=tmp_path / "cut", until="second")
    assert_same_training(shown, cut)
    assert files(cut).keys() == files(shown).keys()
    for name in [name for name in files(cut) if name.endswith(".png")]:
        assert files(cut)[name].read_bytes() == files(shown)[name].read_bytes(), name


KILLED = """
import os, signal, sys
from uldm_core.engine import loop
from uldm_core.engine.run import run
from uldm_core.recipe import Recipe
from uldm_plugins.stages.train_autoencoder import TrainAutoencoder

loop.LOG_EVERY_STEPS = 1
step = TrainAutoencoder.step

def deadly(self, number, context):
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, number, context)

TrainAutoencoder.step = deadly
run(Recipe.load(sys.argv[1], sys.argv[3:]), out=sys.argv[2], until="first")
"""


@pytest.mark.slow
def test_a_killed_run_resumes_as_if_it_had_not_been(tmp_path, monkeypatch):
    overrides = (*TINY, "stages.first.previews=6", "run.checkpoint.every=2")
    command = [sys.executable, "-c", KILLED, str(SMOKE), str(tmp_path / "cut"), *overrides]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "cut/run.json").read_text())["state"] == "running"
    assert RunFolder(tmp_path / "cut").stage("first").checkpoints.steps() == [2, 4]
    assert len(list((tmp_path / "cut/stages/first/images/reconstructions").iterdir())) == 5
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 1)
    folders = [
        run(Recipe.load(SMOKE, overrides), out=tmp_path / name, until="first") for name in ("cut", "whole")
    ]
    weights = [read_tensors(folder / "stages/first/weights/autoencoder.safetensors") for folder in folders]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[1])
    cut, whole = map(files, folders)
    assert cut.keys() == whole.keys() and len(cut) == 13
    for name in [name for name in cut if name.endswith(".png")]:
        assert cut[name].read_bytes() == whole[name].read_bytes(), name
    assert logged(cut) == logged(whole)


def logged(found):
    lines = map(json.loads, found["stages/first/metrics.jsonl"].read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]
