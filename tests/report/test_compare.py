"""Runs side by side: what differs, who is best, and samples of the same noise."""

import json
import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uldm_core.cli import main as program
from uldm_plugins.report.comparison import Drawn, comparison_of, labels

TINY = """\
uldm = 1

[dataset]
use = "synthetic"
count = 16
size = 8

[autoencoder]
use = "identity"

[denoiser]
use = "mlp"
width = 8
hidden = 8
depth = 1

[noise_scheduler]
use = "flow"

[stages.learn]
use = "train_diffusion"
steps = 10
batch_size = 4
previews = 0

[stages.draw]
use = "sample"
sampler = { use = "euler", steps = 2 }
count = 2
"""


@pytest.fixture
def uldm(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)

    def uldm(*arguments):
        code = program._run(list(map(str, arguments)))
        return code, *capsys.readouterr()

    return uldm


def tiles(page, label):
    """Return the pictures of a run's samples."""
    found = re.findall(rf'base64,([^"]*)" width="\d+" height="\d+" alt="{label}, sample', page)
    return [np.asarray(Image.open(BytesIO(b64decode(one)))) for one in found]


def two(make_run, **options):
    """Return two made-up runs; the second one's recipe has other words."""
    first, second = make_run("one"), make_run("two")
    for run in (first, second):
        run.everything()
    recipe = second.path / "recipe.toml"
    text = recipe.read_text()
    for old, new in options.items():
        text = text.replace(old, new)
    recipe.write_text(text)
    return first, second


def test_options_that_differ_stand_side_by_side(make_run):
    first, second = two(make_run, mlp="dit")
    page = comparison_of([first.path, second.path])
    rows = re.findall(r'<th scope="row"><code>(.*?)</code>', page)
    assert rows == ["denoiser.use"]
    assert "&#34;mlp&#34;" in page and "&#34;dit&#34;" in page
    assert "No option differs" in comparison_of([first.path, first.path])


def test_the_best_is_marked_and_unlike_measures_are_warned_of(make_run):
    first, second = two(make_run)
    path = second.path / "stages/scores/artifacts/metrics.json"
    measured = json.loads(path.read_text())
    measured["results"]["samples"]["frechet_mnist"] = 12.5
    second.json(path, measured)
    page = comparison_of([first.path, second.path])
    assert re.findall(r'<td class="num best">(.*?)</td>', page) == ["4.481", "2.231", "2.231"]
    assert "not measured alike" not in page
    second.json(path, measured | {"counts": {"samples": 100}})
    page = comparison_of([first.path, second.path])
    assert "not measured alike" in page and "num best" not in page


def test_each_run_keeps_its_colour_where_another_has_no_curve(make_run):
    first, second = two(make_run)
    first.log("second", [])
    page = comparison_of([first.path, second.path])
    charts = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])["charts"]
    assert [(one["label"], one["colour"]) for one in charts["first/distance"]["series"]] == [
        ("one", 0),
        ("two", 1),
    ]
    assert [(one["label"], one["colour"]) for one in charts["second/loss"]["series"]] == [("two", 1)]


def test_runs_without_anything_are_shown_without(make_run):
    first, second = make_run("one"), make_run("two")
    first.recipe()
    second.recipe()
    page = comparison_of([first.path, second.path], [Drawn(why_not="not trained yet")])
    assert page.count("Without samples") == 2 and "not trained yet" in page


def test_runs_have_labels_of_their_own(tmp_path):
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c"]
    assert labels(paths) == [str(paths[0]), str(paths[1]), "c"]
    assert len(set(labels([paths[2], paths[2]]))) == 2


def test_samples_of_two_trained_runs_come_from_the_same_noise(uldm):
    for name, overrides in (
        ("one", ()),
        ("same", ("stages.draw.batch_size=1",)),
        ("other", ("stages.learn.steps=11", "seed=4")),
    ):
        code, out, error = uldm("run", "tiny.toml", *overrides, "--out", name)
        assert (code, out) == (0, "") and error.splitlines()[-1] == f"report: {Path(name) / 'report.html'}"
    uldm("run", "tiny.toml", "--until", "learn", "--out", "half")
    for record in Path("half").glob("stages/learn/stage*.json"):
        record.unlink()
    code, out, _ = uldm("compare", "one", "same", "other", "half", "--count", 3, "--out", "c.html")
    assert (code, out) == (0, "c.html\n")
    page = Path("c.html").read_text("utf-8")
    one, same, other, half = (tiles(page, label) for label in ("one", "same", "other", "half"))
    assert len(one) == len(same) == len(other) == 3 and half == []
    assert all(map(np.array_equal, one, same)) and not np.array_equal(one[0], other[0])
    assert "denoiser is not trained yet" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["r"], "two runs or more"),
        ([], "two runs or more"),
        (["r", "nowhere"], "nowhere is not a run"),
        (["r", "r", "--out", "no/such/c.html"], "there is no folder no/such"),
        (["r", "r", "--out", "r"], "is a folder"),
    ],
)
def test_mistakes_are_said(uldm, tmp_path, arguments, said):
    Path("r").mkdir()
    Path("r/recipe.toml").write_text(TINY)
    code, out, error = uldm("compare", *arguments)
    assert (code, out) == (2, "") and said in error
