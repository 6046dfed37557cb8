"""The commands on real recipes and a real, very small run."""

import json
import re

import numpy as np
import pytest
import torch
from click.shell_completion import ShellComplete
from PIL import Image

from uldm_core import check, registry
from uldm_core.cli import main as program
from uldm_core.recipe import Recipe
from uldm_core.recipe.shipped import find, names
from uldm_plugins.datasets.mnist import Mnist
from uldm_plugins.stages.evaluate import Evaluate

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
    'stages.scores.metrics=["class_balance", "psnr"]',
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands") / "tiny"
    assert program._run(["run", "mnist_smoke", *TINY, "--out", str(folder)]) == 0
    return folder


def test_a_shipped_recipe_is_found_by_its_name_and_copied(uldm, tmp_path):
    code, out, _ = uldm("cp", "mnist_smoke")
    assert code == 0 and out == "wrote mnist_smoke.toml; run it with: uldm run mnist_smoke.toml\n"
    assert (tmp_path / "mnist_smoke.toml").read_bytes() == find("mnist_smoke").read_bytes()
    code, _, error = uldm("cp", "mnist_smoke")
    assert code == 2 and "mnist_smoke.toml exists already" in error
    assert uldm("cp", "uldm/mnist_smoke", "--force")[0] == 0
    assert uldm("cp", "mnist_latent", "other.toml")[0] == 0 and (tmp_path / "other.toml").is_file()
    code, _, error = uldm("cp", "mnist_smok")
    assert code == 2 and "(did you mean 'mnist_smoke'?)" in error and "shipped recipe: " in error
    assert "there is no recipe 'none.toml'" in uldm("cp", "none.toml")[2]
    assert "there is no folder nowhere" in uldm("cp", "mnist_smoke", "nowhere/x.toml")[2]


def test_shipped_recipes_are_listed_with_what_they_make(uldm):
    rows = json.loads(uldm("ls", "recipes", "--json")[1])
    assert [row["name"] for row in rows] == names() and all(row["summary"] for row in rows)
    assert "mnist_classifier  Makes the weights" in uldm("ls", "recipes")[1]


def test_a_new_recipe_is_right_and_has_the_schemas_line_on_top(uldm, tmp_path):
    code, out, _ = uldm("new", "recipe", "first.toml")
    assert code == 0 and "uldm run first.toml" in out and "uldm schema > uldm.schema.json" in out
    assert (tmp_path / "first.toml").read_text().startswith("#:schema ./uldm.schema.json\n")
    assert check(Recipe.load(tmp_path / "first.toml")) == []
    assert uldm("new", "recipe", "first.toml")[0] == 2
    assert uldm("new", "recipe")[0] == 0 and (tmp_path / "mine.toml").is_file()


def test_validate_says_nothing_of_what_is_right(uldm):
    assert uldm("validate", "mnist_smoke") == (0, "mnist_smoke: nothing is wrong\n", "")
    assert json.loads(uldm("validate", "mnist_smoke", "--json")[1]) == {"problems": [], "table": None}


def test_validate_says_everything_that_is_wrong_and_exits_with_2(uldm, tmp_path):
    text = find("mnist_smoke").read_text().replace("count = 100", "count = 0").replace('"mlp"', '"mpl"')
    (tmp_path / "r.toml").write_text(text)
    code, out, error = uldm("validate", "r.toml", "stages.first.steps=x")
    assert (code, out) == (2, "") and error.splitlines()[-1] == "r.toml: 3 problems"
    assert (
        "override 'stages.first.steps=x': stages.first.steps: expected an integer >= 1, got 'x'\n    "
        in error
    )
    assert re.search(
        r"^r.toml:\d+: denoiser.use: unknown denoiser 'mpl' \(did you mean 'mlp'\?\)$", error, re.M
    )
    rows = json.loads(uldm("validate", "r.toml", "--json")[1])["problems"]
    assert [row["key"] for row in rows] == ["denoiser.use", "stages.samples.count"]
    assert [row["code"] for row in rows] == ["unknown-component", "out-of-range"]
    assert rows[0]["source"] == "r.toml" and text.splitlines()[rows[0]["line"] - 1] == 'use = "mpl"'


def test_what_nothing_uses_is_a_mistake_to_validate_and_a_warning_to_run(uldm, tmp_path):
    (tmp_path / "r.toml").write_text(find("mnist_smoke").read_text() + '\n[small_denoiser]\nuse = "mlp"\n')
    code, _, error = uldm("validate", "r.toml")
    assert code == 2 and "small_denoiser: warning: nothing uses this component" in error
    code, out, error = uldm("run", "r.toml", "--dry-run")
    assert (
        code == 0 and "small_denoiser: warning: nothing uses this component" in error and "scores: do" in out
    )


def test_a_deep_validation_prints_sizes_and_costs(uldm):
    code, out, _ = uldm("validate", "mnist_smoke", "--deep")
    assert code == 0 and re.search(
        r"^denoiser: mlp +\[B, 4, 7, 7\] +[\d.]+ M +[\d.]+ M +~?[\d.]+ MB$", out, re.M
    )
    table = json.loads(uldm("validate", "mnist_smoke", "--deep", "--json")[1])["table"]
    assert {row["component"] for row in table} >= {"dataset: mnist", "autoencoder: vqvae_fast"}


def test_a_dry_run_says_what_each_stage_would_do_and_does_nothing(uldm, run, tmp_path):
    lines = uldm("run", "mnist_smoke", "--dry-run")[1].splitlines()[-4:]
    assert lines == [
        f"{stage}: do, nothing of it is there yet" for stage in ("first", "second", "samples", "scores")
    ]
    assert not (tmp_path / "runs").exists()
    changed = ["stages.samples.sampler.steps=4", "--out", run, "--dry-run"]
    lines = uldm("run", "mnist_smoke", *TINY, *changed)[1].splitlines()[-4:]
    assert lines == [
        "first: reuse, it is done",
        "second: reuse, it is done",
        "samples: redo, sampler.steps 5 -> 4",
        "scores: redo, samples.npz is made anew",
    ]
    other = ["stages.samples.sampler=heun", "--out", run, "--dry-run"]
    why = uldm("run", "mnist_smoke", *TINY, *other)[1].splitlines()[-2]
    assert why == 'samples: redo, sampler.use "euler" -> "heun"; sampler.steps 5 -> 10'


def test_diff_shows_the_options_that_differ(uldm, run):
    out = uldm("diff", "mnist_smoke", run)[1]
    assert "stages.first.steps: 60 -> 2\n" in out and "dataset.limit: 2000 -> 40\n" in out
    assert "versions" not in out
    rows = json.loads(uldm("diff", "mnist_smoke", run, "--json")[1])
    assert {"key": "stages.first.steps", "left": 60, "right": 2} in rows
    assert uldm("diff", run, run) == (0, "", "no option differs\n")
    assert uldm("diff", run, "none.toml")[0] == 2


def test_a_run_is_repeated_from_its_resolved_recipe(uldm, run, tmp_path):
    assert uldm("run", run / "recipe.toml", "--out", "again")[0] == 0
    for name in ("samples.png", "reconstructions.png", "metrics.json", "recipe.toml"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes(), name


def test_evaluate_measures_what_the_run_measured(uldm, run):
    report = json.loads(uldm("evaluate", run, "--json")[1])
    assert report == json.loads((run / "metrics.json").read_text())
    head, *rows = uldm("evaluate", run, "--metric", "psnr")[1].splitlines()
    assert head.split() == ["metric", "reconstructions"]
    assert rows[0].startswith("psnr") and f"{report['results']['reconstructions']['psnr']:.4g}" in rows[0]
    assert uldm("evaluate", run, "--metric", "codebook_usage")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere is not a run"),
        (["{run}", "--metric", "psnrr"], "did you mean 'psnr'?"),
        (["{run}", "--samples", "none.npz"], "there are no samples none.npz"),
        (["{run}", "--metric", "psnr", "--metric", "psnr"], "metrics: PSNR is listed twice"),
        (["{run}", "--samples", "one.npz", "--metric", "frechet_mnist"], "FrechetMnist cannot be measured: "),
        (["{run}", "--samples", "text.npz"], "text.npz: no .npz with images, uint8 [N, H, W, C]"),
        (["{run}", "--samples", "other.npz"], "other.npz: no .npz with images, uint8 [N, H, W, C]"),
        (
            ["{run}", "--samples", "small.npz"],
            "images are 5x5 with 1 channels; those of the run's dataset are 28x28 with 1 channels",
        ),
        (["{run}", "--samples", "line.npz"], "images are uint8 [2, 28]; "),
        (["{run}", "--samples", "floats.npz"], "images are float32 [2, 28, 28, 1]; "),
        (["{run}", "--samples", "none_in_it.npz"], "images are uint8 [0, 28, 28, 1]; "),
        (["{run}", "--backbone", "dummy"], "--backbone is for metrics that are named"),
        (["{run}", "--metric", "psnr", "--backbone", "dummy"], "--backbone: psnr has no such option"),
        (["{run}", "--against", "mnst"], "mnst is no folder, no .npz and no dataset"),
        (["{run}", "--against", "none.npz"], "there is no file none.npz"),
        (["{run}", "--against", "small.npz"], "28x28, small.npz has images of 5x5"),
        (["small.npz"], "small.npz is not a run: real images to compare it with are missing"),
        (["{run}", "--metrics", ","], "it names none"),
        (["{run}", "--against", ""], "it is empty"),
        (["{run}", "--size", "99999"], "Invalid value for '--size'"),
        (["small.npz", "--samples", "one.npz"], "--samples is for a run"),
        (["small.npz", "--against", "small.npz"], "name the metrics: --metrics NAME,NAME"),
        (["one.npz", "--against", "one.npz", "--metrics", "codebook_usage"], "missing option 'autoencoder'"),
        (["one.npz", "--against", "line.npz", "--metrics", "psnr"], "line.npz: images are uint8 [2, 28]"),
        (["one.npz", "--against", "four.npz", "--metrics", "psnr"], "four.npz has images of 4 channels"),
        (
            ["one.npz", "--against", "two.npz", "--metrics", "psnr"],
            "PSNR cannot be measured: 1 images against",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_said(uldm, run, tmp_path, arguments, said):
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", a=np.zeros((2, 28, 28, 1), np.uint8), b=np.zeros(3))
    for name, shape, kind in [
        ("one", (1, 28, 28, 1), np.uint8),
        ("two", (2, 28, 28, 1), np.uint8),
        ("four", (1, 28, 28, 4), np.uint8),
        ("small", (2, 5, 5, 1), np.uint8),
        ("line", (2, 28), np.uint8),
        ("floats", (2, 28, 28, 1), np.float32),
        ("none_in_it", (0, 28, 28, 1), np.uint8),
    ]:
        np.savez(tmp_path / f"{name}.npz", images=np.zeros(shape, kind))
    code, out, error = uldm("evaluate", *(part.format(run=run) for part in arguments))
    assert code == 2 and said in error and out == "" and "Traceback" not in error


def test_evaluate_warns_of_a_network_that_a_loss_of_the_run_trained_on(uldm, run, monkeypatch):
    monkeypatch.setattr(Evaluate, "report", lambda *a: {"results": {}, "counts": {}, "metrics": {}})
    monkeypatch.setattr("uldm_plugins.commands.evaluate._keep", lambda *a: None)
    metrics = ("--metrics", "kid,psnr")
    error = uldm("evaluate", run, *metrics, "--backbone", "mnist_classifier")[2]
    assert "kid: warning: measures in the features of mnist_classifier, on which stages.first" in error
    assert "flatters" not in uldm("evaluate", run, *metrics, "--backbone", "dummy")[2]


def test_evaluate_measures_the_images_it_is_given_and_keeps_the_result(uldm, run, tmp_path):
    page = run / "report.html"
    assert "--samples mine.npz" not in page.read_text("utf-8")
    state = (run / "run.json").read_bytes()
    (run / "run.json").write_bytes(b"{")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path != page}
    np.savez(tmp_path / "mine.npz", images=np.zeros((3, 28, 28, 1), np.uint8))
    ask = ("evaluate", run, "--samples", "mine.npz", "--metrics", "class_balance,psnr", "--json")
    _, out, error = uldm(*ask)
    assert f"{run / 'run.json'}: warning: " in error, "what the page could not be made of"
    report = json.loads(out)
    assert report["counts"]["samples"] == 3 and report["results"]["samples"]["largest_class"] == 1
    assert "ClassBalance" in report["metrics"]
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path != page}
    assert "--samples mine.npz" in page.read_text("utf-8"), "it is shown as well"
    (kept,) = after.keys() - before.keys()
    assert kept.parent == run / "evaluations" and {path: after[path] for path in before} == before
    record = json.loads(kept.read_text())
    own = {"command", "when", "against", "results", "counts", "metrics"}
    assert record.keys() == own | {"format", "record", "uldm", "checksum"}
    assert record["results"] == report["results"] and record["against"] == "test"
    assert record["command"] == f"uldm evaluate {run} --samples mine.npz --metrics class_balance,psnr --json"
    kept.unlink()
    (run / "run.json").write_bytes(state)


@pytest.fixture
def systems(tmp_path):
    """The same digits by two systems: an .npz as others write it, and a folder of RGB files."""
    digits = Mnist(subset="test", limit=12).images(torch.arange(12))
    np.savez(tmp_path / "a.npz", digits[:, 0].numpy())
    for folder, shift in (("b", 0), ("c", 40)):
        (tmp_path / folder).mkdir()
        for index, digit in enumerate(digits):
            pixels = (digit[0].int() + shift).clamp(0, 255).byte().numpy()
            Image.fromarray(pixels).convert("RGB").save(tmp_path / folder / f"{index:02d}.png")
    return tmp_path


def test_two_systems_are_compared_without_a_run(uldm, systems):
    ask = ("--metrics", "psnr,precision_recall", "--backbone", "mnist_judge", "--json")
    report = json.loads(uldm("evaluate", "b", "--against", "a.npz", *ask)[1])
    assert report["results"]["images"] == {"psnr": 100.0, "precision": 1.0, "recall": 1.0}
    assert report["counts"] == {"images": 12} and report["reference"] == 12
    worse = json.loads(uldm("evaluate", "c", "--against", "b", *ask)[1])["results"]["images"]
    assert 10 < worse["psnr"] < 30
    assert not list(systems.rglob("evaluations"))


def test_digits_have_metrics_of_their_own(uldm, systems):
    head, *rows = uldm("evaluate", "c", "--against", "a.npz")[1].splitlines()
    assert head.split() == ["metric", "images", "originals"]
    assert [row.split()[0] for row in rows] == ["frechet_mnist", "smallest_class", "largest_class"]


@pytest.mark.slow
def test_a_dataset_brings_its_floor(uldm, systems):
    ask = ("--against", "synthetic", "--size", 32, "--metrics", "frechet_mnist,class_balance", "--json")
    report = json.loads(uldm("evaluate", "b", *ask)[1])
    assert report["results"].keys() == {"images", "floor", "originals"}
    assert report["results"]["floor"]["frechet_mnist"] < report["results"]["images"]["frechet_mnist"]
    assert report["counts"]["images"] == 12 and report["counts"]["floor"] > 12


def test_a_runs_samples_are_measured_against_other_images(uldm, run, systems):
    report = json.loads(uldm("evaluate", run, "--against", "c", "--metrics", "class_balance", "--json")[1])
    assert report["results"].keys() == {"samples", "floor", "originals"} and report["reference"] == 12
    records = [json.loads(path.read_text()) for path in (run / "evaluations").iterdir()]
    assert "c" in [record["against"] for record in records]


def test_pairs_of_folders_have_the_same_names(uldm, systems):
    (systems / "c" / "03.png").rename(systems / "c" / "other.png")
    code, _, error = uldm("evaluate", "c", "--against", "b", "--metrics", "psnr")
    assert code == 2 and "2 are in one folder only, such as 03" in error


def test_a_folder_of_several_sizes_is_refused_or_resized(uldm, systems):
    Image.new("RGB", (40, 30)).save(systems / "b" / "12.png")
    ask = ("evaluate", "b", "--against", "a.npz", "--metrics", "class_balance", "--json")
    code, _, error = uldm(*ask)
    assert code == 2 and "images of several sizes: 28x28, 40x30" in error and "--size N" in error
    assert json.loads(uldm(*ask, "--size", 28)[1])["counts"]["images"] == 13


def test_nothing_is_evaluated_that_is_not_trained(uldm, run, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "recipe.toml").write_text((run / "recipe.toml").read_text())
    code, _, error = uldm("evaluate", "bare")
    assert code == 2 and "autoencoder is not trained yet" in error


def test_a_metric_that_is_listed_twice_is_refused():
    metrics = [registry.build("metric", "psnr") for _ in range(2)]
    with pytest.raises(ValueError, match="PSNR is listed twice"):
        Evaluate(Mnist(limit=4), registry.build("autoencoder", "identity", in_channels=1), metrics)


def test_doctor_tells_a_program_the_same(uldm):
    report = json.loads(uldm("doctor", "--json")[1])
    assert set(report) == {"versions", "optional", "machine", "weights", "recipes", "plugins"}
    assert report["optional"]["timm"]["version"] and report["recipes"] == names()


@pytest.mark.parametrize(
    ("words", "incomplete", "found"),
    [
        ([], "va", "validate"),
        ([], "eval", "evaluate"),
        (["ls"], "quant", "quantizer"),
        (["show"], "quantizer/vq_", "quantizer/vq_ema"),
        (["check"], "denoiser/diff", "denoiser/diffusers/unet_2d"),
        (["run"], "mnist_l", "mnist_latent"),
        (["validate"], "mi", "mine.toml"),
        (["cp"], "mnist_d", "mnist_ddpm"),
        (["sample"], "runs/", "runs/here"),
        (["diff", "mnist_latent"], "runs/h", "runs/here"),
    ],
)
def test_the_shell_completes_commands_names_recipes_and_runs(words, incomplete, found, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "here").mkdir(parents=True)
    (tmp_path / "runs" / "here" / "recipe.toml").write_text("")
    (tmp_path / "mine.toml").write_text("")
    completions = ShellComplete(program.cli, {}, "uldm", "_ULDM_COMPLETE").get_completions(words, incomplete)
    values = [completion.value for completion in completions]
    assert found in values and all(value.startswith(incomplete) for value in values)
