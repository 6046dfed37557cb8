"""``uldm sample`` on a real, very small run: images, the way to them, and what lies between."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve
from click.shell_completion import ShellComplete
from PIL import Image, ImageSequence

from uldm_core import MistakeError
from uldm_core.cli import main as program
from uldm_core.engine.opened_run import TrainedRun
from uldm_core.engine.run import run as run_recipe
from uldm_core.engine.signals import Interrupted, Stop
from uldm_core.errors import RunWarning
from uldm_core.recipe import Recipe
from uldm_core.run_folder.folder import RunFolder
from uldm_plugins.commands.sample import _number
from uldm_plugins.denoisers.mlp import MLP
from uldm_plugins.stages.train_diffusion import TrainDiffusion

PAGE = (Path(__file__).parents[1] / "docs/better_samples.md").read_text("utf-8")
TINY = (
    "dataset.limit=40",
    "autoencoder.encoder_channels=[8, 16]",
    "autoencoder.decoder_channels=[8, 16]",
    "discriminator.channels=[8, 16, 32]",
    "denoiser.width=32",
    "denoiser.hidden=32",
    "stages.first.steps=2",
    "stages.second.steps=2",
    "stages.samples.count=6",
    "stages.samples.batch_size=6",
)
ALL_AT_ONCE = """
from uldm_core import Component, hookimpl

class AllAtOnce:
    '''One step, whatever is wished.'''

    def __call__(self, denoise, noise_scheduler, noise, generator):
        t = noise.new_ones(len(noise))
        return noise_scheduler.split(denoise(noise, t), noise, t)[0]

@hookimpl
def uldm_components():
    return [Component("sampler", "all_at_once", AllAtOnce)]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "tiny"
    assert program._run(["run", "mnist_smoke", *TINY, "--until", "samples", "--out", str(folder)]) == 0
    return folder


def test_a_run_of_a_version_whose_training_made_fewer_artifacts_still_draws(uldm, run, tmp_path):
    shutil.copytree(run, tmp_path / "x")
    folder = RunFolder(tmp_path / "x").stage("second")
    record, made = folder.record(), TrainDiffusion.makes
    assert made and all(f"artifacts/{name}" in record.files for name in made)
    for name in made:
        folder.artifact(name).unlink()
    assert uldm("sample", tmp_path / "x", "--count", "2", "--out", "a.npz")[0] == 2, "they are missing"
    files = {name: size for name, size in record.files.items() if not name.startswith("artifacts/")}
    folder.write_record(evolve(record, files=files, digests={name: record.digests[name] for name in files}))
    code, _, errors = uldm("sample", tmp_path / "x", "--count", "2", "--out", "a.npz")
    assert code == 0 and Path("a.npz").is_file(), errors


def test_a_sampler_is_chosen_and_set_on_the_command_line(uldm, run, tmp_path):
    draw = ("sample", run, "--count", 4)
    assert uldm(*draw, "--out", "own.npz")[0] == 0
    assert uldm(*draw, "--out", "same.npz", "--sampler", "euler", "--steps", 5)[0] == 0
    assert uldm(*draw, "--out", "other.npz", "--sampler", "ddim", "steps=3", "eta=1")[0] == 0
    own, same, other = ((tmp_path / f"{name}.npz").read_bytes() for name in ("own", "same", "other"))
    assert own == same != other
    assert "at 6 times" in uldm(*draw, "--trajectory", "five.png")[2]
    assert "at 4 times" in uldm(*draw, "--trajectory", "three.png", "--steps", 3)[2]


def test_an_unfinished_run_is_sampled_from_its_last_checkpoint(uldm, run, tmp_path, monkeypatch):
    """The autoencoder is that of the stage that is done, the denoiser the average in the checkpoint."""
    cut, stop, step = shutil.copytree(run, tmp_path / "cut"), Stop(), TrainDiffusion.step

    def stopping(self, number, context):
        if number == 2:
            stop.request()
        return step(self, number, context)

    monkeypatch.setattr(TrainDiffusion, "step", stopping)
    with pytest.raises(Interrupted):
        run_recipe(Recipe.load(cut, ["stages.second.steps=4"]), out=cut, stop=stop)
    monkeypatch.setattr(TrainDiffusion, "prepare", lambda *_: pytest.fail("the data are read"))
    with pytest.warns(RunWarning, match=r"cut is unfinished \(stage second, step 3 of 4\)"):
        opened = TrainedRun.open(cut)
    saved = opened.folder.stage("second").checkpoints.load(3)
    weights, scaling = opened.component("denoiser").parameters(), opened.component("latent_scaling")
    assert all(map(torch.equal, weights, saved["ema"]["parameters"]))
    assert not opened.component("denoiser").training
    assert all(map(torch.equal, scaling.state_dict().values(), saved["latent_scaling"].values()))
    assert uldm("sample", cut, "--count", 4, "--out", "cut.npz")[0] == 0
    for step in (2, 3):
        (cut / f"stages/second/checkpoints/{step}/state.json").write_text("{")
    code, _, errors = uldm("sample", cut, "--count", 4, "--out", "none.npz")
    assert code == 2 and "stages.second is not done, and no checkpoint of it is whole" in errors


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("stages.second.lr_schedule.warmup=7", "denoiser is not trained yet"),
        ("stages.first.steps=3", "autoencoder was trained for 2 steps"),
    ],
)
def test_an_unfinished_run_of_other_options_is_not_sampled(run, tmp_path, edit, said):
    cut = RunFolder(shutil.copytree(run, tmp_path / "cut"))
    cut.stage("second").write_record(evolve(cut.stage("second").record(), done=False))
    with pytest.raises(MistakeError, match=said):
        TrainedRun.open(cut.path, overrides=(edit,)).require_trained("autoencoder", "denoiser")


@pytest.fixture(scope="module")
def conditional(run, tmp_path_factory):
    folder = shutil.copytree(run, tmp_path_factory.mktemp("sample") / "conditional")
    text = next(code for code in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "labels" in code)
    recipe = folder.parent / "digits.toml"
    recipe.write_text(text.replace("mnist_latent", "mnist_smoke"))
    assert program._run(["run", str(recipe), *TINY, "--until", "samples", "--out", str(folder)]) == 0
    return folder


def test_images_of_a_class_are_drawn_and_classes_take_turns(uldm, conditional, tmp_path, monkeypatch):
    asked, forward = [], MLP.forward

    def noted(self, latents, time, condition=None):
        asked.append(condition.tolist())
        return forward(self, latents, time, condition)

    monkeypatch.setattr(MLP, "forward", noted)

    def drawn(*options):
        asked.clear()
        assert uldm("sample", conditional, "--out", "a.npz", "--force", "--count", 6, *options)[0] == 0
        with np.load(tmp_path / "a.npz") as arrays:
            assert all(condition == arrays["classes"].tolist() for condition in asked)
        return asked[0]

    own = drawn()
    assert len(set(own)) > 1 and set(own) <= set(range(10))
    assert drawn("--class", "3") == [3] * 6 and drawn("--class", 3, "--class", 8) == [3, 8] * 3
    with np.load(conditional / "stages/samples/artifacts/samples.npz") as arrays:
        assert arrays["classes"].dtype == np.int64 and arrays["classes"].shape == (6,)
    labels = []
    monkeypatch.setattr(
        "uldm_plugins.pictures.tables.save_table", lambda *_, row_labels, **__: labels.extend(row_labels)
    )
    assert (
        uldm("sample", conditional, "--trajectory", "a.png", "--count", 2, "--class", 3, "--class", 8)[0] == 0
    )
    assert uldm("sample", conditional, "--interpolate", "b.png", "--count", 1, "--class", 4)[0] == 0
    assert labels == ["image 1, class 3", "image 2, class 8", "pair 1, class 4"]


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        ("conditional", "error: --class 10: the run's condition has classes 0 to 9\n"),
        ("run", "error: --class 3: the run has no [condition], so its denoiser knows no classes\n"),
    ],
)
def test_a_class_that_the_run_does_not_have_is_said_before_its_networks_are_loaded(
    uldm, request, tmp_path, monkeypatch, trained, said
):
    monkeypatch.setattr(TrainedRun, "stage", lambda *_: pytest.fail("the stage is built"))
    folder = request.getfixturevalue(trained)
    code, out, error = uldm("sample", folder, "--out", "a.png", "--class", 3, "--class", 10)
    assert (code, out) == (2, "") and error.startswith(said)
    assert not (tmp_path / "a.png").exists()


def test_classes_are_known_by_their_names_without_the_data(conditional, monkeypatch):
    monkeypatch.setattr(TrainedRun, "_open", lambda *_: pytest.fail("the data are opened"))
    opened = TrainedRun.open(conditional)
    assert opened.component("condition").class_names == list("0123456789")
    assert _number("cat", 3, ["dog", "cat", "1"]) == 1 and _number("1", 3, ["dog", "cat", "1"]) == 2
    assert _number("0", 3, ["dog", "cat", "1"]) == _number("0", 3, []) == 0
    with pytest.raises(
        MistakeError, match=r"--class cats: .* classes 0 to 1 \(did you mean 'cat'\?\)"
    ) as caught:
        _number("cats", 2, ["dog", "cat"])
    assert caught.value.problems[0].hint == "they are called dog, cat"


def test_a_trajectory_and_what_lies_between_two_noises_are_drawn(uldm, run, tmp_path):
    assert "3 images at 6 times" in uldm("sample", run, "--count", 3, "--trajectory", "path.png")[2]
    assert uldm("sample", run, "--count", 8, "--trajectory", "path.gif")[0] == 0  # of two batches
    assert "2 pairs, 8 images each" in uldm("sample", run, "--count", 2, "--interpolate", "arcs.png")[2]
    assert uldm("sample", run, "--count", 1, "--interpolate", "arcs.gif")[0] == 0
    with Image.open(tmp_path / "path.gif") as gif:
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(gif)]
        assert len(times) == 6 and times[-1] == max(times) > 2000 and gif.info["loop"] == 0
    with Image.open(tmp_path / "arcs.gif") as gif:
        frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(gif)]
    assert np.array_equal(frames[1][30:], frames[-1][30:]), "it goes back the way it came"
    with Image.open(tmp_path / "path.png") as low, Image.open(tmp_path / "arcs.png") as wide:
        assert low.width < wide.width and low.height > wide.height  # 6 columns of 3 rows, 8 of 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give one of --out, --trajectory, --interpolate"),
        (["--out", "a.png", "--trajectory", "b.png"], "give one of --out, --trajectory, --interpolate"),
        (["--out", "there.png"], "--out there.png: exists already"),
        (["--out", "folder.png"], "--out folder.png: is a folder"),
        (["--trajectory", "a.npz"], "--trajectory a.npz: must end in .png or .gif"),
        (["--interpolate", "no/a.gif"], "--interpolate no/a.gif: there is no folder no"),
        (["--trajectory", "a.gif", "--count", "101"], "--count 101: --trajectory shows 100 at most"),
        (["--out", "a.png", "--sampler", "huen"], "unknown sampler 'huen' (did you mean 'heun'?)"),
        (
            ["--out", "a.png", "--sampler", "all_at_once", "--steps", "3"],
            "sampler.steps: unknown option 'steps'",
        ),
        (["--out", "a.png", "stepz=3"], "unknown option 'stepz' (did you mean 'steps'?)"),
        (["--out", "a.png", "shift=-1"], "sampler.shift: expected a number > 0, got -1"),
        (["--out", "a.png", "shift"], "expected KEY=VALUE"),
        (
            ["--interpolate", "a.png", "--sampler", "ddpm", "--steps", "3"],
            "it adds noise of its own on the way",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said_before_or_at_once(uldm, run, tmp_path, arguments, said):
    (tmp_path / "there.png").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "once.py").write_text(ALL_AT_ONCE)
    code, out, error = uldm("sample", run, *arguments, "--plugin", "once.py")
    assert code == 2 and said in error and out == "" and "Traceback" not in error
    assert (tmp_path / "there.png").read_text() == "mine" and not (tmp_path / "a.png").exists()


def test_a_file_is_overwritten_where_that_is_wanted(uldm, run, tmp_path):
    (tmp_path / "a.png").write_text("old")
    assert uldm("sample", run, "--count", 1, "--out", "a.png", "--force") == (
        0,
        "",
        "[samples] drawing images: 1\na.png: 1 image\n",
    )
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (64, 64)


def test_a_sampler_of_a_plugin_that_keeps_the_protocol_has_a_path_too(uldm, run, tmp_path):
    (tmp_path / "once.py").write_text(ALL_AT_ONCE)
    ask = ("--sampler", "all_at_once", "--plugin", "once.py", "--count", 2)
    assert "2 images at 2 times" in uldm("sample", run, *ask, "--trajectory", "a.png")[2]
    assert uldm("sample", run, *ask, "--interpolate", "b.png")[0] == 0


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
def test_an_interrupt_ends_a_batch_in_its_midst_and_writes_nothing(run, tmp_path):
    code = "import sys; from uldm_core.cli.main import main; main(sys.argv[1:])"
    asked = ("--sampler", "euler", "--steps", "1000000", "--out", tmp_path / "a.png", "--threads", "1")
    words = [sys.executable, "-u", "-c", code, "sample", run, *asked]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert "drawing images: 100" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "nothing is written" in error and "Traceback" not in error
    assert not (tmp_path / "a.png").exists()


def test_the_shell_completes_samplers():
    completions = ShellComplete(program.cli, {}, "uldm", "_ULDM_COMPLETE")
    found = completions.get_completions(["sample", "runs/x", "--sampler"], "euler")
    assert [one.value for one in found] == ["euler", "euler_ancestral"]
