"""The engine at its edges: what lies on the disk, what is read when, and stopping anywhere."""

import json
import os
import pickle
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from uldm_core import Component, MistakeError, RunError, Weighted
from uldm_core.engine import loop, training_state
from uldm_core.engine.components import RunComponents
from uldm_core.engine.context import Context
from uldm_core.engine.device import Device, choose_device
from uldm_core.engine.opened_run import TrainedRun
from uldm_core.engine.progress import Clock, Lines, Silent, format_metrics, format_seconds
from uldm_core.engine.randomness import batch_indices, derive, generator, seeded
from uldm_core.engine.run import folder_of, run
from uldm_core.engine.signals import Interrupted, Stop
from uldm_core.engine.trackers import Trackers
from uldm_core.protocols import Dataset, Denoiser, RunStart
from uldm_core.recipe import Recipe, RunOptions
from uldm_core.recipe.run_options import CheckpointPolicy
from uldm_core.run_folder import files
from uldm_core.run_folder.checkpoint import read_state, write_state
from uldm_core.run_folder.files import damaged, read_tensors, write_bytes, write_tensors
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.keys import stage_keys
from uldm_core.run_folder.lock import is_locked, lock_folder
from uldm_core.run_folder.record import StageKey, StageRecord
from uldm_core.run_folder.stage_folder import StageFolder
from uldm_plugins.trackers.jsonl import Jsonl

CPU = Device(torch.device("cpu"), torch.float32)


def test_seeds_and_shuffles_are_pinned():
    """Whoever changes these numbers changes every result that was ever made with a seed."""
    assert derive(0) == 4246866556266386882
    assert derive(1, "a") == 7995832377567377504
    assert derive(0, "first", 10) == 1512839228098316180
    assert batch_indices(7, 5, 0, "first", 0).tolist() == [6, 2, 1, 5, 4]
    assert batch_indices(7, 5, 0, "first", 1).tolist() == [3, 0, 5, 1, 2]


@given(st.lists(st.integers(0, 99) | st.text(max_size=3), min_size=1, max_size=3).map(tuple))
def test_each_place_has_a_seed_of_its_own_that_torch_takes(path):
    assert 0 <= derive(3, *path) < 2**63
    assert derive(3, *path) != derive(4, *path) != derive(4, *path, 0)
    assert generator(3, *path).initial_seed() == derive(3, *path)
    assert derive(0, "a", "b") != derive(0, "a/b") and derive(0, "1") != derive(0, 1)


@given(st.integers(1, 30), st.integers(1, 70))
def test_a_batch_has_its_size_and_known_indices_even_over_several_epochs(size, batch):
    indices = batch_indices(size, batch, 0, "s", 3)
    assert indices.shape == (batch,) and indices.dtype == torch.int64
    assert indices.min() >= 0 and indices.max() < size


def test_epochs_stages_and_seeds_shuffle_differently():
    orders = {
        tuple(batch_indices(50, 50, seed, stage, step).tolist())
        for seed in (0, 1)
        for stage in ("a", "b")
        for step in (0, 1)
    }
    assert len(orders) == 8


def test_a_seeded_place_leaves_the_generator_alone_even_after_an_error():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(0, "x"):
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.uint8, torch.int64, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_tensors_of_every_type_and_shape_survive(tmp_path, dtype, shape):
    tensor = torch.ones(shape).to(dtype)
    write_state(tmp_path / "1", {"a": {3: tensor}, "b": (tensor, [tensor])})
    state = read_state(tmp_path / "1")
    for back in (state["a"][3], *state["b"][:1], *state["b"][1]):
        assert back.dtype == dtype and back.shape == shape and torch.equal(back, tensor)
    assert isinstance(state["b"], list)


def test_tensors_that_share_memory_are_written_apart(tmp_path):
    weight = nn.Parameter(torch.arange(6.0).view(2, 3))
    write_tensors(tmp_path / "t.safetensors", {"a": weight, "b": weight.t(), "c": weight[0]})
    back = read_tensors(tmp_path / "t.safetensors")
    assert torch.equal(back["b"], weight.detach().t()) and torch.equal(back["c"], weight.detach()[0])


@given(st.dictionaries(st.integers() | st.text(max_size=2), st.floats() | st.none() | st.booleans()))
def test_keys_and_odd_numbers_survive(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("state") / "1"
    write_state(folder, state)
    back = read_state(folder)
    assert list(back) == list(state) and list(map(type, back)) == list(map(type, state))
    assert repr(back) == repr(state)


@pytest.mark.parametrize(
    "make", [torch.optim.AdamW, torch.optim.SGD], ids=lambda optimizer: optimizer.__name__
)
def test_an_optimizers_state_survives_and_nothing_is_pickled(tmp_path, make):
    def stepped(optimizer):
        optimizer.zero_grad()
        sum((p * 3).square().sum() for group in optimizer.param_groups for p in group["params"]).backward()
        optimizer.step()

    def fresh():
        torch.manual_seed(0)
        return make([nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2, 2))], lr=0.1)

    one, other = fresh(), fresh()
    stepped(one)
    write_state(tmp_path / "1", one.state_dict())
    stepped(other)
    other.load_state_dict(read_state(tmp_path / "1"))
    stepped(one), stepped(other)
    for ours, theirs in zip(one.param_groups[0]["params"], other.param_groups[0]["params"]):
        assert torch.equal(ours, theirs)
    for path in (tmp_path / "1").iterdir():
        assert not zipfile.is_zipfile(path)
        with pytest.raises(Exception):  # noqa: B017 - any failure will do
            pickle.loads(path.read_bytes())


def test_what_cannot_be_written_leaves_the_old_state(tmp_path):
    write_state(tmp_path / "1", {"a": torch.ones(2)})
    with pytest.raises(TypeError):
        write_state(tmp_path / "1", {"a": object()})
    assert torch.equal(read_state(tmp_path / "1")["a"], torch.ones(2))
    write_state(tmp_path / "1", {"a": torch.zeros(2)})
    assert torch.equal(read_state(tmp_path / "1")["a"], torch.zeros(2))
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "new" / "x"
    write_bytes(path, b"old")

    def full(*_):
        raise OSError(28, "No space left")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_file_is_replaced_not_written_over(tmp_path):
    write_bytes(tmp_path / "x", b"old")
    (tmp_path / "before").hardlink_to(tmp_path / "x")
    write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "before").read_bytes() == b"old" and (tmp_path / "x").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "x"]


def test_leftovers_beside_checkpoints_are_neither_read_nor_in_the_way(tmp_path):
    folder = StageFolder(tmp_path)
    assert folder.checkpoints.last() is None
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "70.part").mkdir(parents=True)
    (checkpoints / ".DS_Store").write_text("left by a file browser")
    assert folder.checkpoints.last() is None
    folder.checkpoints.save(9, {})
    folder.checkpoints.save(10, {})
    folder.checkpoints.prune(1)
    assert folder.checkpoints.last() == 10
    assert sorted(path.name for path in checkpoints.iterdir()) == [".DS_Store", "10"]


def claimed(folder, key, done=True):
    """Claim a stage's folder, say what was known, and work in it."""
    record = folder.claim("s", key)
    path = folder.stage("s").path
    path.mkdir(parents=True, exist_ok=True)
    known = (path / "mark").read_text() if (path / "mark").exists() else ""
    (path / "mark").write_text(str(key))
    folder.stage("s").write_record(evolve(record, done=record.done or done, seconds=record.seconds + 1))
    return record.done, known


def test_claims_of_a_folder(tmp_path):
    folder = RunFolder(tmp_path)
    a5, a9, a2, b5 = StageKey("a", 5), StageKey("a", 9), StageKey("a", 2), StageKey("b", 5)
    assert claimed(folder, a5) == (False, "")
    assert claimed(folder, a5) == (True, "a-5")
    assert claimed(folder, a9) == (False, "a-5"), "more steps go on in place"
    assert claimed(folder, a2) == (False, ""), "fewer begin anew"
    assert claimed(folder, b5) == (False, ""), "and so do other options"
    assert claimed(folder, a9) == (True, "a-9"), "what was set aside is taken back"
    assert claimed(folder, a2) == (True, "a-2")
    assert claimed(folder, a9) == (True, "a-9"), "rather than made again from fewer steps"
    assert sorted(path.name for path in (tmp_path / "set_aside").iterdir()) == ["s-a-2", "s-b-5"]


def test_the_seconds_of_a_stage_add_up_when_it_resumes(tmp_path):
    folder = RunFolder(tmp_path)
    claimed(folder, StageKey("a", 5))
    assert folder.claim("s", StageKey("a", 9)) == StageRecord(StageKey("a", 9), seconds=1.0)


def test_a_record_survives_the_disk(tmp_path):
    record = StageRecord(StageKey("a", 5), True, 1.5, {"loss": 0.25})
    folder = StageFolder(tmp_path)
    assert folder.record() is None
    folder.write_record(record)
    assert folder.record() == record and str(StageKey("a")) == "a"


class Walk:
    """A trainer of one weight and one buffer; what it draws depends on the step alone."""

    trains, makes, needs = (), (), ()

    def __init__(self, steps, batch_size=2, bad=None):
        self.steps, self.batch_size, self.bad, self.done = steps, batch_size, bad, []

    def prepare(self, context):
        torch.manual_seed(0)
        self.layer = nn.BatchNorm1d(3)
        self.optimizer = torch.optim.AdamW(self.layer.parameters(), lr=0.1)

    def step(self, step, context):
        self.done.append(step)
        noise = torch.randn(4, 3) + torch.randn(4, 3, generator=context.generator(step))
        loss = self.layer(noise).square().mean() + context.batch(5, 2, step).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss / 0 if step == self.bad else loss, "norm": self.layer.weight.norm()}

    def stateful(self):
        return {"layer": self.layer, "optimizer": self.optimizer}

    def finish(self, context):
        return {"weight": self.layer.weight[0].item()}


def context_in(folder, **more):
    log = Jsonl()
    log.begin(RunStart(folder, "run", {}, ["s"]))
    return Context("s", 0, CPU, RunFolder(folder).stage("s"), trackers=Trackers(by_path={"log": log}), **more)


def trained(folder, steps, **more):
    trainer = Walk(steps)
    loop.train(trainer, context_in(folder, **more))
    return trainer


def logged(folder):
    lines = map(json.loads, RunFolder(folder).stage("s").metrics.read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


class StopAt(Silent):
    def __init__(self, stop, step):
        self.stop, self.step = stop, step

    def advanced(self, done, metrics, rate):
        self.stop.signum = signal.SIGINT if done >= self.step else 0


@pytest.mark.parametrize("cuts", [(1,), (3,), (2, 5), (1, 2, 3, 4, 5, 6)])
def test_a_trainer_stopped_any_number_of_times_ends_as_if_never_stopped(tmp_path, monkeypatch, cuts):
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 1)
    whole = trained(tmp_path / "whole", 7)
    done = []
    for cut in cuts:
        stop, trainer = Stop(), Walk(7)
        with pytest.raises(Interrupted):
            reporter = StopAt(stop, cut)
            loop.train(trainer, context_in(tmp_path / "cut", stop=stop, reporter=reporter))
        done += trainer.done
        torch.rand(7)  # whatever else draws in between
    last = trained(tmp_path / "cut", 7)
    assert done + last.done == whole.done == list(range(7)), "no step is done twice"
    for ours, theirs in zip(whole.layer.state_dict().values(), last.layer.state_dict().values()):
        assert torch.equal(ours, theirs)
    assert (tmp_path / "cut/stages/s/checkpoints/7/state.safetensors").read_bytes() == (
        tmp_path / "whole/stages/s/checkpoints/7/state.safetensors"
    ).read_bytes()
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")


def test_a_crash_between_checkpoints_repeats_steps_but_not_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 1)
    options = RunOptions(checkpoint=CheckpointPolicy(every=2))
    whole = trained(tmp_path / "whole", 6)

    class Crashing(Walk):
        def step(self, step, context):
            if step == 3:
                raise MemoryError
            return super().step(step, context)

    with pytest.raises(MemoryError):
        loop.train(Crashing(6), context_in(tmp_path / "cut", options=options))
    assert RunFolder(tmp_path / "cut").stage("s").checkpoints.last() == 2
    last = trained(tmp_path / "cut", 6)
    assert last.done == [2, 3, 4, 5] and torch.equal(whole.layer.running_mean, last.layer.running_mean)
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")


def test_metrics_are_read_only_when_they_are_logged(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 3)
    reads, read = [], torch.Tensor.tolist
    monkeypatch.setattr(training_state, "not_finite", lambda state: [])
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: (reads.append(len(self)), read(self))[1])
    trained(tmp_path, 7)
    assert reads == [6, 6, 2], "of three, three and one steps, two metrics each"
    assert [line["step"] for line in logged(tmp_path)] == [3, 6, 7]


def test_numbers_that_are_none_stop_a_trainer_with_its_last_checkpoint_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 1)
    options = RunOptions(checkpoint=CheckpointPolicy(every=1))
    with pytest.raises(RunError, match=r"stages\.s: loss is inf at step 4") as caught:
        loop.train(Walk(6, bad=3), context_in(tmp_path, options=options))
    assert "learning rate" in caught.value.problems[0].hint
    assert RunFolder(tmp_path).stage("s").checkpoints.last() == 3


def test_a_trainer_that_is_done_takes_no_step_but_finishes(tmp_path):
    trained(tmp_path, 3)
    again = Walk(3)
    assert loop.train(again, context_in(tmp_path)).keys() == {"weight"}
    assert again.done == [] and len(logged(tmp_path)) == 1


def test_a_signal_is_noted_and_a_second_one_stops_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with Stop().listening() as stop:
        stop.check()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted, match="stopped by SIGTERM") as caught:
            stop.check()
        assert caught.value.signum == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stage_in_one_go_is_stopped_between_batches(tmp_path):
    context = context_in(tmp_path, stop=Stop(signal.SIGINT))
    context.begin("drawing", 10)
    with pytest.raises(Interrupted):
        context.advance(5)


def test_an_artifact_is_published_to_the_runs_own_folder(tmp_path):
    context = context_in(tmp_path)
    context.artifact("a.txt").write_text("x")
    context.publish("a.txt")
    assert (tmp_path / "a.txt").read_text() == "x"


def test_the_lock_is_given_back_when_the_run_ends(tmp_path):
    def locked():
        with lock_folder(tmp_path):
            pass

    said = rf"another run is using this folder: process {os.getpid()} on .*, since 20"
    with lock_folder(tmp_path), pytest.raises(MistakeError, match=said):
        locked()
    with pytest.raises(KeyError), lock_folder(tmp_path):
        raise KeyError
    assert not is_locked(tmp_path) and not (tmp_path / "lock.json").exists()
    locked()


def planned(registry, write, *overrides, changes=()):
    return Recipe.load(write(*changes), overrides).resolve(registry)


def keys_of(resolved):
    return stage_keys(resolved, RunComponents.of(resolved, choose_device(RunOptions(device="cpu"))))


def test_keys_do_not_depend_on_the_order_in_which_a_table_is_written(registry, write):
    change = ('use = "codes", codebook_size = 16', 'codebook_size = 16, use = "codes"')
    assert keys_of(planned(registry, write)) == keys_of(planned(registry, write, changes=[change]))
    default = ('use = "train"', 'use = "train"\nbatch_size = 2')
    assert keys_of(planned(registry, write)) == keys_of(planned(registry, write, changes=[default]))


def test_a_components_own_reference_counts_in_the_keys(registry, write):
    before = ('quantizer = { use = "codes", codebook_size = 16 }', 'quantizer = { ref = "quantizer" }')
    component = ("[denoiser]", '[quantizer]\nuse = "codes"\ncodebook_size = 16\n[denoiser]')
    resolved = planned(registry, write, changes=[before, component])
    other = planned(registry, write, "quantizer.decay=0.9", changes=[before, component])
    assert keys_of(resolved)["first"] != keys_of(other)["first"]


def test_the_datas_content_counts_in_the_keys(registry, write, monkeypatch):
    resolved = planned(registry, write)
    before = keys_of(resolved)
    monkeypatch.setattr(registry.get("dataset", "points").target, "fingerprint", "other points")
    after = keys_of(resolved)
    assert before["first"] != after["first"] and before["third"] != after["third"]


def test_what_nobody_uses_counts_in_no_key(registry, write):
    component = ("[stages.first]", '[spare_denoiser]\nuse = "net"\nwidth = 9\n[stages.first]')
    assert keys_of(planned(registry, write)) == keys_of(planned(registry, write, changes=[component]))


def done_at(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("stages/*/stage.json")}


def test_a_change_downstream_repeats_only_what_it_concerns_and_changing_back_nothing(
    registry, write, tmp_path
):
    out = run(planned(registry, write), out=tmp_path / "run")
    first = done_at(out)
    run(planned(registry, write, "stages.second.text=other"), out=out)
    second = done_at(out)
    assert {name for name in first if first[name] != second[name]} == {"second", "third"}
    assert {path.name.partition("-")[0] for path in (out / "set_aside").iterdir()} == {"second", "third"}
    run(planned(registry, write), out=out)
    assert done_at(out) == first
    assert (out / "stages/second/artifacts/drawing.txt").read_text().startswith("hello")


def test_a_run_in_pieces_is_the_run_in_one(registry, write, tmp_path):
    whole = run(planned(registry, write), out=tmp_path / "whole")
    pieces = run(planned(registry, write), out=tmp_path / "pieces", until="first")
    run(planned(registry, write), out=pieces)
    drawing = "stages/second/artifacts/drawing.txt"
    assert (whole / drawing).read_text() == (pieces / drawing).read_text()


def test_a_component_is_drawn_alike_whatever_else_the_recipe_holds(registry, write):
    small = '[small_denoiser]\nuse = "net"\n[denoiser]'
    weights = []
    for changes in ([], [("[denoiser]", small)]):
        resolved = planned(registry, write, changes=changes)
        store = RunComponents.of(resolved, CPU)
        for name in reversed(list(resolved.components)) if changes else resolved.components:
            store.component(name)
        weights.append(store.component("denoiser").weight)
    assert torch.equal(*weights)


def test_a_run_writes_what_it_was_and_the_resolved_recipe_does_the_same(registry, write, tmp_path):
    out = run(planned(registry, write), out=tmp_path / "run")
    environment = json.loads((out / "environment.json").read_text())
    assert environment["torch"] == torch.__version__ and environment["machine"].startswith("cpu")
    again = Recipe.load(out / "recipe.toml").resolve(registry)
    assert keys_of(again) == keys_of(planned(registry, write))
    before = done_at(out)
    run(again, out=out)
    assert done_at(out) == before


def test_the_folder_is_that_of_the_recipe_unless_another_is_said(registry, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(planned(registry, write), until="first") == Path("runs/r")
    assert run(planned(registry, write, "run.out=elsewhere"), until="first") == Path("elsewhere")
    assert run(planned(registry, write, "run.out=no"), out="yes", until="first") == Path("yes")
    assert not Path("no").exists()


def test_a_run_that_is_named_by_its_folder_is_run_there(registry, write, tmp_path, monkeypatch):
    out = run(planned(registry, write, "run.out=far"), out=tmp_path / "a run", until="first")
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    named = Recipe.load("../a run")
    assert folder_of(named.resolve(registry)) == Path("../a run") and named.name == "a run"
    assert folder_of(named.resolve(registry), "b") == Path("b")
    assert folder_of(Recipe.load("../a run", ["run.out=c"]).resolve(registry)) == Path("c")
    assert folder_of(Recipe.load(out / "recipe.toml").resolve(registry)) == Path("far"), (
        "its file is a recipe"
    )
    monkeypatch.chdir(out)
    assert folder_of(Recipe.load(".").resolve(registry)) == Path() and Recipe.load(".").name == "a run"


def test_what_to_do_about_a_damaged_file_names_its_run(tmp_path):
    run = tmp_path / "a run"
    (run / "stages").mkdir(parents=True)
    (run / "recipe.toml").write_text("")
    for file, gone in {
        "run.json": "it",
        "evaluations/a.json": "it",
        "stages/s/stage.json": run / "stages/s",
    }.items():
        (problem,) = damaged(run / file, "no JSON").problems
        assert problem.hint.endswith(f"remove {gone} and run again: uldm run '{run}' --out '{run}'")


class Tune:
    """Trains the denoiser in one go; fails if it is told to."""

    trains, makes, needs = ("denoiser",), (), ()
    fails = False

    def __init__(self, dataset: Dataset, denoiser: Denoiser, by: float = 1.0) -> None:
        self.denoiser, self.by = denoiser, by

    def run(self, context):
        with torch.no_grad():
            self.denoiser.weight += self.by
        if self.fails:
            raise OSError(28, "No space left")
        return {}


TUNED = {
    "dataset": "points",
    "autoencoder": "coder",
    "denoiser": "net",
    "stages": {"a": "tune", "b": {"use": "tune", "by": 10.0}},
}


def test_each_stage_starts_from_the_weights_of_the_one_before(registry, tmp_path):
    registry.register(Component("stage", "tune", Tune))
    resolved = Recipe.from_dict(TUNED).resolve(registry)
    start = RunComponents.of(resolved, CPU).component("denoiser").weight.detach()
    out = run(resolved, out=tmp_path / "run")
    after = [read_tensors(out / f"stages/{name}/weights/denoiser.safetensors")["weight"] for name in "ab"]
    assert torch.equal(after[0], start + 1) and torch.equal(after[1], start + 1 + 10)
    opened = TrainedRun.open(out, registry=registry)
    assert torch.equal(opened.component("denoiser").weight, after[1])


def test_a_stage_that_failed_is_not_done_and_is_done_anew(registry, tmp_path, monkeypatch):
    registry.register(Component("stage", "tune", Tune))
    resolved = Recipe.from_dict(TUNED).resolve(registry)
    monkeypatch.setattr(Tune, "fails", True)
    with pytest.raises(RunError, match=r"stages\.a: No space left; [\d,]* bytes are free in .*run"):
        run(resolved, out=tmp_path / "run")
    record = json.loads((tmp_path / "run/stages/a/stage.json").read_text())
    assert not record["done"] and not (tmp_path / "run/stages/b").exists()
    with pytest.raises(MistakeError, match="denoiser is not trained yet"):
        TrainedRun.open(tmp_path / "run", registry=registry).require_trained("denoiser")
    monkeypatch.setattr(Tune, "fails", False)
    run(resolved, out=tmp_path / "run")
    weights = [
        read_tensors(folder / "stages/b/weights/denoiser.safetensors")["weight"]
        for folder in (tmp_path / "run", run(resolved, out=tmp_path / "other"))
    ]
    assert torch.equal(*weights), "nothing of the failed attempt is left"


def test_weights_of_a_stage_that_is_being_gone_on_with_are_not_taken(registry, tmp_path):
    registry.register(Component("stage", "tune", Tune))
    out = run(Recipe.from_dict(TUNED).resolve(registry), out=tmp_path / "run")
    folder = RunFolder(out).stage("b")
    folder.write_record(evolve(folder.record(), done=False))
    first = read_tensors(out / "stages/a/weights/denoiser.safetensors")["weight"]
    assert torch.equal(TrainedRun.open(out, registry=registry).component("denoiser").weight, first)


class Nested:
    """A stage with a network of its own."""

    trains, makes, needs = (), (), ()

    def __init__(self, denoisers: list[Denoiser]) -> None:
        self.denoisers = denoisers


def test_a_stages_own_networks_are_drawn_from_the_seed(registry):
    registry.register(Component("stage", "nested", Nested))
    stage = {"use": "nested", "denoisers": [{"use": "net", "channels": 1}]}
    weights = []
    for seed in (1, 1, 2):
        resolved = Recipe.from_dict({"seed": seed, "stages": {"s": stage}}).resolve(registry)
        weights.append(RunComponents.of(resolved, CPU).build(resolved.stages["s"]).denoisers[0].weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_what_is_no_run_is_refused(registry, write, tmp_path):
    with pytest.raises(MistakeError, match="is not a run"):
        TrainedRun.open(tmp_path / "nothing", registry=registry)
    out = run(planned(registry, write), out=tmp_path / "run", until="first")
    opened = TrainedRun.open(out, registry=registry)
    with pytest.raises(MistakeError, match="has no moon; it has: dataset, autoencoder, denoiser"):
        opened.component("moon")
    with pytest.raises(MistakeError, match="no stage with use = 'fly'"):
        opened.stage("fly")
    assert opened.stage("draw")[0] == "second"


def test_lines_come_at_most_so_often():
    lines = []
    reporter = Lines(lines.append, every=1e9)
    reporter.started("s", "training steps", 10, 4)
    for done in range(5, 10):
        reporter.advanced(done, {"loss": 1.0}, 0.0)
    reporter.message("hello")
    assert lines == ["[s] training steps: resumed at 4 of 10", "hello"]


def test_durations_metrics_and_the_time_left_are_said_plainly(monkeypatch):
    assert [format_seconds(s) for s in (0.4, 59.4, 60, 185, 3599)] == ["0 s", "59 s", "1:00", "3:05", "59:59"]
    assert format_metrics({"loss": 0.123456, "psnr": 31.0}) == "loss 0.1235 psnr 31"
    monkeypatch.setattr("uldm_core.engine.progress.time.monotonic", lambda: 12.0)
    assert Clock(first=4, start=10.0).left(6, 10) == 4.0 and Clock(first=4, start=10.0).left(4, 10) == 0.0


def test_parameters_stay_float32_under_autocast():
    machine = choose_device(RunOptions(device="cpu", precision="bfloat16"))
    layer = machine.place(nn.Linear(2, 2))
    with machine.autocast():
        assert layer(torch.zeros(1, 2)).dtype is torch.bfloat16
    assert layer.weight.dtype is torch.float32 and str(machine).startswith("cpu, bfloat16, ")
    with CPU.autocast():
        assert layer(torch.zeros(1, 2)).dtype is torch.float32
    assert CPU.place("no module") == "no module"


def test_a_term_counts_one_from_the_start_unless_it_says_otherwise():
    assert Weighted("x") == Weighted("x", 1.0, 0)
