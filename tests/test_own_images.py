"""``uldm new recipe --images``: what is found in a folder, what follows, and that it runs as written."""

from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from uldm_core import MistakeError, check
from uldm_core.cli.main import cli
from uldm_core.preflight import required_files
from uldm_core.recipe import Recipe
from uldm_core.toml_text.parse import parse_toml
from uldm_plugins.own_images import folder as folders
from uldm_plugins.own_images import measure
from uldm_plugins.own_images import recipe as recipes
from uldm_plugins.own_images.choice import choose
from uldm_plugins.own_images.describing import describe_folder
from uldm_plugins.own_images.facts import FEW, FEWEST, Computer, FolderSummary, Request
from uldm_plugins.own_images.folder import look_at, read_all
from uldm_plugins.own_images.measure import Costs
from uldm_plugins.own_images.recipe import root_in_recipe
from uldm_plugins.own_images.schedule import FEWEST_STEPS, Speed, rounded, schedule
from uldm_plugins.own_images.tables import BACKBONES
from uldm_plugins.own_images.writing import recipe_text, tables_of

EMOJI = FolderSummary(Path("emoji"), 3660, checked=3660, sampled=1000, transparent=1.0)
SPEED = Speed(0.1, 0.15, 0.07)


def chosen(computer=None, request=None, **changes):
    return choose(evolve(EMOJI, **changes), computer or Computer(), request or Request())


shares = st.floats(0, 1)
summaries = st.builds(
    FolderSummary,
    root=st.sampled_from([Path("images"), Path('/a b/"quoted"/ü\t\'\\\x7f')]),
    count=st.integers(FEWEST, 2_000_000),
    shorter=st.integers(1, 5000).map(lambda side: (side, side, side)),
    ratio=st.floats(0.02, 50),
    of_that_ratio=shares,
    grey=st.sampled_from([0.0, 0.5, 1.0]),
    transparent=shares,
    light=shares,
    classes=st.sampled_from([(), ("cats", "dogs")]),
)
computers = st.builds(
    Computer,
    gpu=st.booleans(),
    memory=st.integers(1 << 30, 1 << 38),
    weights=st.frozensets(st.sampled_from(BACKBONES)),
)
requests = st.builds(
    Request,
    minutes=st.floats(0.01, 10_000),
    size=st.none() | st.tuples(st.integers(8, 300), st.integers(8, 300)),
    channels=st.sampled_from([None, 1, 3, 4]),
)
speeds = st.builds(
    Speed, *[st.floats(1e-4, 100)] * 3, st.floats(1e9, 1e14), st.sampled_from(["auto", "float32"])
)


@settings(max_examples=4)
@given(summaries, computers, requests, speeds)
def test_whatever_the_facts_the_recipe_is_valid(summary, computer, request, speed):
    choice = choose(summary, computer, request)
    steps = schedule(summary, choice, speed, request.minutes)
    text = recipe_text(choice, steps, ["head"])
    assert parse_toml(text) == tables_of(choice, steps)
    assert choose(summary, computer, request) == choice
    recipe = Recipe.from_dict(parse_toml(text) | {"dataset": {**choice.tables["dataset"], "root": "."}})
    assert [str(problem) for problem in check(recipe)] == []


def test_a_size_follows_the_images():
    assert chosen().size == (64, 64)
    assert chosen(shorter=(20, 30, 40)).size == (32, 32)
    assert chosen(shorter=(1, 1, 1)).size == (16, 16)
    assert chosen(shorter=(100, 500, 900)).size == (64, 64)
    assert chosen(Computer(gpu=True), shorter=(100, 500, 900)).size == (128, 128)
    assert chosen(shorter=(300, 300, 300), ratio=4 / 3, of_that_ratio=0.9).size == (56, 72)
    assert chosen(shorter=(300, 300, 300), ratio=4 / 3, of_that_ratio=0.5).size == (64, 64)
    assert chosen(request=Request(size=(40, 50))).tables["dataset"]["size"] == [40, 50]


def test_channels_and_background_follow_the_images():
    assert chosen(transparent=0.0).tables["dataset"].keys() == {"use", "root", "size", "channels"}
    assert chosen(grey=1.0).tables["dataset"]["channels"] == 1
    assert chosen(grey=0.99).tables["dataset"]["channels"] == 3
    assert chosen(request=Request(channels=4)).tables["dataset"].get("background") is None
    assert chosen(light=0.2).tables["dataset"]["background"] == "white"
    assert chosen(light=0.9).tables["dataset"]["background"] == "black"


def test_what_is_cut_off_is_said_and_transparent_images_are_not_cut():
    wide = {"ratio": 2.0, "of_that_ratio": 0.5}
    assert chosen(**wide).tables["dataset"]["fit"] == "pad"
    assert "without 50% of the usual image" in chosen(**wide, transparent=0.0).why["dataset"]
    assert "without" not in chosen(transparent=0.0).why.get("dataset", "")


def test_small_sets_are_held_back_from_being_known_by_heart():
    small, usual, large = (chosen(count=count).tables for count in (FEW - 1, FEW, 1_000_000))
    assert (small["denoiser"]["dropout"], small["stages.second"]["held_out"]) == (0.1, 0.1)
    assert small["augmentation"] == {"use": "flip", "leaks": False}
    assert {"dropout", "augmentation"}.isdisjoint([*usual, *usual["denoiser"]])
    assert "[augmentation]" in "".join(chosen().instead["dataset"])
    assert usual["stages.second"]["held_out"] == 0.05
    assert "held_out" not in large["stages.second"]


def test_clusters_follow_the_number_of_images():
    assert "condition" not in chosen(count=119).tables
    assert [chosen(count=count).clusters for count in (120, 3660, 10**6)] == [2, 61, 400]
    assert chosen(classes=("a", "b")).instead["condition"]


def test_the_denoiser_follows_the_latents():
    assert chosen().tables["denoiser"]["use"] == "mlp"
    assert chosen(request=Request(size=(64, 400))).tables["denoiser"]["use"] == "dit"
    assert chosen(Computer(gpu=True)).tables["autoencoder"]["use"] == "autoencoder_kl"
    odd = chosen(Computer(gpu=True), Request(size=(63, 65)))
    assert odd.tables["autoencoder"]["use"] == "vqvae_fast"


def names(choice):
    return [m if isinstance(m, str) else m["use"] for m in choice.tables["stages.scores"]["metrics"]]


def test_metrics_need_no_published_weights_and_fit_into_memory():
    features = ["density_coverage", "precision_recall"]
    assert names(chosen()) == ["psnr", "ssim", "codebook_usage", "nearest_neighbour", *features]
    assert names(chosen(request=Request(channels=4)))[-1] == "nearest_neighbour"
    assert names(chosen(request=Request(size=(8, 8)))) == ["psnr", "codebook_usage", "nearest_neighbour"]
    assert "nearest_neighbour" not in names(chosen(count=1_000_000))


@pytest.mark.parametrize(
    ("gpu", "here", "loss", "metrics"),
    [
        (False, {"vgg16", "inception"}, None, None),  # of which a processor is too slow
        (False, {"alexnet", "squeezenet"}, "alexnet", "squeezenet"),
        (False, {"squeezenet"}, "squeezenet", None),
        (True, {"vgg16", "alexnet"}, "vgg16", "alexnet"),
        (True, set(BACKBONES), "vgg16", "inception"),
    ],
)
def test_published_weights_that_are_here_are_used_and_said(gpu, here, loss, metrics):
    choice = chosen(Computer(gpu=gpu, weights=frozenset(here)))
    losses = choice.tables["stages.first"]["losses"][2:]
    assert [each["backbone"] for each in losses] == [loss][: loss is not None]
    assert (f"weights of {loss} are on this" in choice.why["stages.first"]) == (loss is not None)
    measured = choice.tables["stages.scores"]["metrics"][-1]["backbone"]
    assert measured == metrics or (metrics is None and measured["weights"] == "random")
    assert ("frechet" in names(choice)) == (metrics is not None)
    assert f"of {metrics or 'a network that was never trained'}" in choice.why["stages.scores"]
    transparent = chosen(Computer(weights=frozenset(here)), Request(channels=4))
    assert len(transparent.tables["stages.first"]["losses"]) == 2


def test_weights_are_looked_for_without_the_network_and_their_loss_costs(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(required_files, "ask", None)
    assert measure.this_computer(tmp_path).weights == frozenset()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth").touch()
    here = measure.this_computer(tmp_path)
    assert here.weights == {"squeezenet"}
    small = Request(size=(32, 32))
    without, with_it = (measure.costs(chosen(each, small)) for each in (Computer(), here))
    assert with_it.autoencoder > without.autoencoder and with_it.adversarial > without.adversarial
    assert with_it.denoiser == without.denoiser


@given(st.builds(Speed, *[st.floats(1e-4, 1)] * 3, st.floats(1e9, 1e14)), st.floats(20, 2000))
def test_steps_fit_into_the_minutes(speed, minutes):
    choice = chosen()
    steps = schedule(EMOJI, choice, speed, minutes)
    assert steps.minutes <= 1.01 * minutes or steps.samples == 100
    assert steps.first >= FEWEST_STEPS
    assert steps.start < steps.first
    more = schedule(EMOJI, choice, speed, 3 * minutes)
    assert (more.first, more.second) >= (1.5 * steps.first, 1.5 * steps.second)


def test_a_quarter_of_the_time_is_the_autoencoder_s():
    steps = schedule(EMOJI, chosen(), SPEED, 20)
    assert (steps.first, steps.start, steps.second) == (2300, 1150, 12000)
    assert 19 < steps.minutes <= 20
    assert [rounded(number) for number in (3.0, 10.9, 1234.0, 99_999.0)] == [10, 10, 1200, 99_000]


def test_a_few_thousand_images_get_the_recipe_that_ships():
    shipped = Recipe.load("images_latent").document.data
    steps = schedule(EMOJI, chosen(), SPEED, 20)
    own = tables_of(chosen(transparent=0.0, count=3600), steps)
    for recipe in (shipped, own):
        for stage in ("first", "second", "tune", "samples"):
            for option in ("steps", "count"):
                recipe["stages"][stage].pop(option, None)
        del recipe["stages"]["first"]["adversarial"]["start"]
        for option in ("root", "channels"):
            recipe["dataset"].pop(option, None)
        metrics = recipe["stages"]["scores"].pop("metrics")
    assert own == shipped
    assert "psnr" in metrics


def test_what_was_measured_decides_the_precision():
    steps = schedule(EMOJI, chosen(), evolve(SPEED, precision="float32"), 20)
    assert tables_of(chosen(), steps)["run"] == {"precision": "float32"}


def test_a_folder_is_named_from_the_recipe_if_it_lies_below(tmp_path):
    inside, outside = tmp_path / "a" / "images", tmp_path / "images"
    assert root_in_recipe(tmp_path / "a" / "mine.toml", inside) == Path("images")
    assert root_in_recipe(tmp_path / "a" / "mine.toml", outside) == outside
    assert root_in_recipe(outside / "mine.toml", outside) == outside


def draw(path, size=(16, 16), colour=True, alpha=None, seed=0):
    """Write an image of chance; ``alpha`` of its left half, if any."""
    numbers = np.random.default_rng(seed)
    pixels = numbers.integers(0, 256, (size[1], size[0], 3), np.uint8)
    pixels = pixels if colour else pixels[..., :1].repeat(3, -1)
    if alpha is not None:
        opacity = np.full(pixels.shape[:2], 255, np.uint8)
        opacity[:, : size[0] // 2] = alpha
        pixels = np.dstack([pixels, opacity])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def images(tmp_path):
    """Return a folder of 24 images in two folders, two of them copies, beside what is no image."""
    for number in range(24):
        draw(
            tmp_path / "images" / "ab"[number % 2] / f"{number}.png",
            seed=number // 2 if number < 4 else number,
        )
    (tmp_path / "images" / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno image")
    (tmp_path / "images" / "a" / "film.heic").write_bytes(b"")
    return tmp_path / "images"


def test_what_a_folder_holds_is_found(images):
    folder = look_at(images)
    summary = read_all(folder, {"size": 16, "channels": 3})
    assert (summary.count, summary.repeated, summary.checked) == (24, 2, 25)
    assert sorted(summary.left_out.values()) == [1, 1]
    assert summary.classes == ("a", "b")
    assert (summary.height, summary.width, summary.grey, summary.transparent) == (16, 16, 0, 0)
    lines = "\n".join(describe_folder(summary))
    for text in (
        "24 images",
        "2 are exact copies",
        "left out: 1",
        "each 16 pixels high",
        "a small set",
        "a, b",
    ):
        assert text in lines


def test_shapes_and_colours_are_found(tmp_path):
    for number in range(12):
        draw(tmp_path / f"{number}.png", (40, 20), seed=number)
    for number in range(12, 24):
        draw(tmp_path / f"{number}.png", (20, 30), colour=False, alpha=0, seed=number)
    summary = look_at(tmp_path).summary
    assert (summary.landscape, summary.portrait, summary.grey, summary.transparent) == (0.5, 0.5, 0.5, 0.5)
    assert summary.shorter == (20, 20, 20)
    assert (summary.of_that_ratio, summary.light) == (0, 0)


def test_a_white_drawing_on_nothing_is_light(tmp_path):
    for number in range(FEWEST):
        pixels = np.full((16, 16, 4), 255, np.uint8)
        pixels[: number + 1, :8] = (0, 0, 0, 40)  # a faint shadow
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    summary = look_at(tmp_path).summary
    assert (summary.light, summary.transparent, summary.grey) == (1, 1, 1)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_images_are_refused(count, tmp_path):
    for number in range(count):
        draw(tmp_path / f"{number}.png", seed=number)
    (tmp_path / "picture.heic").write_bytes(b"")
    with pytest.raises(
        MistakeError, match=rf"{count} usable images?, and 20 are the least; 1 left out: .heic"
    ):
        look_at(tmp_path)


def test_broken_files_do_not_count(tmp_path):
    for number in range(FEWEST + 5):
        draw(tmp_path / f"{number}.png", seed=number)
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(MistakeError, match="15 usable images, and 20 are the least; 10 left out"):
        look_at(tmp_path)


def test_of_a_large_folder_a_part_is_looked_at(images, monkeypatch):
    monkeypatch.setattr(folders, "SAMPLE", 21)
    summary = look_at(images).summary
    assert summary.sampled in (20, 21)
    assert summary.count in (23, 25)
    assert "about 2" in next(describe_folder(summary))


def uldm(*arguments):
    return CliRunner().invoke(cli, [*map(str, arguments)])


@pytest.fixture
def quick(monkeypatch):
    """Measure with as few steps as can be."""
    monkeypatch.setattr(measure, "SECONDS", 0)


def test_a_recipe_is_written_and_runs_as_it_is(images, quick, monkeypatch):
    monkeypatch.chdir(images.parent)
    written = uldm("new", "recipe", "mine.toml", "--images", "images", "--size", "16", "--minutes", "0.02")
    assert written.exit_code == 0, written.output
    for text in (
        "24 images",
        "measuring",
        "fewer than 200 steps",
        "autoencoder: Quick",
        "wrote mine.toml",
        "uldm run mine.toml",
    ):
        assert text in written.output
    text = Path("mine.toml").read_text("utf-8")
    assert parse_toml(text)["dataset"]["root"] == "images"
    for part in ("# Images like those in images", "--minutes 0.06", "--size 32", "--gpu", "of memory and"):
        assert part in text
    small = ["denoiser.width=16", "denoiser.hidden=16", "stages.samples.count=12"]
    small += [f"stages.{name}" for name in ("first.batch_size=8", "second.batch_size=8", "first.previews=1")]
    done = uldm("run", "mine.toml", *small, "stages.second.previews=1", "stages.second.watch=1")
    assert done.exit_code == 0, done.output
    assert Path("runs/mine/samples.png").is_file()


@pytest.mark.slow
def test_a_recipe_for_more_images_runs_exactly_as_it_is_written(tmp_path, monkeypatch):
    for number in range(400):
        draw(tmp_path / "images" / f"{number}.png", (60, 40), alpha=128 if number % 2 else None, seed=number)
    monkeypatch.chdir(tmp_path)
    for name, options in {"one": [], "two": ["--size", "32x48", "--channels", "4"]}.items():
        path = f"{name}.toml"
        assert uldm("new", "recipe", path, "--images", "images", "--minutes", "0.2", *options).exit_code == 0
        assert uldm("validate", path, "--deep").exit_code == 0
        done = uldm("run", path)
        assert done.exit_code == 0, done.output
        assert Path(f"runs/{name}/samples.png").is_file()


def test_a_recipe_for_a_gpu_is_estimated(images, monkeypatch):
    monkeypatch.setattr(recipes, "measured", None)
    monkeypatch.setattr(recipes, "costs", lambda choice: Costs(1e12, 2e12, 1e12, 1 << 30, 1 << 30))
    path = images.parent / "mine.toml"
    assert uldm("new", "recipe", path, "--images", images, "--gpu").exit_code == 0
    text = path.read_text("utf-8")
    assert "none is here to be measured" in text
    assert parse_toml(text)["autoencoder"]["use"] == "autoencoder_kl"
    assert "--gpu " not in text


def test_what_cannot_be_done_is_refused(images, tmp_path):
    path = tmp_path / "mine.toml"
    path.touch()
    assert "exists already" in str(uldm("new", "recipe", path, "--images", images).exception)
    path.unlink()
    assert "there is no folder" in str(uldm("new", "recipe", path, "--images", tmp_path / "none").exception)
    for option in (["--size", "64x"], ["--size", "4"], ["--minutes", "0"], ["--channels", "2"]):
        assert uldm("new", "recipe", path, "--images", images, *option).exit_code == 2
    assert "--images" in uldm("new", "recipe", path, "--gpu").output
    assert not path.exists()
