"""The stage ``tune``: what it tries, what it chooses by, and that later stages draw so."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from uldm_core import MistakeError, RunError, registry
from uldm_core.engine.context import Context
from uldm_core.engine.device import Device
from uldm_core.engine.run import run as run_recipe
from uldm_core.errors import OptionError
from uldm_core.preflight.preflight import preflight
from uldm_core.recipe import Recipe
from uldm_core.run_folder.files import write_tensors
from uldm_core.run_folder.stage_folder import StageFolder
from uldm_core.testing.doubles import RecordingDataset, TinyDataset, components
from uldm_plugins.diagram.flowchart import graph_of
from uldm_plugins.stages.guided import kept_average
from uldm_plugins.stages.sample import Sample
from uldm_plugins.stages.tune import Tune
from uldm_plugins.stages.tuned import Choice, read_tuned

RECIPE = """
uldm = 1

[dataset]
use = "mnist"
limit = 64

[autoencoder]
use = "identity"

[denoiser]
use = "mlp"
width = 16
hidden = 16

[noise_scheduler]
use = "flow"

[guidance]
use = "auto"

[sampler]
use = "euler"
steps = 3

[stages.second]
use = "train_diffusion"
steps = 4
batch_size = 8
ema_decay = 0.5
weaker = 0.5
previews = 0
optimizer = { use = "adamw", lr = 0.05 }
lr_schedule = "constant"

[stages.tuning]
use = "tune"
weights = [1, 3]
intervals = [[0.2, 3]]
sampler_steps = [2]
worse = 10
count = 8

[stages.samples]
use = "sample"
count = 6
"""


class Brightness:
    """How far the mean grey level of images is from that of real ones; ``real`` counts these."""

    compares = True
    description = {}

    def __init__(self, higher=None):
        if higher is not None:
            self.higher_is_better = higher
        self.reset()

    def reset(self, *, keep_real=False):
        self.fake = []
        if not keep_real:
            self.real = []

    def update(self, images, *, real):
        (self.real if real else self.fake).extend(images.float().mean((1, 2, 3)).tolist())

    def compute(self):
        return {"brightness": abs(float(np.mean(self.fake))), "other": 0.0}


def context(folder, **products):
    stage = StageFolder(Path(folder) / "stages" / "tuning")
    stage.path.mkdir(parents=True, exist_ok=True)
    return Context("tuning", 3, Device(torch.device("cpu"), torch.float32), stage, products)


def tune(metric=None, dataset=None, **options):
    torch.manual_seed(0)
    names = ("dataset", "autoencoder", "denoiser", "noise_scheduler", "latent_scaling")
    parts = {name: part for name, part in components().items() if name in names}
    guidance, sampler = registry.build("guidance", "auto"), registry.build("sampler", "euler", steps=9)
    return Tune(
        **parts | ({"dataset": dataset} if dataset else {}),
        **{"guidance": guidance, "sampler": sampler, "metric": metric or Brightness(), "count": 4, **options},
    )


def run(stage, folder, **products):
    """Run it, and return what was chosen, and everything tried."""
    place = context(folder, **products)
    stage.run(place)
    tried = json.loads(place.artifact("candidates.json").read_text())
    return read_tuned(place.artifact("tuned.json")), tried


@pytest.fixture
def brightness(monkeypatch):
    """Have samples be as bright as a function of the guidance and the steps says, and note how often."""

    def set_to(level):
        def draw(self, context, count):
            return torch.full((count, 1, 8, 8), level(self.guidance, self.sampler.steps), dtype=torch.uint8)

        monkeypatch.setattr(Sample, "draw", draw)

    return set_to


def test_each_option_is_tried_in_turn_around_the_best_so_far(brightness, tmp_path):
    brightness(
        lambda guidance, steps: int(
            50 + 20 * abs(guidance.weight - 1.5) + 10 * (guidance.interval is None) + 60 / steps
        )
    )
    stage = tune(weights=[1, 1.5, 3], intervals=[(0.0, 1.0)], sampler_steps=[3, 6, 12], worse=1.1)
    choice, tried = run(stage, tmp_path)
    options = [(one["option"], one["weight"], one["interval"], one["steps"]) for one in tried["candidates"]]
    assert options == [
        ("", 2.0, None, 9),
        ("weight", 1.0, None, 9),
        ("weight", 1.5, None, 9),
        ("weight", 3.0, None, 9),
        ("interval", 1.5, [0, 1], 9),
        ("steps", 1.5, [0, 1], 3),
        ("steps", 1.5, [0, 1], 6),
        ("steps", 1.5, [0, 1], 12),
    ]
    assert (choice.weight, choice.interval, choice.steps) == (1.5, (0, 1), 6)  # 60 is within 1.1 times 55
    assert tried["planned"] == 8 and tried["candidates"][tried["best"]]["steps"] == 6
    assert [one["calls"] for one in tried["candidates"]][:2] == [18, 9]  # guided, each step is two calls
    assert stage.guidance.weight == 2 and stage.sampler.steps == 9, "its own components stay as they are"


def test_an_interval_is_not_tried_where_there_is_no_guidance_to_act(brightness, tmp_path):
    brightness(lambda guidance, steps: int(10 * guidance.weight))
    choice, tried = run(tune(weights=[1], intervals=[(0.0, 1.0)]), tmp_path)
    assert choice.weight == 1 and [one["option"] for one in tried["candidates"]] == ["", "weight"]


@pytest.mark.parametrize(("higher", "wanted"), [(None, 1), (True, 3), ({"brightness": True}, 3)])
def test_the_metric_says_which_way_is_better(brightness, tmp_path, higher, wanted):
    brightness(lambda guidance, steps: int(10 * guidance.weight))
    assert run(tune(Brightness(higher), weights=[1, 3]), tmp_path)[0].weight == wanted


def test_a_number_without_direction_decides_nothing(brightness, tmp_path):
    brightness(lambda guidance, steps: 10)
    with pytest.raises(RunError, match="neither more nor less of brightness is better"):
        run(tune(Brightness({"other": True}), weights=[1]), tmp_path)


def test_when_time_is_up_the_best_so_far_is_taken(brightness, tmp_path, monkeypatch):
    brightness(lambda guidance, steps: int(10 * guidance.weight))
    clock = iter(range(0, 10_000, 25))
    monkeypatch.setattr("uldm_plugins.stages.tune.time", SimpleNamespace(monotonic=lambda: next(clock)))
    choice, tried = run(tune(weights=[1.5, 1], sampler_steps=[3], minutes=2), tmp_path)
    assert choice.weight == 1.5 and len(tried["candidates"]) == 2 < tried["planned"]


def test_only_images_that_were_held_out_are_compared_with(brightness, tmp_path):
    brightness(lambda guidance, steps: 10)
    dataset = RecordingDataset()
    np.savez(tmp_path / "held_out.npz", indices=np.array([3, 5, 9]))
    _, tried = run(tune(dataset=dataset, weights=[]), tmp_path, **{"held_out.npz": tmp_path / "held_out.npz"})
    assert sorted(set(dataset.asked)) == [3, 5, 9]
    assert tried["against"] == "3 training images that the denoiser was not trained on"
    _, tried = run(tune(dataset=dataset, weights=[]), tmp_path)
    assert tried["against"] == "29 training images that the denoiser was trained on"
    every = tune(dataset=dataset, weights=[], compare_with="all")
    _, tried = run(every, tmp_path, **{"held_out.npz": tmp_path / "held_out.npz"})
    assert tried["against"] == "29 training images of all that there are"
    np.savez(tmp_path / "held_out.npz", indices=np.array([29]))
    with pytest.raises(MistakeError, match="not the indices of some of 29 images"):
        run(tune(dataset=dataset), tmp_path, **{"held_out.npz": tmp_path / "held_out.npz"})


class OtherTest(TinyDataset):
    """Its test split is what it is given: noise, say."""

    def __init__(self, test):
        super().__init__()
        self.test = test

    def split(self, name):
        split = super().split(name)
        if name == "test":
            split.pixels = self.test
        return split


def test_other_images_in_the_test_split_change_nothing(tmp_path):
    """Measured by what the samples score, so that a test image that is read would show."""
    chosen = []
    for level in (0, 255):
        dataset = OtherTest(torch.full((32, 1, 8, 8), level, dtype=torch.uint8))
        metric = registry.build("metric", "frechet_mnist")
        stage = tune(metric, dataset, guidance=registry.build("guidance", "none"), sampler_steps=[2, 4])
        run(stage, tmp_path / str(level))
        chosen.append((tmp_path / str(level) / "stages/tuning/artifacts/tuned.json").read_bytes())
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize(
    ("kept", "what"),
    [
        ({"weaker.0": torch.tensor([float("nan")])}, "weaker.0 is not finite"),
        ({"a": torch.zeros(1)}, "does not hold averages"),
    ],
)
def test_averages_that_are_none_are_said_in_a_line(tmp_path, kept, what):
    write_tensors(tmp_path / "averages.safetensors", kept)
    with pytest.raises(MistakeError, match=rf"averages\.safetensors: .*{what}"):
        kept_average({"averages.safetensors": tmp_path / "averages.safetensors"})


def test_averages_that_were_kept_are_candidates(tmp_path):
    stage = tune(weights=[])
    denoiser = stage._parts[1]
    kept = {f"{name}.{n}": p + at for name, at in (("ema_0.05", 1), ("weaker", 2))
            for n, p in enumerate(denoiser.parameters())}  # fmt: skip
    write_tensors(tmp_path / "averages.safetensors", kept)
    products = {"averages.safetensors": tmp_path / "averages.safetensors"}
    _, tried = run(stage, tmp_path, **products)
    assert [one["average"] for one in tried["candidates"]] == ["trained", "ema_0.05"]
    assert tried["candidates"][0]["numbers"] != tried["candidates"][1]["numbers"]
    with pytest.raises(RunError, match=r"there is no ema_0\.2"):
        run(tune(averages=["ema_0.2"]), tmp_path, **products)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "class_balance"}, "metric: ClassBalance does not compare"),
        ({"metric": "psnr"}, "metric: PSNR does not compare"),
        ({"guidance": "none", "weights": [2.0]}, "the guidance has none to choose"),
        ({"intervals": [(3.0, 1.0)]}, r"intervals: \[3.0, 1.0\] does not rise"),
    ],
)
def test_what_cannot_be_tuned_is_refused(options, message):
    built = {k: registry.build(k, v) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(OptionError, match=message):
        tune(**built)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    (folder / "recipe.toml").write_text(RECIPE)
    return run_recipe(Recipe.load(folder / "recipe.toml"), out=folder / "run")


def test_samples_are_drawn_as_tuned(uldm, tuned, tmp_path):
    """By the stage, and by the command; explicit options win."""
    choice = read_tuned(tuned / "stages/tuning/artifacts/tuned.json")
    assert choice.steps == 2
    with np.load(tuned / "stages/samples/artifacts/path.npz") as path:
        assert len(path["times"]) == 3
    summary = json.loads((tuned / "stages/samples/stage.json").read_text())["summary"]
    assert summary["steps"] == 2 and summary["weight"] == choice.weight
    draw = ("sample", tuned, "--count", 4)
    names = {"own": (), "two": ("--steps", 2), "three": ("--steps", 3), "other": ("--sampler", "euler")}
    for name, more in names.items():
        assert uldm(*draw, "--out", f"{name}.npz", *more)[0] == 0
    own, two, three, other = ((tmp_path / f"{name}.npz").read_bytes() for name in names)
    assert own == two != three and other not in (own, three)


def test_before_a_run_its_cost_is_said_and_its_place_drawn(tuned):
    resolved = Recipe.load(tuned / "recipe.toml").resolve()
    row = next(row for row in preflight(resolved).rows if row.component == "tuning: tune")
    assert (
        row.output == "5 candidates, 24 denoiser calls per image in all"
    )  # of weight 2, 1, 3, inside, 2 steps
    assert "tuned.json" in [edge.label for edge in graph_of(resolved).edges]


def test_a_damaged_choice_is_one_line(uldm, tuned, tmp_path):
    for text, wrong in [
        ('{"weight": -1}', "'weight' must be >= 0"),
        ('{"interval": [3, 1]}', "'interval' must be two numbers"),
        ('{"steps": "many"}', "'steps' must be"),
        ("[]", "it holds no choice"),
    ]:
        (tmp_path / "tuned.json").write_text(text)
        with pytest.raises(MistakeError, match=rf"tuned\.json: not what uldm writes there: .*{wrong}"):
            read_tuned(tmp_path / "tuned.json")
    file = tuned / "stages/tuning/artifacts/tuned.json"
    before = file.read_text()
    try:
        file.write_text(before.replace('"steps": 2', '"steps": -2'))
        code, _, error = uldm("sample", tuned, "--out", "a.npz")
    finally:
        file.write_text(before)
    assert code == 2 and "tuned.json" in error and "Traceback" not in error


def test_a_choice_is_not_used_with_another_guidance_or_sampler():
    auto, free = registry.build("guidance", "auto"), registry.build("guidance", "none")
    heun, euler = registry.build("sampler", "heun"), registry.build("sampler", "euler")
    choice = Choice.of(auto, heun)
    assert choice.guided(auto).weight == 2 and choice.sampled(heun).steps == 10
    with pytest.raises(RunError, match="chosen for the guidance Auto, and this stage has NoGuidance"):
        choice.guided(free)
    with pytest.raises(RunError, match="chosen for the sampler Heun, and this stage has Euler"):
        choice.sampled(euler)
    with pytest.raises(RunError, match=r"the training kept no average 'ema_0\.1'"):
        Choice(average="ema_0.1").averaged(components()["denoiser"], {})
