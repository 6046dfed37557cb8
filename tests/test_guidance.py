"""Guidance in runs: what it leads away from, what it costs, and ``uldm sample --guidance``."""

import shutil
import time
import warnings
from types import SimpleNamespace

import pytest
import torch

from uldm_core import MistakeError, check, registry
from uldm_core.cli import main as program
from uldm_core.engine.opened_run import TrainedRun
from uldm_core.engine.run import run as run_recipe
from uldm_core.engine.signals import Interrupted, Stop
from uldm_core.errors import RunWarning
from uldm_core.preflight.dry_build import deadline
from uldm_core.preflight.forecast import forecast
from uldm_core.preflight.preflight import preflight
from uldm_core.recipe import Recipe
from uldm_core.run_folder.files import read_tensors
from uldm_core.testing.doubles import TinyDenoiser, straight
from uldm_plugins.stages import guided
from uldm_plugins.stages.guided import AVERAGES, GuidedDenoiser, kept_average, with_weights
from uldm_plugins.stages.sample import Sample, load_images
from uldm_plugins.stages.train_diffusion import TrainDiffusion

BEGINNING = """\
uldm = 1
run = { device = "cpu", precision = "float32" }

[dataset]
use = "synthetic"
count = 8
size = 8

[denoiser]
use = "mlp"
width = 8
hidden = 8
depth = 1
"""
PIXELS = """
[autoencoder]
use = "identity"

[noise_scheduler]
use = "flow"

[stages.second]
use = "train_diffusion"
optimizer = { use = "adamw", lr = 0.3 }
lr_schedule = "constant"
steps = 2
batch_size = 4
ema_decay = 0.0
previews = 1
"""
SAMPLES = """
[stages.samples]
use = "sample"
sampler = { use = "euler", steps = 2 }
count = 2
batch_size = 2
"""
AUTO = '\n[guidance]\nuse = "auto"\nweight = 3.0\n'
CLUSTERS = '\n[condition]\nuse = "clusters"\nclasses = 2\n'
SMALLER = """
[guidance]
use = "auto"
weaker = { ref = "small_denoiser" }

[small_denoiser]
kind = "denoiser"
use = "mlp"
width = 4
hidden = 4
depth = 1

[stages.weak]
use = "train_diffusion"
denoiser = { ref = "small_denoiser" }
optimizer = { use = "adamw", lr = 0.3 }
lr_schedule = "constant"
ema_decay = 0.0
steps = 2
batch_size = 4
previews = 0
"""


def recipe(folder, *more, end=SAMPLES):
    path = folder / "mine.toml"
    path.write_text("".join((BEGINNING, *more, PIXELS, end)))
    return path


def made(folder, *more, overrides=()):
    return run_recipe(Recipe.load(recipe(folder, *more), overrides), out=folder / "run")


def images(run):
    return load_images(run / "stages/samples/artifacts/samples.npz")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run without guidance, whose training kept an early average."""
    return made(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def guided_run(tmp_path_factory):
    return made(tmp_path_factory.mktemp("guided"), AUTO)


def test_auto_leads_away_from_the_early_average(plain, guided_run):
    assert not torch.equal(images(plain), images(guided_run))
    artifacts = [run / "stages/second/artifacts" / AVERAGES for run in (plain, guided_run)]
    assert artifacts[0].read_bytes() == artifacts[1].read_bytes()
    weights = read_tensors(plain / "stages/second/weights/denoiser.safetensors")
    early = kept_average({AVERAGES: artifacts[0]})
    assert len(early) == len(weights) and not kept_average({AVERAGES: artifacts[0]}, "other")
    assert any(not torch.equal(*pair) for pair in zip(early, weights.values(), strict=True))


def test_with_weight_1_nothing_is_copied_or_read(plain, guided_run, tmp_path, monkeypatch):
    monkeypatch.setattr(guided, "read_tensors", lambda path: pytest.fail("it is read"))
    monkeypatch.setattr(guided, "deepcopy", lambda denoiser: pytest.fail("it is copied"))
    folder = shutil.copytree(guided_run, tmp_path / "run")
    run_recipe(Recipe.load(folder, ["guidance.weight=1.0"]), out=folder)
    assert torch.equal(images(plain), images(folder))


def test_auto_by_another_denoiser_that_an_earlier_stage_trains(tmp_path):
    """Its weights are those that the stage trained, and they count in the key of the samples."""
    folder = made(tmp_path, SMALLER)
    opened = TrainedRun.open(folder)
    stage = opened.stage("sample")[1]
    weights = read_tensors(folder / "stages/weak/weights/small_denoiser.safetensors")
    own = stage.guidance.weaker.state_dict()
    assert own.keys() == weights.keys() and all(torch.equal(own[name], weights[name]) for name in own)
    coming = forecast(Recipe.load(folder, ["stages.weak.steps=3"]).resolve(), folder)
    assert "small_denoiser is made anew" in str(coming[-1])
    other_weight = forecast(Recipe.load(folder, ["guidance.weight=4.0"]).resolve(), folder)
    assert [each.does for each in other_weight] == ["reuse", "reuse", "redo"], "trainings only show it"


def test_a_weaker_denoiser_that_is_trained_too_late_is_a_problem_at_its_line(tmp_path):
    head, _, weak = SMALLER.partition("[stages.weak]")
    path = recipe(tmp_path, head, end=f"{SAMPLES}\n[stages.weak]{weak}")
    problems, lines = check(Recipe.load(path)), path.read_text().splitlines()
    for stage, problem in zip(("second", "samples"), problems, strict=True):
        place = f"mine.toml:{lines.index(f'[stages.{stage}]') + 1}: stages.{stage}: "
        assert f"{place}acts on small_denoiser, which only a later stage trains" in str(problem)


def test_a_run_that_has_no_weaker_denoiser_says_what_to_do(uldm, plain, tmp_path):
    path = tmp_path / "taken.toml"
    head = PIXELS.partition("[noise_scheduler]")[0]
    dataset = BEGINNING.partition("[denoiser]")[0]
    taken = f'[denoiser]\nfrom = "{plain}"\n{head}[noise_scheduler]\nuse = "flow"\n'
    path.write_text("".join((dataset, taken, AUTO, SAMPLES)))
    with pytest.raises(MistakeError, match=r"stages\.samples\.guidance: .*kept none of this denoiser"):
        run_recipe(Recipe.load(path), out=tmp_path / "run")
    code, _, errors = uldm("sample", tmp_path / "run", "--out", "a.npz")
    assert code == 2 and "train_diffusion's option weaker" in errors and "--guidance 1" in errors
    assert drawn(uldm, tmp_path / "run", tmp_path, "--guidance", 1).any()


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """Return a run stopped in its second stage: ``weaker`` is the share after which the average is kept."""

    def stopped(guidance, weaker):
        folder, stop, step = tmp_path_factory.mktemp("cut"), Stop(), TrainDiffusion.step

        def stopping(self, number, context):
            if number == 2:
                stop.request()
            return step(self, number, context)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(TrainDiffusion, "step", stopping)
            more = ["stages.second.steps=10", f"stages.second.weaker={weaker}"]
            run_recipe(Recipe.load(recipe(folder, guidance), more), out=folder / "run", stop=stop)
        return folder / "run"

    return stopped


def drawn(uldm, run, tmp_path, *arguments, name="a"):
    code, _, errors = uldm("sample", run, "--count", 4, "--out", f"{name}.npz", "--force", *arguments)
    assert code == 0, errors
    return load_images(tmp_path / f"{name}.npz")


def warned_of(run, tmp_path, *arguments):
    """Return what a command that draws warns of."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert (
            program._run(["sample", str(run), "--out", str(tmp_path / "w.npz"), "--force", *arguments]) == 0
        )
    return " ".join(str(each.message) for each in warned)


def test_an_unfinished_run_is_guided_by_the_average_in_its_checkpoint(uldm, unfinished, tmp_path):
    run = unfinished(AUTO, 0.1)
    with pytest.warns(RunWarning, match="is unfinished"):
        opened = TrainedRun.open(run)
    stage, saved = opened.stage("sample")[1], opened.folder.stage("second").checkpoints.load(3)
    assert all(map(torch.equal, stage.guidance.weaker.parameters(), saved["early"]["parameters"]))
    assert "without guidance" not in warned_of(run, tmp_path)
    plain = drawn(uldm, run, tmp_path, "--guidance", 1)
    assert not torch.equal(drawn(uldm, run, tmp_path), plain)


def test_an_unfinished_run_without_an_average_yet_is_drawn_from_without_guidance(uldm, unfinished, tmp_path):
    run = unfinished(AUTO, 0.9)
    assert "run has no weaker denoiser yet: drawn without guidance" in warned_of(run, tmp_path)
    plain = drawn(uldm, run, tmp_path, "--guidance", 1)
    assert torch.equal(drawn(uldm, run, tmp_path), plain)
    assert uldm("compare", run, run, "--count", 2, "--out", "c.html")[0] == 0
    assert (tmp_path / "c.html").read_text("utf-8").count("data:image") >= 4


def test_a_weight_on_the_command_line(uldm, plain, guided_run, tmp_path):
    none, two, three = (drawn(uldm, guided_run, tmp_path, "--guidance", w) for w in (1, 2, 3))
    assert torch.equal(three, drawn(uldm, guided_run, tmp_path)) and not torch.equal(two, three)
    assert torch.equal(none, drawn(uldm, plain, tmp_path))
    assert torch.equal(none, drawn(uldm, plain, tmp_path, "--guidance", 1))
    assert torch.equal(three, drawn(uldm, plain, tmp_path, "--guidance", 3)), "auto, by the kept average"
    for option in ("--trajectory", "--interpolate"):
        code, _, errors = uldm(
            "sample", guided_run, "--count", 1, option, "b.png", "--guidance", 2, "--force"
        )
        assert code == 0, errors


def test_the_title_of_a_picture_says_the_guidance(uldm, plain, guided_run, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "uldm_plugins.pictures.tables.save_table", lambda *_, title, **__: titles.append(title)
    )
    for run, asked in (
        (plain, ()),
        (guided_run, ()),
        (plain, ("--guidance", 1.5)),
        (guided_run, ("--guidance", 1)),
    ):
        assert uldm("sample", run, "--count", 1, "--trajectory", "t.png", *asked)[0] == 0
    said = [title.partition("\n")[0].split(", ", 1)[1] for title in titles]
    wanted = ["no guidance", "guidance auto with weight 3", "guidance auto with weight 1.5", "no guidance"]
    assert said == [f"{guidance}, seed 0" for guidance in wanted]


def test_a_weight_where_there_is_a_condition_only_or_nothing(uldm, tmp_path):
    kept_none = ["stages.second.weaker=0.0"]
    (tmp_path / "of_clusters").mkdir()
    clusters = made(tmp_path / "of_clusters", CLUSTERS, overrides=kept_none)
    first, second = (drawn(uldm, clusters, tmp_path, "--guidance", weight) for weight in (1, 3))
    assert not torch.equal(first, second)
    run = made(tmp_path, overrides=kept_none)
    code, _, errors = uldm("sample", run, "--out", "a.npz", "--guidance", 2, "--force")
    assert code == 2 and "--guidance 2: this run has neither a weaker denoiser nor a condition" in errors
    for slip in (-1, "nan", "inf", "strong"):
        code, _, errors = uldm("sample", run, "--out", "a.npz", "--guidance", slip)
        assert code == 2 and "'--guidance'" in errors and "Traceback" not in errors


@pytest.mark.parametrize(
    ("sampler", "guidance", "calls"),
    [
        ('{ use = "heun", steps = 10 }', "", 19),
        ('{ use = "heun", steps = 10 }', AUTO, 38),
        ('{ use = "heun", steps = 10 }', AUTO.replace("3.0", "1.0"), 19),
        ('{ use = "euler", steps = 8 }', f"{AUTO}interval = [0.5, 2.0]\n", 8 + 3),
        ('{ use = "dpmpp_2m", steps = 6 }', f'{CLUSTERS}\n[guidance]\nuse = "classifier_free"\n', 12),
        ('{ use = "ddim", steps = 5 }', f'{CLUSTERS}\n[guidance]\nuse = "adaptive_projected"\n', 10),
    ],
)
def test_how_often_the_denoiser_is_called_is_said_before_a_run(tmp_path, sampler, guidance, calls):
    end = SAMPLES.replace('{ use = "euler", steps = 2 }', sampler)
    found = preflight(Recipe.load(recipe(tmp_path, guidance, end=end)).resolve())
    assert not found.problems
    assert [row.output for row in found.rows if row.component == "samples: sample"] == [
        f"{calls} denoiser calls per image"
    ]


def test_a_count_that_takes_too_long_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Sample, "costs", lambda self: [torch.zeros(1) for _ in range(10**9)])
    monkeypatch.setattr("uldm_core.preflight.preflight.deadline", lambda until: deadline(time.monotonic()))
    rows = preflight(Recipe.load(recipe(tmp_path)).resolve()).rows
    assert (rows[-1].output, rows[-1].why) == ("not measurable", "took too long")


def test_the_report_says_how_often_the_denoiser_was_called(guided_run):
    assert "called 4 times for each image" in " ".join(
        (guided_run / "report.html").read_text("utf-8").split()
    )


def test_in_bfloat16_both_models_multiply_so_and_are_combined_in_float32():
    strong, weak = TinyDenoiser(), TinyDenoiser()
    guidance = registry.build("guidance", "auto", weight=3.0)
    context = SimpleNamespace(device="cpu", autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    x, t = torch.randn(4, 2, 3, 3), torch.full((4,), 0.5)
    with torch.no_grad():
        guided = GuidedDenoiser(strong, straight(), guidance, weaker=weak).denoise(context, None)(x, t)
        with context.autocast():
            better, worse = (denoiser(x, 1000 * t) for denoiser in (strong, weak))
    assert better.dtype is torch.bfloat16 and guided.dtype is torch.float32
    torch.testing.assert_close(guided, worse.float() + 3 * (better.float() - worse.float()))


@pytest.mark.slow
def test_the_weaker_copy_of_a_compiled_denoiser_is_compiled_and_its_own():
    denoiser = TinyDenoiser()
    assert with_weights(denoiser, list(denoiser.parameters()))._compiled_call_impl is None
    denoiser.compile(backend="eager")
    early = [torch.zeros_like(parameter) for parameter in denoiser.parameters()]
    copy = with_weights(denoiser, early)
    assert copy._compiled_call_impl is not None
    assert all(not parameter.any() for parameter in copy.parameters())
    assert any(parameter.any() for parameter in denoiser.parameters())


def test_averages_of_a_denoiser_that_was_trained_later_are_refused(plain):
    kept = {AVERAGES: plain / "stages/second/artifacts" / AVERAGES}
    trained = TrainedRun.open(plain).component("denoiser")
    assert kept_average(kept, of=trained)
    with torch.no_grad():
        next(trained.parameters()).view(-1)[0] += 1
    with pytest.raises(MistakeError, match="is of another denoiser"):
        kept_average(kept, of=trained)
