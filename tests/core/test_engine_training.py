"""Trainings that go wrong, or on with other options: what is saved, what is loaded, and what is said."""

import json
import shutil
import signal

import pytest
import torch
from attrs import evolve
from torch import nn

from uldm_core import Component, Partial, RunError, Weighted, use
from uldm_core.engine import loop
from uldm_core.engine.context import Context
from uldm_core.engine.device import Device
from uldm_core.engine.finite import not_finite
from uldm_core.engine.progress import Silent
from uldm_core.engine.run import run
from uldm_core.engine.signals import Interrupted, Stop
from uldm_core.errors import DataError
from uldm_core.preflight.forecast import describe_adjustments, forecast
from uldm_core.protocols import Autoencoder, Dataset, Loss, Optimizer
from uldm_core.recipe import Recipe, RunOptions
from uldm_core.recipe.run_options import CheckpointPolicy
from uldm_core.run_folder.files import read_tensors, write_tensors
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.record import Adjustment, StageKey, adjusted_from

NAN, INF = float("nan"), float("inf")


def test_tensors_that_are_not_finite_are_found_by_name_at_any_depth():
    state = {
        "net": {"weight": torch.ones(2), "bias": torch.tensor([1, -INF])},
        "list": [
            torch.ones(1),
            {"a": torch.tensor(NAN, dtype=torch.bfloat16)},
            torch.tensor(complex(0, INF)),
        ],
        "whole": torch.tensor([1]),
        "empty": torch.ones(0),
        "best": INF,
    }
    assert not_finite(state) == ["net.bias", "list[1].a", "list[2]"]
    assert not_finite({}) == []


class Slope(nn.Module):
    """A weight, a statistic, and a mask that is infinite by design."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("mask", torch.tensor([0.0, -INF]))


class Best:
    """Keeps the best loss so far: none is infinite."""

    def __init__(self):
        self.best, self.average = INF, torch.zeros(3)

    def state_dict(self):
        return {"best": self.best, "average": self.average}

    def load_state_dict(self, state):
        self.best = state["best"]
        self.average.copy_(state["average"])


class Fragile:
    """A trainer to which things happen before given steps."""

    trains, makes, needs, batch_size = (), (), (), 1

    def __init__(self, steps, happens):
        self.steps, self.happens, self.done = steps, happens, []

    def prepare(self, context):
        self.net, self.best = Slope(), Best()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)

    def step(self, step, context):
        self.spoilt = {}
        self.happens.get(step, lambda trainer: None)(self)
        self.optimizer.zero_grad()
        loss = self.net.weight.square().sum()
        loss.backward()
        self.optimizer.step()
        self.done.append(step)
        return {"loss": loss.clamp(max=9), **self.spoilt}

    def stateful(self):
        return {"net": self.net, "optimizer": self.optimizer, "best": self.best}

    def finish(self, context):
        return {}


SPOIL = {
    "net.weight": lambda trainer: trainer.net.weight.data[0].fill_(NAN),
    "net.mean": lambda trainer: trainer.net.mean.fill_(INF),
    "best.average": lambda trainer: trainer.best.average.fill_(NAN),
    "share is inf": lambda trainer: trainer.spoilt.update(share=torch.tensor(INF)),
}


class Lines(Silent):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines += text.splitlines()


def fragile(folder, steps=9, happens=None, precision=torch.float32, **more):
    trainer = Fragile(steps, happens or {})
    context = Context("s", 0, Device(torch.device("cpu"), precision), RunFolder(folder).stage("s"), **more)
    return trainer, lambda: loop.train(trainer, context)


def stop_at(step, stop, happens):
    return {**happens, step: lambda trainer: setattr(stop, "signum", signal.SIGINT)}


@pytest.mark.parametrize("what", SPOIL)
@pytest.mark.parametrize("ended", ["interrupted", "saved", "done"])
def test_a_state_that_is_not_finite_is_never_saved(tmp_path, what, ended):
    """It goes wrong at step 6, between two steps that are logged; a checkpoint of step 3 is there."""
    stop = Stop()
    with pytest.raises(Interrupted):
        fragile(tmp_path, happens=stop_at(2, stop, {}), stop=stop)[1]()
    stop, bad = Stop(), {5: SPOIL[what]}
    options = RunOptions(checkpoint=CheckpointPolicy(every=7 if ended == "saved" else "1 h"))
    if ended == "interrupted":
        bad = stop_at(6, stop, bad)
    with pytest.raises(RunError, match=r"^stages\.s: ") as caught:
        fragile(tmp_path, happens=bad, stop=stop, options=options)[1]()
    problem = caught.value.problems[0]
    assert what.split()[0] in problem.what or "loss is nan" in problem.what
    assert "step 6" in problem.what or "at a step from 4 to" in problem.what
    assert problem.what.endswith("; this state is not saved")
    folder = RunFolder(tmp_path).stage("s")
    assert folder.checkpoints.last() == 3 and "mask" in str(folder.checkpoints.load(3))
    again, train = fragile(tmp_path)
    train()
    assert again.done == list(range(3, 9)), "the next one goes on from the last good checkpoint"


def test_an_infinite_gradient_in_the_last_step_is_no_end(tmp_path):
    happens = {8: lambda trainer: trainer.net.weight.register_hook(lambda gradient: gradient * INF)}
    with pytest.raises(RunError, match=r"net\.weight became nan or infinite at a step from 1 to 9"):
        fragile(tmp_path, happens=happens)[1]()
    assert RunFolder(tmp_path).stage("s").checkpoints.last() is None


@pytest.mark.parametrize(
    ("precision", "saved", "adjustable", "hint"),
    [
        ("float32", 0, True, "a lower learning rate usually helps; there is no checkpoint yet"),
        ("bfloat16", 3, True, "precision float32, usually helps; `uldm run` resumes with it from the "),
        ("float32", 3, False, "with other options `uldm run` begins at step 0"),
        ("bfloat16", 3, False, "begins at step 0, with another precision from the checkpoint of step 3"),
    ],
)
def test_the_hint_says_where_the_next_run_begins(tmp_path, monkeypatch, precision, saved, adjustable, hint):
    if adjustable:
        monkeypatch.setattr(Fragile, "adjustable", ("optimizer",), raising=False)
    options = RunOptions(checkpoint=CheckpointPolicy(every=saved or "1 h"))
    happens = {3: SPOIL["net.weight"]}
    with pytest.raises(RunError) as caught:
        fragile(tmp_path, happens=happens, precision=getattr(torch, precision), options=options)[1]()
    assert hint in caught.value.problems[0].hint


def test_a_checkpoint_that_is_not_finite_is_skipped_and_replaced(tmp_path):
    other, train = fragile(tmp_path, 4)
    train()
    other.net.mean += NAN
    state = {name: part.state_dict() for name, part in other.stateful().items()}
    checkpoints = RunFolder(tmp_path).stage("s").checkpoints
    checkpoints.prune(1, void=[4])
    for step in (3, 4):
        checkpoints.save(step, state)
    again, train = fragile(tmp_path, 5, reporter=(shown := Lines()))
    train()
    skipped = "is skipped (net.mean is not finite); no other is whole: training begins at step 0"
    assert shown.lines == [f"warning: stages.s: the checkpoint of step {step} {skipped}" for step in (4, 3)]
    assert again.done == [0, 1, 2, 3, 4] and checkpoints.steps() == [5]


@pytest.mark.parametrize("step", [0, 4])
def test_data_that_fails_ends_a_training_with_its_last_step_saved(tmp_path, step):
    def fail(trainer):
        raise DataError("the dataset cannot give its images: x.png is cut short")

    with pytest.raises(RunError) as caught:
        fragile(tmp_path, happens={step: fail})[1]()
    what, hint = caught.value.problems[0].what, caught.value.problems[0].hint
    assert what == f"stages.s: step {step + 1}: the dataset cannot give its images: x.png is cut short"
    assert RunFolder(tmp_path).stage("s").checkpoints.last() == (step or None)
    assert ("the state is saved" in hint) is bool(step)
    again, train = fragile(tmp_path)
    train()
    whole, train = fragile(tmp_path / "whole")
    train()
    assert again.done == list(range(step, 9)) and torch.equal(again.net.weight, whole.net.weight)


def test_data_that_fails_saves_no_state_that_is_not_finite(tmp_path):
    def fail(trainer):
        raise DataError("gone")

    with pytest.raises(RunError, match="share is inf at step 2"):
        fragile(tmp_path, happens={1: SPOIL["share is inf"], 3: fail})[1]()
    assert RunFolder(tmp_path).stage("s").checkpoints.last() is None


class Walk:
    """Trains the autoencoder's weight at the rate of its options, whatever rate is loaded."""

    trains, makes, needs, batch_size = ("autoencoder",), (), (), 1
    adjustable = ("optimizer", "clip")
    happens = {}

    def __init__(
        self,
        dataset: Dataset,
        autoencoder: Autoencoder,
        optimizer: Partial[Optimizer] = use("sgd"),
        losses: list[Weighted[Loss]] = [use("distance")],  # noqa: B006
        clip: float = 0.0,
        steps: int = 20,
    ):
        self.net, self.make, self.steps = autoencoder, optimizer, steps

    def prepare(self, context):
        self.done = []
        self.optimizer = self.make(self.net.parameters())
        self.lr = self.optimizer.param_groups[0]["lr"]

    def step(self, step, context):
        self.context = context
        self.happens.get(step, lambda trainer: None)(self)
        self.optimizer.param_groups[0]["lr"] = self.lr
        loss = (self.net.weight - torch.randn(3)).square().sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.done.append(step)
        return {"loss": loss}

    def stateful(self):
        return {"net": self.net, "optimizer": self.optimizer}

    def finish(self, context):
        return {"first": float(self.done[0]) if self.done else -1.0}


CHANGES = [('use = "train"\nsteps = 6', 'use = "walk"\nsteps = 20')]


@pytest.fixture
def go(registry, write, tmp_path, monkeypatch):
    """Run the first stage, with overrides and what happens in its steps; return what was said."""
    registry.register(Component("stage", "walk", Walk))

    def go(*overrides, happens=None, out="out", stop=None):
        monkeypatch.setattr(Walk, "happens", happens or {})
        reporter, resolved = Lines(), Recipe.load(write(*CHANGES), overrides).resolve(registry)
        told = [str(line) for line in forecast(resolved, tmp_path / out)]
        error = None
        try:
            run(resolved, out=tmp_path / out, until="first", reporter=reporter, stop=stop)
        except (Interrupted, RunError) as caught:
            error = caught
        reporter.lines = [line for line in reporter.lines if line.startswith("stages.")]
        return reporter.lines, told[0], error

    return go


def stop_after(step):
    """Return the arguments of ``go`` that interrupt a run after so many steps."""
    stop = Stop()
    return {"stop": stop, "happens": stop_at(step - 1, stop, {})}


def record(tmp_path, out="out"):
    return RunFolder(tmp_path / out).stage("first").record()


def weight(tmp_path, out="out"):
    return read_tensors(tmp_path / out / "stages/first/weights/autoencoder.safetensors")["weight"]


def adjusted(folder):
    return json.loads((folder / "out/stages/first/stage.json").read_text())["adjusted"]


def test_a_training_in_progress_resumes_at_another_rate(go, tmp_path):
    said, _, error = go(**stop_after(7))
    assert isinstance(error, Interrupted) and said == []
    said, told, error = go("stages.first.optimizer.lr=0.01")
    assert told == "first: resume, from step 7 of 20, with optimizer.lr 0.1 -> 0.01" and error is None
    assert said == [
        "stages.first resumes from step 7 of 20, with optimizer.lr 0.1 -> 0.01",
        "stages.first: optimizer.lr was 0.1 up to step 7, then 0.01",
    ]
    assert record(tmp_path).done and record(tmp_path).summary == {"first": 7.0}
    assert adjusted(tmp_path) == [{"step": 7, "options": {"optimizer.lr": [0.1, 0.01]}}]
    state = RunFolder(tmp_path / "out").stage("first").checkpoints.load(20)
    assert state["optimizer"]["param_groups"][0]["lr"] == 0.01, "the old rate does not come back"
    assert go("stages.first.optimizer.lr=0.01")[0] == said[1:], "it is not hidden that it was done so"
    go("stages.first.optimizer.lr=0.01", out="alone")
    assert not torch.equal(weight(tmp_path), weight(tmp_path, "alone"))
    assert record(tmp_path).key == record(tmp_path, "alone").key


def test_an_adjustment_counts_from_the_checkpoint_that_was_whole(go, tmp_path):
    go(**stop_after(3))
    go(**stop_after(7))
    (tmp_path / "out/stages/first/checkpoints/7/state.safetensors").write_bytes(b"damaged")
    said, _, _ = go("stages.first.optimizer.lr=0.01")
    assert said[-1] == "stages.first: optimizer.lr was 0.1 up to step 3, then 0.01"
    assert adjusted(tmp_path) == [{"step": 3, "options": {"optimizer.lr": [0.1, 0.01]}}]


def test_later_adjustments_count_from_the_step_that_a_training_resumes_from():
    made = [
        Adjustment(2, {"a": (1, 2)}),
        Adjustment(5, {"a": (2, 3), "b": (1, 2)}),
        Adjustment(7, {"a": (3, 4)}),
    ]
    assert adjusted_from(9, made) == adjusted_from(7, made) == made and adjusted_from(0, made) == []
    assert adjusted_from(4, made) == [made[0], Adjustment(4, {"a": (2, 4), "b": (1, 2)})]
    assert adjusted_from(1, made) == [Adjustment(1, {"a": (1, 4), "b": (1, 2)})]


def test_a_training_may_be_adjusted_and_lengthened_again_and_again(go, tmp_path):
    go(**stop_after(3))
    go("stages.first.optimizer.lr=0.01", **stop_after(8))
    go("stages.first.clip=2", "stages.first.optimizer.lr=0.01", "stages.first.steps=30", **stop_after(12))
    go("stages.first.clip=2", "stages.first.optimizer.lr=0.01", "stages.first.steps=30")
    assert adjusted(tmp_path) == [
        {"step": 3, "options": {"optimizer.lr": [0.1, 0.01]}},
        {"step": 8, "options": {"clip": [0.0, 2.0], "steps": [20, 30]}},
    ]
    assert record(tmp_path).summary == {"first": 12.0}


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("autoencoder.quantizer.decay=0.9", "autoencoder.quantizer.decay 0.5 -> 0.9"),
        ("stages.first.losses[0].weight=2", "losses[0].weight 0.5 -> 2.0"),
        ("stages.first.steps=15", "20 steps are done, 15 are wanted"),
        ("seed=4", "seed 3 -> 4"),
    ],
)
@pytest.mark.parametrize("done", [False, True])
def test_what_is_done_again_is_said_before_with_its_reason(go, tmp_path, override, why, done):
    go() if done else go(**stop_after(7))
    key = record(tmp_path).key
    said, told, error = go(override)
    does = "is done again" if done else "begins at step 0"
    kept = "the finished result" if done else "its checkpoint of step 7"
    assert told == f"first: redo, {why}" and error is None
    assert said == [f"stages.first {does}: {why}; {kept} is kept in set_aside/first-{key}"]
    assert RunFolder(tmp_path / "out").is_archived("first", key) and record(tmp_path).adjusted == []
    said, _, _ = go()
    assert said == [f"stages.first is restored from set_aside/first-{key}"]
    assert record(tmp_path).summary == {"first": 0.0 if done else 7.0}


def test_a_training_is_not_adjusted_where_the_wanted_one_is_there_or_takes_fewer_steps(go, tmp_path):
    wanted = "stages.first.optimizer.lr=0.01"
    go(wanted)
    go(**stop_after(7))
    assert "restored" in go(wanted)[0][0] and record(tmp_path).adjusted == []
    said = go(wanted, "stages.first.clip=1", **stop_after(7))[0]
    assert "is done again: clip 0.0 -> 1.0" in said[0]
    said = go(wanted, "stages.first.clip=2", "stages.first.steps=15")[0]
    assert said[0].startswith("stages.first begins at step 0: clip 1.0 -> 2.0") and record(tmp_path).done


def test_a_training_without_a_step_left_is_not_adjusted(go, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Walk, "finish", lambda trainer, context: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            go()
    assert "begins at step 0: optimizer.lr 0.1 -> 0.01" in go("stages.first.optimizer.lr=0.01")[0][0]


def test_a_finished_training_at_another_rate_is_another_result(go, tmp_path):
    go()
    said, told, _ = go("stages.first.optimizer.lr=0.01")
    assert told == "first: redo, optimizer.lr 0.1 -> 0.01" and "is done again" in said[0]
    assert record(tmp_path).summary == {"first": 0.0} and record(tmp_path).adjusted == []


def test_the_advice_after_numbers_gone_bad_works_as_it_is_given(go, tmp_path):
    every = "run.checkpoint.every=6"

    def burst(trainer):
        if trainer.lr > 0.05 and trainer.context.run_device.precision is torch.bfloat16:
            trainer.net.weight.data.fill_(INF)

    happens = {6: burst}
    for _ in range(2):  # from the start, then from the checkpoint
        _, _, error = go("run.precision=bfloat16", every, happens=happens)
        assert "from the checkpoint of step 6" in error.problems[0].hint
        assert not record(tmp_path).done
    shutil.copytree(tmp_path / "out", tmp_path / "exact")
    assert go("run.precision=bfloat16", "stages.first.optimizer.lr=0.01", happens=happens)[2] is None
    assert go("run.precision=float32", happens=happens, out="exact")[2] is None
    for out, changed in (("out", 1), ("exact", 0)):
        assert record(tmp_path, out).summary == {"first": 6.0}
        assert len(record(tmp_path, out).adjusted) == changed


def test_what_an_adjusted_training_did_from_its_start_is_no_adjustment(go, tmp_path):
    go(**stop_after(7))
    go("stages.first.optimizer.lr=0.01")
    for part in ("checkpoints", "weights"):
        shutil.rmtree(tmp_path / "out/stages/first" / part)
    assert go("stages.first.optimizer.lr=0.01")[2] is None
    assert record(tmp_path).adjusted == [] and record(tmp_path).summary == {"first": 0.0}


def test_weights_that_are_not_finite_in_the_end_are_not_those_of_a_done_stage(go, tmp_path, monkeypatch):
    monkeypatch.setattr(Walk, "finish", lambda trainer, context: [{}, trainer.net.weight.data.fill_(NAN)][0])
    error = go()[2]
    assert str(error) == "stages.first: autoencoder.weight is not finite when it is done; it is not saved"
    assert not record(tmp_path).done and not (tmp_path / "out/stages/first/weights").exists()


def test_data_that_fails_before_the_training_names_the_stage(go, tmp_path, monkeypatch):
    def prepare(trainer, context):
        raise DataError("x.png is cut short")

    go(**stop_after(3))
    go("stages.first.optimizer.lr=0.01", **stop_after(7))
    monkeypatch.setattr(Walk, "prepare", prepare)
    assert str(go("stages.first.optimizer.lr=0.01")[2]) == "stages.first: x.png is cut short"
    assert len(record(tmp_path).adjusted) == 1, "what was adjusted before is not forgotten"


def test_weights_of_a_done_stage_that_are_not_finite_are_not_loaded(registry, write, tmp_path):
    resolved = Recipe.load(write()).resolve(registry)
    out = run(resolved, out=tmp_path / "out", until="first")
    path = out / "stages/first/weights/autoencoder.safetensors"
    write_tensors(path, {"weight": torch.full((3,), NAN)})
    stage = RunFolder(out).stage("first")
    stage.write_record(evolve(stage.record(), digests={}))  # of an earlier version, which could write it
    with pytest.raises(RunError, match=r"autoencoder\.safetensors: weight is not finite"):
        run(resolved, out=out)


NUMBERS = [(0.1, 0.2, True), (1, 2.5, True), (True, 0.5, False), (0.1, "a", False), (0.1, None, False)]
LISTS = [([0.9, 0.9], [0.9, 0.95], True), ([0.9], [0.9, 0.95], False), ([1, True], [1, False], False)]


@pytest.mark.parametrize(("old", "new", "may"), NUMBERS + LISTS)
def test_only_numbers_are_adjusted(old, new, may):
    """They leave the optimizer's state as it is; a flag or a name may not."""

    def key(value, option="optimizer"):
        made_of = {"seed": 1, "stage": {option: {"use": "sgd", "x": value}}}
        return StageKey("c", 9, made_of, ("optimizer",))

    assert bool(key(new).adjustments(key(old))) is may
    assert not key(new, "other").adjustments(key(old, "other"))
    assert not key(new).adjustments(StageKey("c", 9)), "of an old record that does not say what it is made of"


def test_adjustments_are_described_in_their_order():
    adjustments = [Adjustment(3, {"a.lr": (1.0, 0.5), "b": (1, 2)}), Adjustment(9, {"b": (2, 3)})]
    assert describe_adjustments(adjustments) == [
        "a.lr was 1.0 up to step 3, then 0.5",
        "b was 1 up to step 3, then 2",
        "b was 2 up to step 9, then 3",
    ]
