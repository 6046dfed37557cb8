"""What a run needs and is not there is said before its first step: published files, splits, memory."""

import io
import time
import urllib.error
from pathlib import Path

import pytest
import torch
from attrs import evolve

from uldm_core import Component, MistakeError, Recipe, registry
from uldm_core.engine import memory, requirements
from uldm_core.engine.device import Device
from uldm_core.engine.run import run
from uldm_core.preflight import required_files
from uldm_core.preflight.preflight import preflight
from uldm_core.protocols import RequiredFile
from uldm_core.spec.building import validate

ASK = required_files.ask  # which tests do not call
ALEXNET, VGG16 = "alexnet-owt-7be5be79.pth", "vgg16-397923af.pth"
CPU = Device(torch.device("cpu"), torch.float32)
MEASURED = 'stages.scores.metrics=["psnr", { use = "frechet", backbone = "alexnet" }]'
UNREACHABLE = "no route to host"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of weights, and the addresses that are asked; none answers."""
    asked = []

    def ask(url):
        asked.append(url)
        return UNREACHABLE

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(required_files, "ask", ask)
    return asked


@pytest.fixture
def recipe(small_run, tmp_path):
    """Return the small recipe, of images that AlexNet takes, with overrides."""
    path = tmp_path / "tiny.toml"
    path.write_text((small_run.parent / "tiny.toml").read_text().replace("size = 8", "size = 32"))
    return lambda *overrides: Recipe.load(path, overrides)


def missing(recipe, stages=None):
    resolved = recipe.resolve()
    absent = required_files.absent_files(resolved, resolved.stages if stages is None else stages)
    return required_files.file_problems(resolved, absent)


def test_a_run_does_not_begin_without_weights_that_its_last_stage_needs(recipe, hub, tmp_path):
    with pytest.raises(MistakeError) as caught:
        run(recipe(MEASURED), out=tmp_path / "out")
    (problem,) = caught.value.problems
    assert problem.where.key == ("stages", "scores", "metrics", 1, "backbone")
    assert problem.code == "unavailable-file" and f"{ALEXNET} is not here" in problem.what
    assert problem.what.endswith(UNREACHABLE) and not (tmp_path / "out" / "stages").exists()
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    for part in (f"into {folder}", "begins with 7be5be79", "'random'", "nearest_neighbour, psnr, ssim"):
        assert part in problem.hint
    run(recipe(MEASURED), out=tmp_path / "out", until="first")
    with pytest.raises(MistakeError, match=ALEXNET):
        run(recipe(MEASURED), out=tmp_path / "out")


def test_the_program_says_it_at_the_recipes_line_and_what_is_to_be_fetched(uldm, recipe, hub, monkeypatch):
    recipe()
    text = Path("tiny.toml").read_text()
    Path("tiny.toml").write_text(text.replace('[{ use = "psnr" }]', '["psnr", "lpips"]'))
    line = text[: text.index("metrics")].count("\n") + 1
    for command in (["validate", "--deep"], ["run", "--dry-run"], ["run"]):
        code, _, error = uldm(*command, "tiny.toml")
        assert code == 2 and f"tiny.toml:{line}: stages.scores.metrics[1].backbone: {VGG16}" in error
    assert uldm("validate", "--deep", "tiny.toml", "stages.scores.metrics=['psnr']")[0] == 0
    monkeypatch.setattr(required_files, "ask", lambda url: "")
    code, out, _ = uldm("run", "--dry-run", "tiny.toml")
    assert code == 0 and f"to be fetched: {VGG16} from https://download.pytorch.org" in out
    assert "scores: do" in out and not Path("runs").exists()


def test_a_file_that_is_here_is_not_asked_for_and_not_read(recipe, hub, tmp_path):
    wanted = recipe(MEASURED)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / ALEXNET).touch()
    assert missing(wanted) == [] and hub == []


def test_each_address_is_asked_once_and_none_against_auto_download(recipe, hub):
    network = '{ use = "alexnet", auto_download = %s }'
    metrics = 'stages.scores.metrics=[{ use = "frechet", backbone = %s }, { use = "lpips", backbone = %s }]'
    off, on = network % "false", network % "true"
    assert len(missing(recipe(metrics % (on, on)))) == 2 and len(hub) == 1
    problems = missing(recipe(metrics % (off, off)))
    assert [problem.what.rpartition(": ")[2] for problem in problems] == ["auto_download is off"] * 2
    assert len(hub) == 1
    assert missing(recipe(metrics % (on, on)), ["first", "second"]) == [] and len(hub) == 1


def test_the_recipe_that_is_named_needs_no_file(hub, tmp_path):
    assert missing(Recipe.load("images_latent", [f"dataset.root={tmp_path}"])) == [] and hub == []


def test_a_loss_is_offered_losses_and_a_network_of_the_recipe_networks(recipe, hub):
    by_ref = 'stages.first.losses=[{ use = "lpips", backbone = { ref = "seen" } }]'
    (problem,) = missing(recipe('stages.first.losses=["lpips"]'))
    assert problem.hint.endswith("of kind loss, these need no file: charbonnier, huber, l1, l2")
    (problem,) = missing(recipe(by_ref, 'seen={ kind = "backbone", use = "vgg16" }'))
    assert problem.where.key == ("seen",)
    assert problem.hint.endswith("of kind backbone, these need no file: dummy, mnist_classifier, mnist_judge")


@pytest.mark.parametrize(
    ("use", "files", "unpacked"),
    [
        ("fashion_mnist", 2, ""),
        ("cifar10", 1, "unpacked as cifar-10-batches-py"),
        ("celeba", 6, "unpacked as img_align_celeba"),
    ],
)
def test_datasets_are_looked_for_before_they_are_opened(uldm, recipe, hub, tmp_path, use, files, unpacked):
    dataset = f'dataset={{ use = "{use}", root = "{tmp_path}", auto_download = false }}'
    data = (dataset, "stages.scores.metrics=['lpips']")
    problems = missing(recipe(*data), [])
    assert len(problems) == files and unpacked in problems[0].hint and hub == []
    assert all(problem.where.key == ("dataset",) for problem in problems)
    with pytest.raises(MistakeError, match=VGG16):  # everything at once
        run(recipe(*data), out=tmp_path / "out")
    code, _, error = uldm("run", "--dry-run", "tiny.toml", *data)
    assert code == 2 and "auto_download is off" in error and VGG16 in error


def test_a_dry_run_fetches_no_data(uldm, recipe, hub, monkeypatch):
    monkeypatch.setattr(required_files, "ask", lambda url: "")
    monkeypatch.setattr("uldm_plugins.datasets.fetched.download_url", lambda *a, **k: pytest.fail("fetched"))
    recipe()
    code, out, _ = uldm("run", "--dry-run", "tiny.toml", 'dataset={ use = "fashion_mnist", root = "new" }')
    assert code == 0 and out.count("to be fetched: train-") == 2
    assert out.endswith("what each stage would do is known once the dataset is fetched\n")


def test_timm_looks_where_the_hub_keeps_its_files(hub, tmp_path, monkeypatch):
    features = pytest.importorskip("uldm_plugins.adapters.timm.features")
    monkeypatch.setattr(features.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(features, "try_to_load_from_cache", lambda *a, **k: None)
    options = {"model": "resnet18", "weights": "pretrained"}
    (file,) = features.Features.required_files(options)
    assert not file.path.exists() and file.url.endswith("/timm/resnet18.a1_in1k")
    (tmp_path / "model.safetensors").touch()
    kept = str(tmp_path / "model.safetensors")
    monkeypatch.setattr(features, "try_to_load_from_cache", lambda *a, **k: kept)
    assert features.Features.required_files(options)[0].path.exists()
    assert features.Features.required_files({**options, "weights": "random"}) == []


# ------------------------------------------------------------------------------------------------ asking


def http_error(code):
    return urllib.error.HTTPError("https://a.b", code, "reason", {}, io.BytesIO())


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (None, ""),
        (http_error(404), "404 reason"),
        (http_error(403), ""),
        (http_error(405), ""),
        (urllib.error.URLError(OSError(UNREACHABLE)), UNREACHABLE),
        (TimeoutError("timed out"), "timed out"),
    ],
)
def test_an_address_is_asked_by_one_small_request(monkeypatch, raised, said):
    requests = []

    def answer(request, timeout):
        requests.append((request.method, request.full_url, timeout))
        if raised:
            raise raised
        return io.BytesIO()

    monkeypatch.setattr(required_files, "urlopen", answer)
    assert ASK("https://a.b/c") == said
    assert requests == [("HEAD", "https://a.b/c", required_files.SECONDS)]
    assert ASK("file:///etc/passwd") == "" and len(requests) == 1


def test_addresses_are_asked_at_a_time_and_not_waited_for_longer(monkeypatch):
    monkeypatch.setattr(required_files, "ask", lambda url: time.sleep(30) if url == "slow" else url)
    monkeypatch.setattr(required_files, "SECONDS", 0.05)
    answers = required_files.ask_all(["fast", "slow"])
    assert answers == {"fast": "fast", "slow": "no answer within 0.05 s"}


def test_a_file_says_what_to_do_with_it():
    file = RequiredFile("a.zip", Path("data/a"), "https://a.b/a.zip", checksum="MD5 is 1", without="use b")
    assert file.hint == "put a.zip (from https://a.b/a.zip; its MD5 is 1) into data, unpacked as a, or use b"


# ------------------------------------------------------------------------------------------------ splits


class Untested:
    """Eight images for training, and a split for testing that there is not."""

    splits, channels, size = ("train", "test"), 3, (8, 8)

    def __len__(self) -> int:
        return 8

    def images(self, indices):
        return torch.zeros(len(indices), 3, 8, 8, dtype=torch.uint8)

    def split(self, name):
        if name == "test":
            raise ValueError("no image is left for it")
        return self


@pytest.fixture
def untested(monkeypatch):
    own = registry.default()
    own.register(Component("dataset", "untested", Untested))
    yield
    registry.default.cache_clear()


def test_a_split_that_a_later_stage_reads_and_there_is_not_is_found_first(recipe, untested, tmp_path):
    wanted = recipe("dataset=untested")
    with pytest.raises(MistakeError) as caught:
        run(wanted, out=tmp_path / "out")
    (problem,) = caught.value.problems
    assert problem.where.key == ("stages", "scores") and "no image is left for it" in problem.what
    assert not (tmp_path / "out" / "stages").exists()
    run(wanted, out=tmp_path / "out", until="first")


@pytest.mark.parametrize("own_table", [False, True])
def test_a_metric_of_more_images_than_there_are_is_found_first(recipe, own_table, tmp_path):
    table = '{ use = "precision_recall", backbone = "dummy", k = 9 }'
    used, key, overrides = table, ("stages", "scores", "metrics", 1), ["dataset.count=9"]
    if own_table:
        used, key = '{ ref = "likeness" }', ("likeness",)
        overrides += [f"likeness={table}", "likeness.kind=metric"]
    wanted = recipe(f'stages.scores.metrics=["psnr", {used}]', *overrides)
    with pytest.raises(MistakeError) as caught:
        run(wanted, out=tmp_path / "out")
    (problem,) = caught.value.problems
    assert problem.code == "too-few-images" and problem.where.key == key
    assert problem.what == "precision_recall needs 10 images or more, and the train split has 9"
    assert not (tmp_path / "out" / "stages").exists()
    if not own_table:
        run(wanted, out=tmp_path / "out", until="first")


# ------------------------------------------------------------------------------------------------ memory


def memory_problems(recipe, there, monkeypatch, device=CPU):
    monkeypatch.setattr(requirements, "memory_of", lambda device: there)
    resolved = recipe.resolve()
    return requirements.requirements(resolved, preflight(resolved), resolved.stages, device).problems


def test_a_step_that_needs_more_memory_than_there_is_is_refused_with_a_batch_that_fits(
    recipe, tmp_path, monkeypatch
):
    large = recipe("stages.first.batch_size=4000")
    step = preflight(large.resolve()).steps["first"]
    need = step.bytes(4000)
    (problem,) = memory_problems(large, need // 2, monkeypatch)
    assert problem.where.key == ("stages", "first", "batch_size") and not problem.warning
    assert problem.code == "too-little-memory" and problem.hint == "batch_size = 1024 fits"
    fits = recipe("stages.first.batch_size=1024")
    assert memory_problems(fits, need // 2, monkeypatch) == []
    with pytest.raises(MistakeError, match="a step of 4,000 samples needs"):
        memory_problems(large, need // 2, monkeypatch)
        run(large, out=tmp_path / "out")
    assert not (tmp_path / "out" / "stages").exists()


def test_nearly_all_of_the_memory_is_warned_of_and_less_is_not(recipe, monkeypatch):
    large = recipe("stages.first.batch_size=4000")
    need = preflight(large.resolve()).steps["first"].bytes(4000)
    (problem,) = memory_problems(large, need, monkeypatch)
    assert problem.warning
    assert memory_problems(large, int(need / 0.79), monkeypatch) == []
    assert memory_problems(large, None, monkeypatch) == []
    (problem,) = memory_problems(large, int(need * 0.9), monkeypatch, evolve(CPU, compile=True))
    assert problem.warning, "what is compiled may keep less"
    assert memory_problems(large, int(need * 0.7), monkeypatch, evolve(CPU, precision=torch.bfloat16)) == []


def test_what_losses_keep_counts_as_well(recipe):
    perceptual = (
        'stages.first.losses=[{ use = "lpips", backbone = { use = "squeezenet", weights = "random" } }]'
    )
    plain, perceived = (preflight(recipe(*each).resolve()).steps["first"] for each in ((), (perceptual,)))
    assert plain.losses == 0 < perceived.losses and perceived.trained == plain.trained
    assert perceived.fixed > plain.fixed and perceived.bytes(8) > plain.bytes(8)


def test_memory_is_the_least_of_machine_and_control_groups(tmp_path, monkeypatch):
    own, groups, swap = tmp_path / "own", tmp_path / "groups", tmp_path / "meminfo"
    monkeypatch.setattr(memory, "OWN_CGROUPS", own)
    monkeypatch.setattr(memory, "CGROUPS", groups)
    monkeypatch.setattr(memory, "SWAP", swap)
    machine = memory.memory_of(torch.device("cpu"))
    (groups / "job" / "step").mkdir(parents=True)
    own.write_text("0::/job/step\n")
    (groups / "job" / "step" / "memory.max").write_text("max\n")
    (groups / "job" / "memory.max").write_text("1000000\n")
    assert machine > memory.memory_of(torch.device("cpu")) == 1_000_000
    swap.write_text("MemTotal: 5 kB\nSwapTotal: 3 kB\n")
    assert memory.memory_of(torch.device("cpu")) == 1_000_000 + 3 * 1024
    own.write_text("4:memory:/q\n2:cpu:/\n")
    (groups / "memory" / "q").mkdir(parents=True)
    (groups / "memory" / "q" / "memory.limit_in_bytes").write_text("500\n")
    assert memory.memory_of(torch.device("cpu")) == 500 + 3 * 1024
    assert memory.memory_of(torch.device("meta")) is None


# ------------------------------------------------------------------------------------------------ channels


class Alpha(Untested):
    """Images of four channels."""

    channels, size = 4, (32, 32)


@pytest.mark.parametrize("kind", ["metric", "loss"])
def test_what_is_made_for_grey_or_rgb_says_so_and_the_rest_takes_any_number(recipe, hub, kind):
    own = registry.default()
    own.register(Component("dataset", "alpha", Alpha))
    table = "stages.scores.metrics" if kind == "metric" else "stages.first.losses"
    names = [name for name in own.names(kind) if "/" not in name]
    resolved = recipe("dataset=alpha", f"{table}={names}".replace("'", '"')).resolve()
    refused = {}
    for problem in preflight(resolved, 60).problems:
        assert "takes grey or RGB images, not such of 4 channels: give a dataset of channels" in problem.what
        refused[names[problem.where.key[3]]] = problem
    registry.default.cache_clear()
    specs = {name: validate(own, kind, name, {}, components=resolved.components) for name in names}
    kinds = {name: {part.kind.name for part in spec.nested()} for name, spec in specs.items()}
    assert set(refused) == {name for name in names if "backbone" in kinds[name]} != set()
