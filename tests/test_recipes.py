"""Recipes, run: the shipped ones, a stranger's plugin in them, stopping and going on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shipped import RUNNABLE, loaded, write_images

from uldm_core import check, registry
from uldm_core.engine.progress import Silent
from uldm_core.engine.run import run
from uldm_core.engine.signals import Interrupted, Stop
from uldm_core.preflight.preflight import preflight
from uldm_core.recipe import Recipe
from uldm_core.run_folder.checkpoint import read_state
from uldm_core.run_folder.files import read_tensors

ROOT = Path(__file__).parent.parent
SMOKE = ROOT / "recipes" / "mnist_smoke.toml"
TINY = (
    "dataset.limit=64",
    "autoencoder.quantizer.codebook_size=16",
    "discriminator.channels=[4, 8, 8]",
    "denoiser.width=32",
    "denoiser.hidden=32",
    "stages.first.steps=4",
    "stages.first.batch_size=8",
    "stages.first.adversarial.start=2",
    "stages.first.lr_schedule.warmup=0",
    "stages.first.optimizer.lr=0.01",
    "stages.second.steps=4",
    "stages.second.batch_size=8",
    "stages.samples.count=12",
)


def process(*arguments, **options):
    """Run a command in a process of its own; where that is not the point, the fixture ``uldm`` is quicker."""
    command = [sys.executable, "-m", "uldm_core.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_shipped_recipes_have_no_problems(path, folder):
    assert check(loaded(path, folder)) == []
    assert path.read_text("utf-8").startswith("# ")


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_everything_in_a_shipped_recipe_can_be_measured_before_it_runs(path, folder):
    found = preflight(loaded(path, folder).resolve())
    assert not found.problems and not [row for row in found.rows if row.why]


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    return run(Recipe.load(SMOKE, TINY), out=tmp_path_factory.mktemp("runs") / "tiny")


def test_a_run_leaves_everything_in_its_folder(tiny_run):
    assert np.asarray(Image.open(tiny_run / "samples.png")).max() > 0
    with np.load(tiny_run / "stages/samples/artifacts/samples.npz") as file:
        assert file["images"].shape == (12, 28, 28, 1) and file["images"].dtype == np.uint8
    results = json.loads((tiny_run / "metrics.json").read_text())["results"]
    assert set(results) == {"samples", "reconstructions", "floor", "originals"}
    assert all(np.isfinite(list(result.values())).all() for result in results.values())
    lines = (tiny_run / "stages/second/metrics.jsonl").read_text("utf-8").splitlines()
    logged = [json.loads(line) for line in lines]
    assert logged[-1]["step"] == 4 and logged[-1]["loss"] > 0
    assert not list(tiny_run.rglob("*.pkl")) and not list(tiny_run.rglob("*.pt"))


def test_later_stages_get_the_scaling_that_was_fitted(tiny_run):
    scaling = read_tensors(tiny_run / "stages/second/weights/latent_scaling.safetensors")
    assert scaling["std"].shape == (4,) and not torch.equal(scaling["std"], torch.ones(4))


def test_sampling_a_run_gives_the_same_bytes_for_a_seed(uldm, tiny_run, tmp_path):
    images = []
    other = process("sample", tiny_run, "--count", 9, "--seed", 1, "--out", tmp_path / "a.npz")
    assert other.returncode == 0, other.stderr
    for name, seed in (("b", 1), ("c", 2)):
        code, _, errors = uldm(
            "sample", tiny_run, "--count", 9, "--seed", seed, "--out", tmp_path / f"{name}.npz"
        )
        assert code == 0, errors
    for name in "abc":
        with np.load(tmp_path / f"{name}.npz") as file:
            images.append(file["images"])
    assert images[0].shape == (9, 28, 28, 1)
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])


def test_reconstructing_a_split_keeps_its_order_and_size(uldm, tiny_run, tmp_path):
    out = tmp_path / "reconstructions.npz"
    assert uldm("reconstruct", tiny_run, "--split", "test", "--out", out)[0] == 0
    with np.load(out) as file:
        assert file["images"].shape == (64, 28, 28, 1)
    code, _, errors = uldm("reconstruct", tiny_run, "--split", "moon", "--out", out)
    assert code == 2 and "no split 'moon'" in errors


def test_commands_refuse_what_they_cannot_use(uldm, tiny_run, tmp_path):
    for arguments, said in [
        (("sample", tmp_path, "--out", tmp_path / "x.npz"), "is not a run"),
        (("sample", tiny_run, "--out", tmp_path / "x.jpeg"), "must end in .npz or .png"),
        (("sample", tiny_run, "--out", tmp_path / "no" / "x.png"), "there is no folder"),
    ]:
        code, _, errors = uldm(*arguments)
        assert code == 2 and said in errors and "Traceback" not in errors


def test_the_textbook_pipeline_runs_with_few_steps(tmp_path):
    overrides = [
        *TINY[:1],
        "autoencoder.quantizer.codebook_size=16",
        "stages.first.steps=2",
        "stages.first.batch_size=4",
        "stages.first.adversarial.start=1",
        "stages.second.steps=2",
        "stages.second.batch_size=4",
        "stages.samples.count=6",
        "noise_scheduler.timesteps=8",
        "stages.samples.sampler.steps=8",
    ]
    folder = run(Recipe.load(ROOT / "recipes" / "mnist_ddpm.toml", overrides), out=tmp_path / "ddpm")
    assert (folder / "samples.png").is_file()


@pytest.mark.parametrize("recipe", ["mnist_classifier", "mnist_judge"])
def test_the_classifier_recipes_train_and_print_their_accuracy(tmp_path, recipe):
    overrides = ["dataset.limit=256", "stages.training.steps=30", "stages.training.batch_size=32"]
    folder = run(Recipe.load(ROOT / "recipes" / f"{recipe}.toml", overrides), out=tmp_path / recipe)
    record = json.loads((folder / "stages/training/stage.json").read_text())
    assert 0.2 < record["summary"]["test_accuracy"] <= 1
    weights = folder / "stages/training/weights/backbone.safetensors"
    again = registry.build("backbone", recipe, weights=str(weights))
    assert not any(parameter.requires_grad for parameter in again.parameters())


def interrupted_at(step, stage):
    """A stop that asks to stop after so many steps of a stage, as a reporter that counts would."""
    stop = Stop()

    class Counter(Silent):
        current = ""

        def started(self, name, *_):
            self.current = name

        def advanced(self, done, metrics, rate):
            if self.current == stage and metrics and done >= step:
                stop.signum = signal.SIGINT

    return stop, Counter()


@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_stopped_run_resumes_to_the_same_weights(tmp_path, monkeypatch, stage):
    monkeypatch.setattr("uldm_core.engine.loop.LOG_EVERY_STEPS", 1)
    overrides = (*TINY, "stages.first.steps=6", "stages.second.steps=6")
    whole = run(Recipe.load(SMOKE, overrides), out=tmp_path / "whole", until=stage)
    stop, counter = interrupted_at(3, stage)
    with pytest.raises(Interrupted):
        run(Recipe.load(SMOKE, overrides), out=tmp_path / "stopped", until=stage, stop=stop, reporter=counter)
    state = read_state(tmp_path / "stopped" / "stages" / stage / "checkpoints" / "3")
    assert "optimizer" in state
    stopped = run(Recipe.load(SMOKE, overrides), out=tmp_path / "stopped", until=stage)
    for weights in (whole / "stages" / stage / "weights").iterdir():
        ours = read_tensors(stopped / "stages" / stage / "weights" / weights.name)
        for name, tensor in read_tensors(weights).items():
            assert torch.equal(tensor, ours[name]), name


def test_changing_the_denoiser_does_not_train_the_autoencoder_again(tmp_path):
    out = tmp_path / "run"
    run(Recipe.load(SMOKE, TINY), out=out, until="second")
    trained = out / "stages/first/weights/autoencoder.safetensors"
    before = trained.stat().st_mtime_ns
    run(Recipe.load(SMOKE, [*TINY, "denoiser.depth=2"]), out=out, until="second")
    assert trained.stat().st_mtime_ns == before
    assert [path.name.split("-")[0] for path in (out / "set_aside").iterdir()] == ["second"]


def test_the_discriminator_is_left_without_gradients_by_the_generator(monkeypatch):
    """Only the discriminator's own loss may reach its parameters."""
    resolved = Recipe.load(SMOKE, [*TINY, "stages.first.adversarial.start=0"]).resolve()
    from uldm_core.engine.components import RunComponents
    from uldm_core.engine.context import Context
    from uldm_core.engine.device import choose_device
    from uldm_core.run_folder.stage_folder import StageFolder

    machine = choose_device(resolved.run)
    trainer = RunComponents.of(resolved, machine).build(resolved.stages["first"])
    context = Context("first", 0, machine, StageFolder(Path("unused")))
    trainer.prepare(context)
    monkeypatch.setattr(trainer, "discriminator_step", lambda loss, step: None)
    trainer.step(0, context)
    assert all(parameter.grad is None for parameter in trainer.adversary.discriminator.parameters())
    assert any(p.grad.abs().sum() > 0 for p in trainer.autoencoder.parameters())


@pytest.fixture(scope="module")
def acme(tmp_path_factory):
    """The stranger's distribution, installed into a folder of its own."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    source = ROOT / "tests" / "plugins" / "acme_uldm"
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": str(target)}


def test_an_installed_plugin_is_listed_with_its_distribution(acme):
    rows = json.loads(process("ls", "quantizer", "--json", env=acme).stdout)
    row = next(row for row in rows if row["name"] == "acme_grid")
    assert (row["distribution"], row["plugin"], row["version"]) == ("acme-uldm", "acme", "1.0")


def test_an_installed_plugins_component_is_checked_by_its_registration_alone(acme):
    lines = process("check", "quantizer/acme_grid", "levels=5", env=acme).stdout.splitlines()
    assert lines[0] == "quantizer/acme_grid (acme-uldm 1.0)"
    assert "0 failed" in lines[-1] and sum(line.startswith("  passed") for line in lines) > 15


@pytest.mark.parametrize("name", ["acme_grid", "acme/acme_grid"])
def test_a_recipe_that_differs_in_one_word_trains_with_it(acme, tmp_path, name):
    recipe = tmp_path / "acme.toml"
    recipe.write_text(SMOKE.read_text("utf-8").replace("vq_ema", name), "utf-8")
    tiny = [override for override in TINY if "codebook_size" not in override]
    result = process("run", recipe, *tiny, "--out", tmp_path / "run", env=acme)
    assert result.returncode == 0, result.stderr
    assert "acme-uldm 1.0" in (tmp_path / "run" / "environment.json").read_text()


def test_a_component_comes_from_a_file(uldm, tmp_path):
    code = next(b for b in (ROOT / "README.md").read_text("utf-8").split("```python\n") if "MyQuantizer" in b)
    (tmp_path / "my_idea.py").write_text(code.partition("```")[0], "utf-8")
    arguments = ["autoencoder.quantizer=mine", "--plugin", tmp_path / "my_idea.py", "--until", "first"]
    tiny = [override for override in TINY if "codebook_size" not in override]
    code, _, errors = uldm("run", SMOKE, *tiny, *arguments, "--out", tmp_path / "run")
    assert code == 0, errors
    assert 'use = "mine"' in (tmp_path / "run" / "recipe.toml").read_text("utf-8")


def test_ctrl_c_saves_the_state_and_the_next_run_resumes(tmp_path):
    overrides = [*TINY, "stages.first.steps=100000"]
    command = [sys.executable, "-m", "uldm_core.cli.main", "run", str(SMOKE), *overrides, "--until", "first"]
    command += ["--out", str(tmp_path / "run"), "--threads", "1"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "stages" / "first" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, errors = running.communicate(timeout=30)
    assert time.monotonic() - start < 10
    assert running.returncode == 130, errors
    assert "the state is saved" in errors and "Traceback" not in errors
    assert "\x1b" not in errors and "\r" not in errors  # plain lines where there is no terminal
    (checkpoint,) = (tmp_path / "run" / "stages" / "first" / "checkpoints").iterdir()
    steps = int(checkpoint.name)
    again = run(
        Recipe.load(SMOKE, [*TINY, f"stages.first.steps={steps + 3}"]), out=tmp_path / "longer", until="first"
    )
    assert json.loads((again / "stages/first/stage.json").read_text())["done"]


def test_bfloat16_runs_the_same_stages(tmp_path):
    folder = run(
        Recipe.load(SMOKE, [*TINY, 'run.precision="bfloat16"']), out=tmp_path / "run", until="samples"
    )
    weights = read_tensors(folder / "stages/first/weights/autoencoder.safetensors")
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights.values())
    assert all(torch.isfinite(tensor).all() for tensor in weights.values() if tensor.is_floating_point())


def test_a_device_that_is_not_there_is_refused(uldm, tmp_path):
    code, _, errors = uldm("run", SMOKE, "--device", "cuda:63", "--out", tmp_path)
    assert code == 2 and "device 'cuda:63' cannot be used" in errors


def test_the_resolved_recipe_of_a_run_is_done_already_in_under_five_seconds(tiny_run):
    def seconds():
        start = time.monotonic()
        result = process("run", tiny_run / "recipe.toml", "--out", tiny_run)
        assert result.returncode == 0, result.stderr
        assert "nothing to do: every stage is done" in result.stderr
        return time.monotonic() - start

    assert any(seconds() < 5 for _ in range(3))


SHORT = (
    "autoencoder.quantizer.codebook_size=16",
    "condition.classes=2",
    "stages.second.steps=8",
    "stages.second.batch_size=8",
    "stages.second.lr_schedule.warmup=0",
    "stages.samples.count=4",
    'stages.scores.metrics=["psnr"]',
)


@pytest.mark.slow
def test_a_run_is_continued_on_another_folder(folder, tmp_path):
    small = (
        "stages.tune.count=4",
        "denoiser.width=8",
        "denoiser.hidden=8",
        "stages.first.steps=2",
        "stages.first.batch_size=4",
    )
    first = run(loaded(ROOT / "recipes/images_latent.toml", folder, *SHORT, *small), out=tmp_path / "first")
    given = (f"vars.run={first}", *SHORT[1:])
    second = run(loaded(ROOT / "recipes/finetune.toml", folder, *given), out=tmp_path / "second")
    (before, after) = (
        read_tensors(path / "stages/second/weights/denoiser.safetensors") for path in (first, second)
    )
    assert before.keys() == after.keys() and any(
        not torch.equal(before[name], after[name]) for name in before
    )
    with np.load(second / "stages/samples/artifacts/samples.npz") as file:
        assert file["images"].shape == (4, 64, 64, 3)


@pytest.mark.slow
def test_a_minute_of_colour_images_goes_from_one_end_to_the_other(tmp_path):
    done = run(Recipe.load(ROOT / "recipes/texture_tiny.toml"), out=tmp_path / "textures")
    scores = json.loads((done / "metrics.json").read_text())["results"]
    assert scores["reconstructions"]["psnr"] > 20
    with np.load(done / "stages/samples/artifacts/samples.npz") as file:
        images = torch.from_numpy(file["images"]).float()
    # shapes of one colour on another: half of all pixels are as their right neighbours are
    assert (images[:, :, 1:] - images[:, :, :-1]).abs().amax(-1).lt(12).float().mean() > 0.6
