"""What a page says of a run's folder: whole, unfinished, broken, old, hostile."""

import json
import re
from base64 import b64decode
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from report.conftest import RECIPE, drawings
from safetensors.torch import save_file

from uldm_core.cli import main as program
from uldm_core.protocols import RunStart
from uldm_core.run_folder.events import EventLog
from uldm_plugins.report import tracker
from uldm_plugins.report.curves import Curve, chart_of, kept_points, read_log, smoothed
from uldm_plugins.report.diagnostics import diagnose
from uldm_plugins.report.page import duration, report_of, write_report
from uldm_plugins.report.pictures import how_many
from uldm_plugins.report.run_reader import read_run

SECTIONS = (
    "samples",
    "metrics",
    "tuning",
    "stages",
    "curves",
    "reconstructions",
    "codebook",
    "path",
    "nearest",
    "by_class",
    "classes",
)
NOW = datetime(2025, 11, 24, 20, 53, tzinfo=timezone.utc)


def sections(page):
    return [name for name in re.findall(r'<section id="(\w+)">', page) if name in SECTIONS]


def data(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def found(run):
    return [f"{diagnostic.level}: {diagnostic.what}" for diagnostic in diagnose(read_run(run.path), NOW)]


def test_everything_there_is_is_shown(run):
    page = report_of(run.everything(), NOW)
    assert tuple(sections(page)) == SECTIONS
    for said in (
        "4.481",
        "1.932",
        "ec75b2dac225e6d5",
        "5,000",
        "4 min 49 s",
        "uldm run mnist.toml",
        "vq_ema of 64",
    ):
        assert said in page, said
    assert "first 100 of 120" in page and "Nothing stands out" in page
    assert {"first/distance", "first/generator", "second/loss", "codebook/1"} <= data(page)["charts"].keys()
    assert 'http-equiv="refresh"' not in page and data(page)["refresh"] == 0


def test_numbers_by_a_network_that_a_loss_trained_on_are_warned_of(run):
    run.everything()
    assert not [what for what in found(run) if "flatters" in what]
    loss = 'losses = [{ use = "lpips", backbone = "mnist_judge" }]\n'
    run.recipe(RECIPE.replace("steps = 400\n", "steps = 400\n" + loss))
    flattering = [what.partition(", on which")[0] for what in found(run) if "flatters" in what]
    assert "worry: scores.metrics[0] measures in the features of mnist_judge" in flattering
    run.recipe("uldm = 1\n[dataset]\nuse = 'gone'\n")
    assert not [what for what in found(run) if "flatters" in what]


def test_a_page_asks_nothing_of_the_network_and_stays_small(run):
    page = report_of(run.everything(), NOW)
    assert not re.search(r'(?:src|href)="(?!data:|#)', page) and "@import" not in page and "url(" not in page
    assert "default-src 'none'" in page
    assert len(page) < 1_000_000


def test_any_file_may_be_missing_or_cut_short(run):
    whole = set(sections(report_of(run.everything(), NOW)))
    files = [path for path in run.path.rglob("*") if path.is_file()]
    for path in files:
        content = path.read_bytes()
        for left in (None, b"[1]" if path.suffix == ".json" else content[: len(content) // 2]):
            if left is None:
                path.unlink()
            else:
                path.write_bytes(left)
            assert len(whole - set(sections(report_of(run.path, NOW)))) <= 2, (path, left)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("samples.npz", {"images": np.zeros((2, 28, 28), np.uint8)}),
        ("samples.npz", {"images": np.zeros((2, 28, 28, 1), np.float32)}),
        ("samples.npz", {"images": np.zeros((0, 28, 28, 1), np.uint8)}),
        ("path.npz", {"frames": np.zeros((0, 6, 28, 28, 1), np.uint8), "times": np.zeros(0)}),
        ("path.npz", {"frames": np.zeros((3, 28, 28, 1), np.uint8)}),
        ("nearest.npz", {"samples": np.zeros((2, 8, 8, 1), np.uint8), "distance": np.zeros((2, 4))}),
        ("reconstructions.npz", {"originals": np.zeros((0, 8, 8, 1), np.uint8)}),
    ],
)
def test_arrays_of_other_shapes_are_left_out(run, name, arrays):
    run.everything()
    for path in run.path.rglob(name):
        np.savez_compressed(path, **arrays)
    for images in run.path.glob("stages/*/images/*/*"):
        images.unlink()
    assert name.partition(".")[0] not in sections(report_of(run.path, NOW))


def test_a_folder_without_anything_is_a_page_too(run):
    run.path.mkdir()
    page = report_of(run.path, NOW)
    assert "There is nothing to show yet" in page and ">unfinished<" in page


def test_a_run_of_an_older_version_is_done_if_its_stages_are(run):
    run.everything()
    (run.path / "run.json").unlink()
    page = report_of(run.path, NOW)
    assert '<span class="badge done">' in page and "uldm run" in page
    run.stage("scores", 1.0, done=False)
    assert '<span class="badge unfinished">' in report_of(run.path, NOW)
    assert found(run) == ["worry: Stage scores was begun and is not done."]


def test_a_page_of_a_running_run_renews_itself(run):
    run.everything()
    run.state("running")
    run.stage("second", 60.0, done=False)
    for path in run.path.glob("stages/s[ac]*/stage.json"):
        path.unlink()
    page = report_of(run.path, NOW)
    assert 'http-equiv="refresh" content="30"' in page and data(page)["refresh"] == 30
    assert sections(page)[0] == "stages"
    assert "600 of 600 steps" in page and page.count('"badge waiting"') == 2
    assert found(run) == []


def test_a_run_that_has_been_silent_for_long_was_killed(run):
    run.recipe()
    run.state("running")
    late = diagnose(read_run(run.path), NOW + timedelta(hours=1))
    assert "most likely killed" in late[0].what


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def test_what_names_and_texts_say_is_never_markup(run):
    run.everything()
    run.recipe(
        f"""
        [dataset]
        use = "{HOSTILE}"
        [stages."{HOSTILE}"]
        use = "{HOSTILE}"
        """
    )
    run.state("failed", error=HOSTILE, command=HOSTILE, started=HOSTILE)
    run.json("environment.json", {HOSTILE: HOSTILE, "plugins": {"a": HOSTILE}})
    run.log(HOSTILE.replace("/", "_"), [])
    run.json(
        "evaluations/2.json", {"results": {"samples": {HOSTILE: 1}}, "against": HOSTILE, "command": HOSTILE}
    )
    classes = {"labels": [HOSTILE], "samples": [0.5], "real": [0.5]}
    run.json("stages/scores/artifacts/classes.json", classes)
    page = report_of(run.path, NOW)
    assert page.count("<script") == 2 and "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_history_is_shown_with_what_is_damaged(run):
    log = EventLog(run.everything() / "events.jsonl")
    log.append("started", command="uldm run", environment={"torch": "9.9.9"}, stages={"first": "do"})
    for step in (2, 4, 6):
        log.append("checkpoint", stage="first", step=step)
    log.append("warning", text=HOSTILE)
    with log.path.open("ab") as file:
        file.write(b'{"time": 3}\n')
    log.append(HOSTILE, stage=HOSTILE, step=[HOSTILE])
    log.append("stopped", signal="SIGTERM")
    page = report_of(run.path, NOW)
    history = page[page.index('<section id="history">') :]
    history = history[: history.index("</section>")]
    assert history.count("<tr>") == 5 and "<td>3 checkpoints</td><td>first</td><td>step 6</td>" in history
    assert "<td>stopped</td><td></td><td>signal SIGTERM</td>" in history and "9.9.9" not in history
    assert "<script" not in history and "&lt;script&gt;alert(1)" in history
    assert "events.jsonl is damaged: 1 of its lines are not as they were written" in page


def test_a_hostile_number_does_not_end_the_script(run):
    run.recipe()
    run.log("first", [{"step": 1, "</script><script>alert(1)": 0.5}])
    page = report_of(run.path, NOW)
    assert page.count("<script") == 2
    assert "first/</script><script>alert(1)" in data(page)["charts"]


def test_the_losses_of_several_averages_share_a_chart(run):
    run.recipe()
    losses = {"held_out_loss_ema_0.05": 0.25, "held_out_loss_ema_0.1": 0.5}
    run.log("second", [{"step": 10, "loss": 0.5}, {"step": 10, **losses}])
    page = report_of(run.path, NOW)
    charts = {name: chart for name, chart in data(page)["charts"].items() if name.startswith("second/")}
    assert charts.keys() == {"second/loss", "second/held_out_loss_ema_0.05"}
    series = charts["second/held_out_loss_ema_0.05"]["series"]
    assert {one["label"]: one["line"] for one in series} == {name: [loss] for name, loss in losses.items()}
    assert page.count("one average of the weights") == 1 and ">held out loss<" in page


@pytest.mark.parametrize("kept", [False, True])
def test_where_a_denoiser_memorises_is_marked_and_said(run, kept):
    run.recipe(RECIPE.replace("steps = 600", 'steps = 600\ncheckpoint = "best"') if kept else RECIPE)
    held_out = [1.0, 0.7, 0.5, *np.linspace(0.5, 0.9, 17).round(4).tolist()]
    trained = np.linspace(1, 0.1, 20).round(4).tolist()
    losses = zip(range(30, 601, 30), held_out, trained)
    lines = [{"step": step, "held_out_loss": one, "trained_loss": other} for step, one, other in losses]
    run.log("second", [*lines, {"step": 600, "held_out_far": 3.0}])
    if kept:
        done = {"key": {"content": "1"}, "done": True, "seconds": 1.0, "summary": {"best_step": 120.0}}
        run.json("stages/second/stage.json", done)
    charts = data(page := report_of(run.path, NOW))["charts"]
    chart = charts["second/held_out_loss"]
    assert [one["line"] for one in chart["series"]] == [held_out, trained] and "second/held_out_far" in charts
    best = 120 if kept else 90
    assert chart["mark"] == {"x": best, "label": f"best: {best}"}
    assert f"The line is at step {best}, {'whose weights are kept' if kept else 'the lowest'}." in page
    said = [one for one in found(run) if "memorises" in one]
    what = (
        "Stage second: the loss on held-out images has risen since step 90 while that on trained images fell"
    )
    assert len(said) == 1 and said[0].startswith(f"{'note' if kept else 'worry'}: {what}: it memorises")


def test_what_broke_is_said(run):
    run.everything()
    run.state("failed", error="loss is nan at step 20")
    run.log("second", [{"step": 10, "loss": 0.5}, {"step": 20, "loss": float("nan")}])
    assert found(run) == [
        "bad: The run failed: loss is nan at step 20.",
        "bad: loss of stage second is no number at step 20.",
    ]
    assert data(report_of(run.path, NOW))["charts"]["second/loss"]["series"][0]["line"] == [0.5, None]


def lines(name, values):
    return [{"step": step, name: value} for step, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("discriminator", np.linspace(1, 0.02, 40) ** 2, "Stage first: the discriminator wins"),
        ("discriminator", [1.0] * 40, "cannot distinguish reconstructions from images"),
        ("discriminator", np.linspace(1, 0.6, 40), None),
        ("discriminator", [1.0, 0.0], None),
        ("loss", [1.0] * 40, "loss of stage first has not fallen"),
        ("loss", np.linspace(1, 0.5, 40), None),
        ("loss", [1.0, 2.0], None),
    ],
)
def test_curves_that_speak_of_trouble(run, name, values, said):
    run.recipe()
    run.log("first", lines(name, values))
    assert [said in one for one in found(run)] == ([True] if said else [])


def test_options_that_were_changed_in_mid_training_are_not_hidden(run):
    run.recipe()
    adjusted = [{"step": 7, "options": {"optimizer.lr": [0.1, 0.01]}}]
    run.json("stages/first/stage.json", {"done": True, "adjusted": adjusted})
    change = "optimizer.lr was 0.1 up to step 7, then 0.01"
    assert found(run) == [f"note: The options of stage first were changed while it trained: {change}."]
    run.json("stages/first/stage.json", {"adjusted": [{"step": 7, "options": {"optimizer.lr": [0.1]}}]})
    report_of(run.path, NOW)


@pytest.mark.parametrize(
    ("size", "used", "perplexity", "collapsed"),
    [(512, 100, 90, True), (512, 400, 20, True), (512, 400, 200, False), (8, 2, 1.2, False), (8, 1, 1, True)],
)
def test_a_codebook_that_has_collapsed(run, size, used, perplexity, collapsed):
    run.recipe()
    book = {"size": size, "counts": [1] * size, "used": used, "perplexity": perplexity}
    run.json("stages/scores/artifacts/codebook.json", {"codebooks": [book]})
    assert [f"{used} of {size} codes" in one for one in found(run)] == [True] * collapsed


def test_copies_of_training_images(run):
    run.everything()
    path = run.path / "stages/scores/artifacts/nearest.npz"
    arrays = dict(np.load(path))
    for distances, level in (([0.0, 5, 6, 7], "worry"), ([1.6, 5, 6, 7], "worry"), ([1.7, 5, 6, 7], None)):
        arrays["distance"][0] = distances
        np.savez(path, **arrays)
        assert found(run) == ([f"{level}: 1 of 12 samples may be copies: their nearest training image is far "
                               "nearer than the next."] if level else [])  # fmt: skip
        assert ("a copy?" in report_of(run.path, NOW)) == bool(level)
    arrays["distance"][:] = [0.0, 5, 6, 7]
    np.savez(path, **arrays)
    assert found(run)[0].startswith("bad: 12 of 12 samples")


@pytest.mark.parametrize(
    ("exact", "near", "said"),
    [
        (3, 7, "worry: 3 test images are copies of training images."),
        (1, 1, "worry: 1 test image is a copy of a training image."),
        (0, 7, "note: 7 of 40 test images look nearly like a training image."),
        (0, 0, None),
    ],
)
def test_what_was_found_in_the_images_is_said(run, exact, near, said):
    run.everything()
    left_out = {f"{place}. reason <b>": place for place in range(1, 13)}
    counts = {"left_out": left_out, "duplicates": {"exact": exact, "near": near, "compared": 40}}
    run.json("data.json", {"datasets": {"dataset": counts}})
    assert found(run) == [said][: said is not None]
    page = report_of(run.path, NOW)
    assert (f">{near} of 40<" in page, "copies of a training image<" in page) == (near > 0, exact > 0)
    assert "left out: 12. reason &lt;b&gt;" in page and "left out: 2. reason" not in page
    assert ">left out for other reasons<" in page


def test_a_share_of_samples_that_copy(run):
    """In words beside the nearest images, and as what needs attention."""
    run.everything()
    for share, copies in ((0.012, False), (0.2, True)):
        results = {"samples": {"copies": share}, "floor": {"copies": 0.0101}}
        run.json("stages/scores/artifacts/metrics.json", {"results": results})
        page = report_of(run.path, NOW)
        assert f"<strong>{100 * share:.1f} %</strong> are as near to a training image" in page
        assert "(1.0 %, counted)" in page
        said = (
            f"bad: {share:.1%} of the samples are as near to a training image as only 1% of the test images"
        )
        assert [one.startswith(said) for one in found(run)] == [True] * copies


def test_what_was_tuned_is_a_table_and_curves(run):
    """Curves by an option, of those that differ in it alone; the best is marked."""
    page = report_of(run.everything(), NOW)
    assert "the denoiser was not trained on" in page and "5 of at most 6 candidates were tried" in page
    assert re.search(r'class="best">steps, chosen</th>', page) and page.count(", chosen</th>") == 1
    charts = data(page)["charts"]
    assert charts["tuning/weight"]["x"] == [1, 1.5, 2, 3]
    assert charts["tuning/weight"]["series"][0]["line"] == [7.25, 4.4812, 4.7, 5.5]
    assert charts["tuning/steps"]["x"] == [6, 10]
    assert charts["tuning/steps"]["series"][0]["line"] == [4.5317, 4.4812]


def by_class(run):
    page = report_of(run.path, NOW)
    return page[page.index('<section id="by_class">') : page.index('<section id="classes">')]


def test_samples_of_the_largest_classes_are_shown_with_their_shares(run):
    run.everything()
    path, weights = "stages/samples/artifacts/samples.npz", run.path / "stages/second/weights"
    classes = np.array([7] * 60 + [2] * 12 + [0] * 48)
    run.arrays(path, images=drawings(120, seed=1), classes=classes)
    save_file({"assigned": torch.tensor([2] * 50 + [7] * 49 + [5])}, weights / "condition.safetensors")
    section = by_class(run)
    rows = re.findall(
        r'<th scope="row">(\d+)</th><td class="num">(\S+) %</td><td class="num">(\S+) %', section
    )
    assert rows == [("2", "10.0", "50.0"), ("7", "50.0", "49.0"), ("5", "0.0", "1.0")]
    assert len(re.findall("<img", section)) == 20 and 'alt="sample 61, class 2"' in section
    assert "found without any label" in section
    (weights / "condition.safetensors").unlink()
    run.recipe(RECIPE.replace('use = "clusters"', 'use = "labels"'))
    made_of = {"class_names": {"dataset": ["cat", "<i>", "dog"]}}
    run.json("stages/second/stage.json", {"key": {"content": "1", "made_of": made_of}, "done": False})
    section = by_class(run)
    assert re.findall(r'<th scope="row">([^<]+)</th>', section) == ["7", "cat", "dog"]
    run.json("stages/second/stage.json", {"key": {"content": "1"}, "done": False})
    section = by_class(run)
    rows = re.findall(r'<th scope="row">(\d+)</th><td class="num">(\S+) %</td>\s*<td><div', section)
    assert rows == [("7", "50.0"), ("0", "40.0"), ("2", "10.0")] and "the dataset's own" in section.replace(
        "&#39;", "'"
    )


def test_of_many_classes_the_largest_are_shown_and_of_no_classes_none(run):
    run.everything()
    assert by_class(run).count('scope="row"') == 12  # of the squares modulo 30
    path, weights = "stages/samples/artifacts/samples.npz", run.path / "stages/second/weights"
    run.arrays(path, images=drawings(120), classes=np.arange(120))
    (weights / "condition.safetensors").unlink()
    assert by_class(run).count('scope="row"') == 20 and "20 of 120" in by_class(run)
    for odd in (
        {},
        {"classes": np.arange(120.0)},
        {"classes": np.arange(119)},
        {"classes": np.arange(120) - 1},
    ):
        run.arrays(path, images=drawings(120), **odd)
        assert "by_class" not in sections(report_of(run.path, NOW))


def test_classes_that_are_missing_and_numbers_of_few_samples(run):
    run.everything()
    shares = {"labels": ["cat", "dog"], "samples": [0.99, 0.01], "real": [0.5, 0.5]}
    run.json("stages/scores/artifacts/classes.json", shares)
    path = run.path / "stages/scores/artifacts/metrics.json"
    run.json(path, json.loads(path.read_text()) | {"counts": {"samples": 100}})
    assert found(run) == [
        "worry: Samples hardly ever show: dog.",
        "note: frechet_mnist of 100 samples comes out too high.",
    ]


@pytest.mark.parametrize(
    ("samples", "decoded", "half"), [(20.0, 2.5, "denoiser"), (20.0, 15.0, "autoencoder"), (5.0, 2.5, None)]
)
def test_what_limits_the_samples_is_named(run, samples, decoded, half):
    run.recipe()
    measured = {"samples": samples, "reconstructions": decoded, "floor": 2.0}
    results = {of: {"frechet_mnist": value} for of, value in measured.items()}
    run.json("stages/scores/artifacts/metrics.json", {"results": results, "counts": {"samples": 5000}})
    assert [one.startswith(f"note: The {half} has most left") for one in found(run)] == [True] * bool(half)


@pytest.mark.parametrize(("side", "shown"), [(8, 100), (28, 100), (64, 97), (256, 8), (1024, 8)])
def test_large_images_are_fewer(side, shown):
    assert how_many(side, 100) == shown and how_many(side, 3) == 3


def test_coloured_images_are_shown_in_colour(run):
    page = report_of(run.everything(size=32, channels=3), NOW)
    assert tuple(sections(page)) == SECTIONS
    tile = re.search(r'src="data:image/png;base64,([^"]*)" width="32" height="32" alt="sample 1"', page)
    with Image.open(BytesIO(b64decode(tile[1]))) as image:
        samples = np.load(run.path / "stages/samples/artifacts/samples.npz")["images"]
        assert np.array_equal(np.asarray(image), samples[0])


@pytest.mark.parametrize(("channels", "width", "side"), [(2, 24, 64), (4, 12, 64), (7, 84, 84)])
def test_images_of_any_shape_and_channels_are_shown_by_their_larger_side(run, channels, width, side):
    page = report_of(run.everything(size=32, width=12, channels=channels), NOW)
    assert tuple(sections(page)) == SECTIONS
    tile = re.search(rf'src="data:image/png;base64,([^"]*)" width="{width}" height="32" alt="sample 1"', page)
    with Image.open(BytesIO(b64decode(tile[1]))) as image:
        assert image.mode == ("RGB" if channels == 4 else "L")
    assert f'class="tiles" style="--side: {side}px"' in page


def test_only_the_head_of_many_samples_is_read(run):
    run.recipe()
    path = "stages/samples/artifacts/samples.npz"
    run.arrays(path, images=np.random.default_rng(0).integers(0, 256, (500, 28, 28, 1), dtype=np.uint8))
    content = (run.path / path).read_bytes()
    (run.path / path).write_bytes(content)
    images, total = read_run(run.path).first_images("samples.npz", 7)
    assert total == 500 and np.array_equal(images, np.load(run.path / path)["images"][:7])


def test_several_codebooks_are_several_maps(run):
    run.everything()
    path = run.path / "stages/scores/artifacts/reconstructions.npz"
    arrays = dict(np.load(path))
    arrays["codes"] = np.zeros((40, 3, 4, 4), np.int32)
    np.savez(path, **arrays)
    page = report_of(run.path, NOW)
    assert "--count: 5" in page
    del arrays["codes"]
    np.savez(path, **arrays)
    assert "--count: 2" in report_of(run.path, NOW)


def test_lines_of_a_log_that_are_none_are_passed_over():
    text = '{"step": 1, "a": 2}\nrubbish\n[3]\n{"a": 1}\n{"step": 2, "a": "x", "b": true}\n'
    text += '{"step": 3, "a": 4}\n{"st'
    curves, odd = read_log(text.splitlines())
    assert odd == [2, 3, 4]
    assert list(curves) == ["a"]
    assert curves["a"].steps.tolist() == [1, 3] and curves["a"].values.tolist() == [2, 4]


def test_of_many_points_the_extremes_are_kept():
    values = np.sin(np.arange(100_000) / 500)
    values[43_210], values[76_543] = 9, -9
    kept = kept_points(values)
    assert len(kept) <= 602 and {0, 43_210, 76_543, 99_999} <= set(kept.tolist())


def test_smoothing_keeps_a_line_and_leaves_out_what_is_no_number():
    assert np.allclose(smoothed(np.full(50, 2.0)), 2)
    assert np.allclose(smoothed(np.arange(100.0))[10:-10], np.arange(100.0)[10:-10])
    assert np.allclose(smoothed(np.array([1.0, np.nan, 1, 1, np.inf, 1])), 1)
    assert np.isnan(smoothed(np.array([np.nan]))).all() and smoothed(np.array([])).shape == (0,)


def test_read_log_one_chart_share_their_steps():
    first, second = (
        Curve(np.array([1, 2]), np.array([1.0, 2])),
        Curve(np.array([2, 3]), np.array([5.0, np.nan])),
    )
    chart = chart_of({"a": first, "b": second}, "raw")
    assert chart["x"] == [1, 2, 3]
    assert [one["line"] for one in chart["series"]] == [[1, 2, None], [None, 5, None]]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (42.4, "42 s"), (59.9, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_durations_are_said_as_a_person_would(seconds, said):
    assert duration(seconds) == said


class Clock:
    """Stands still unless it is told otherwise; writing a page takes ``cost`` seconds."""

    def __init__(self, monkeypatch, cost):
        self.now, self.written = 1000.0, []
        monkeypatch.setattr(tracker, "time", self)
        monkeypatch.setattr(
            tracker, "write_report", lambda path: (self.written.append(self.now), self.pass_(cost))
        )

    def pass_(self, seconds):
        self.now += seconds

    def monotonic(self):
        return self.now


@pytest.mark.parametrize(("cost", "pause"), [(0.1, 30), (3.0, 150)])
def test_the_tracker_writes_now_and_then_and_takes_little_of_the_time(monkeypatch, tmp_path, cost, pause):
    clock = Clock(monkeypatch, cost)
    report = tracker.Report()
    report.begin(RunStart(tmp_path, "r", {}, ["first"], ""))
    for step in range(400):
        clock.pass_(1.0)
        report.scalars("first", step, {"loss": 1.0})
    pauses = np.diff(clock.written)
    assert len(pauses) >= 2 and (pauses >= pause).all() and (pauses <= pause + cost + 1).all()
    written = len(clock.written)
    report.stage_done("first", 1.0, {})
    report.end("done")
    assert len(clock.written) == written + 2


def test_the_tracker_writes_the_page_into_the_runs_folder(run):
    run.everything()
    report = tracker.Report()
    report.begin(RunStart(run.path, "digits", {}, ["first"], ""))
    assert tuple(sections((run.path / "report.html").read_text("utf-8"))) == SECTIONS
    assert [path.name for path in run.path.glob("report*")] == ["report.html"]


def test_uldm_report_writes_the_page_anew_and_says_where(run, tmp_path):
    run.everything()
    done = CliRunner().invoke(program.cli, ["report", str(run.path)])
    assert done.exit_code == 0 and done.output.strip() == str(run.path / "report.html")
    assert Path(done.output.strip()).read_text("utf-8").startswith("<!doctype html>")
    assert program._run(["report", str(tmp_path / "nowhere")]) == 2


def test_writing_is_quick(run):
    """A page is read and written within a second here, so that twice a minute costs under two per cent."""
    run.everything()
    write_report(run.path)
    before = datetime.now()
    write_report(run.path)
    assert (datetime.now() - before).total_seconds() < 1
