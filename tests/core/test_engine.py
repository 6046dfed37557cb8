"""Randomness, files, folders, the loop, keys, and whole runs of fake components."""

import json
import shutil
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uldm_core.engine import loop
from uldm_core.engine.components import RunComponents
from uldm_core.engine.device import choose_device
from uldm_core.engine.opened_run import TrainedRun
from uldm_core.engine.progress import Lines, Silent
from uldm_core.engine.randomness import batch_indices, derive, seeded
from uldm_core.engine.run import run
from uldm_core.engine.signals import Interrupted, Stop
from uldm_core.errors import MistakeError, RunError
from uldm_core.recipe import Recipe, RunOptions
from uldm_core.run_folder.checkpoint import read_state, write_state
from uldm_core.run_folder.files import read_tensors
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.keys import stage_keys
from uldm_core.run_folder.record import StageKey, StageRecord


def test_derived_seeds_are_the_same_everywhere_and_for_ever():
    assert derive(0, "first", 1) == 1949485139212900234
    assert len({derive(s, n, k) for s in range(3) for n in ("a", "b") for k in range(50)}) == 300


@given(st.integers(1, 40), st.integers(1, 25), st.integers(0, 99))
def test_every_epoch_takes_each_index_once_whatever_the_history(size, batch, seed):
    steps = [batch_indices(size, batch, seed, "s", step) for step in range(8)]
    stream = torch.cat(steps).tolist()
    for start in range(0, len(stream) - size + 1, size):
        assert sorted(stream[start : start + size]) == list(range(size))
    assert torch.equal(batch_indices(size, batch, seed, "s", 5), steps[5])


def test_seeding_a_place_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with seeded(0, "x"):
        first = torch.rand(1)
    assert torch.equal(torch.rand(2), expected)
    with seeded(0, "x"):
        assert torch.equal(torch.rand(1), first)


TENSORS = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]).map(
    lambda dtype: torch.arange(6).view(2, 3).to(dtype).t()
)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 9), st.floats(-9, 9), st.text(max_size=3), TENSORS
)
STATES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.integers(0, 9) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b and type(a) is type(b)


@given(st.dictionaries(st.text(max_size=3), STATES, max_size=3))
def test_a_state_survives_the_disk(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("state") / "1"
    write_state(folder, state)
    assert same(read_state(folder), state)
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".safetensors"]
    shutil.rmtree(folder.parent)


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    folder = RunFolder(tmp_path).stage("s")
    folder.checkpoints.save(3, {"a": torch.ones(2)})
    (folder.path / "checkpoints" / "9.part").mkdir()
    assert folder.checkpoints.last() == 3
    folder.checkpoints.save(5, {"a": torch.zeros(2)})
    folder.checkpoints.prune(1)
    assert [path.name for path in (folder.path / "checkpoints").iterdir()] == ["5"]


def test_results_are_archived_by_key_and_taken_back(tmp_path):
    run_folder = RunFolder(tmp_path)
    one, two = StageKey("one", 5), StageKey("two", 5)
    for key in (one, two):
        assert not run_folder.claim("s", key).done
        run_folder.stage("s").path.mkdir(parents=True, exist_ok=True)
        (run_folder.stage("s").path / "mark").write_text(key.content)
        run_folder.stage("s").write_record(StageRecord(key, done=True, seconds=1.0))
    assert run_folder.claim("s", one).done
    assert (run_folder.stage("s").path / "mark").read_text() == "one"
    longer = run_folder.claim("s", StageKey("one", 9))
    assert not longer.done and (run_folder.stage("s").path / "mark").exists()
    assert not run_folder.claim("s", StageKey("one", 2)).done
    assert not (run_folder.stage("s").path / "mark").exists()


def keys(registry, write, *overrides):
    resolved = Recipe.load(write(), overrides).resolve(registry)
    return stage_keys(resolved, RunComponents.of(resolved, choose_device(RunOptions())))


def changed(registry, write, override):
    before, after = keys(registry, write), keys(registry, write, override)
    return [name for name in before if before[name] != after[name]]


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("denoiser.width=3", ["second", "third"]),
        ("autoencoder.quantizer.decay=0.7", ["first", "second", "third"]),
        ("stages.first.losses[0].weight=2", ["first", "second", "third"]),
        ("stages.second.text=x", ["second", "third"]),
        ("seed=4", ["first", "second", "third"]),
        ("stages.first.steps=7", ["first", "second", "third"]),
        ("run.threads=1", []),
    ],
)
def test_a_change_reaches_the_stages_it_concerns(registry, write, override, stages):
    assert changed(registry, write, override) == stages


def test_more_steps_keep_the_content(registry, write):
    before, after = keys(registry, write)["first"], keys(registry, write, "stages.first.steps=7")["first"]
    assert before.content == after.content and (before.steps, after.steps) == (6, 7)


class Recorder(Silent):
    def __init__(self, stop=None, at=None):
        self.lines, self.stop, self.at = [], stop, at

    def advanced(self, done, metrics, rate):
        if self.stop and done == self.at:
            self.stop.signum = signal.SIGTERM

    def message(self, text):
        self.lines.append(text)


def plan_of(registry, write, *overrides):
    return Recipe.load(write(), overrides).resolve(registry)


def test_a_run_hands_on_what_it_trained_and_made_and_a_second_does_nothing(registry, write, tmp_path):
    out = run(plan_of(registry, write), out=tmp_path / "out")
    drawing = (out / "stages/second/artifacts/drawing.txt").read_text()
    weights = read_tensors(out / "stages/first/weights/autoencoder.safetensors")
    assert drawing == f"hello {weights['weight'].tolist()}"
    record = json.loads((out / "stages/third/stage.json").read_text())
    assert record["done"] and record["summary"] == {"length": float(len(drawing))}
    recorder = Recorder()
    run(plan_of(registry, write), out=out, reporter=recorder)
    assert recorder.lines[-1] == f"{out}: nothing to do: every stage is done"
    opened = TrainedRun.open(out, registry=registry)
    assert torch.equal(opened.component("autoencoder").weight, weights["weight"])


def test_until_stops_after_a_stage(registry, write, tmp_path):
    out = run(plan_of(registry, write), out=tmp_path / "out", until="first")
    assert not (out / "stages/second").exists()
    with pytest.raises(MistakeError, match=r"there is no stage 'firsst' \(did you mean 'first'\?\)"):
        run(plan_of(registry, write), out=out, until="firsst")
    opened = TrainedRun.open(out, registry=registry)
    opened.require_trained("autoencoder")


def test_an_untrained_run_says_what_to_do(registry, write, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 1)
    stop = Stop()
    with pytest.raises(Interrupted):
        run(plan_of(registry, write), out=tmp_path / "out", stop=stop, reporter=Recorder(stop, 2))
    with pytest.raises(MistakeError, match="autoencoder is not trained yet"):
        TrainedRun.open(tmp_path / "out", registry=registry).require_trained("autoencoder")


@pytest.mark.parametrize("at", [1, 4])
def test_a_stopped_run_equals_an_uninterrupted_one_bit_for_bit(registry, write, tmp_path, monkeypatch, at):
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 1)
    whole = run(plan_of(registry, write), out=tmp_path / "whole")
    stop = Stop()
    with pytest.raises(Interrupted, match="SIGTERM"):
        run(plan_of(registry, write), out=tmp_path / "cut", reporter=Recorder(stop, at), stop=stop)
    assert RunFolder(tmp_path / "cut").stage("first").checkpoints.last() == at
    cut = run(plan_of(registry, write), out=tmp_path / "cut")
    for path in (
        "stages/first/weights/autoencoder.safetensors",
        "stages/first/checkpoints/6/state.safetensors",
    ):
        assert (whole / path).read_bytes() == (cut / path).read_bytes()
    assert losses(whole) == losses(cut) and len(losses(cut)) == 6


def losses(folder):
    lines = (folder / "stages/first/metrics.jsonl").read_text().splitlines()
    return [(entry["step"], entry["loss"]) for entry in map(json.loads, lines)]


def test_more_steps_go_on_where_fewer_ended(registry, write, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 1)
    short = run(plan_of(registry, write, "stages.first.steps=4"), out=tmp_path / "run", until="first")
    before = losses(short)
    run(plan_of(registry, write), out=short, until="first")
    whole = run(plan_of(registry, write), out=tmp_path / "whole", until="first")
    assert losses(short)[:4] == before and losses(short) == losses(whole)


def test_a_metric_that_is_no_number_stops_the_run(registry, write, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 1)
    monkeypatch.setattr(registry.get("stage", "train").target, "fail_at", 2)
    with pytest.raises(RunError, match=r"stages\.first: loss is nan at step 3"):
        run(plan_of(registry, write), out=tmp_path / "out")


def test_a_folder_in_use_is_refused(registry, write, tmp_path):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(MistakeError, match="another run is using"):
        run(plan_of(registry, write), out=tmp_path / "out")


def test_an_inferred_option_that_is_written_must_agree(registry, write, tmp_path):
    with pytest.raises(MistakeError) as caught:
        run(plan_of(registry, write, "denoiser.channels=9"), out=tmp_path / "out")
    assert "denoiser.channels: is 9, but autoencoder.latent_channels is 4" in str(caught.value)
    run(plan_of(registry, write, "denoiser.channels=4"), out=tmp_path / "out")


def test_a_components_error_is_placed_in_the_file(registry, write, tmp_path):
    path = write(("codebook_size = 16", "codebook_size = 13"))
    with pytest.raises(MistakeError) as caught:
        run(Recipe.load(path).resolve(registry), out=tmp_path / "out")
    assert str(caught.value) == f"{path}:9: autoencoder.quantizer: thirteen codes bring bad luck"


def test_a_log_file_gets_plain_lines():
    lines = []
    reporter = Lines(lines.append, every=0)
    reporter.started("first", "training steps", 10, 0)
    reporter.advanced(5, {"loss": 0.25}, 120.0)
    reporter.finished("first", 75.0, {"accuracy": 0.5})
    assert lines[0] == "[first] training steps: 10"
    assert lines[1].startswith("[first] 5/10 loss 0.25 120 images/s")
    assert lines[2] == "[first] done in 1:15 accuracy 0.5"


def test_precision_is_a_choice_and_auto_needs_hardware():
    assert choose_device(RunOptions(device="cpu", precision="float32")).precision is torch.float32
    assert choose_device(RunOptions(device="cpu", precision="bfloat16")).precision is torch.bfloat16
    with pytest.raises(MistakeError, match="device 'nowhere' cannot be used"):
        choose_device(RunOptions(device="nowhere"))
