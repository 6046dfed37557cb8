"""When a training saves, which checkpoints stay, what follows numbers gone bad, and being asked to stop."""

import math
import signal
import time

import pytest
import torch
from torch import nn

from uldm_core import RunError
from uldm_core.engine import loop, training_state
from uldm_core.engine.context import Context
from uldm_core.engine.device import Device
from uldm_core.engine.progress import Silent
from uldm_core.engine.signals import Interrupted, Stop, StoppedAtOnce
from uldm_core.engine.training_state import TrainingState
from uldm_core.recipe import RunOptions
from uldm_core.recipe.run_options import CheckpointPolicy
from uldm_core.run_folder import checkpoint
from uldm_core.run_folder.events import EventLog
from uldm_core.run_folder.folder import RunFolder

CPU = Device(torch.device("cpu"), torch.float32)


class Lines(Silent):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


class ScaledSGD:
    """An optimizer whose rate the engine may lower."""

    def __init__(self, parameters, lr):
        self.optimizer, self.lr, self.rate_factor = torch.optim.SGD(parameters, lr), lr, 1.0

    def step(self):
        self.optimizer.param_groups[0]["lr"] = self.lr * self.rate_factor
        self.optimizer.step()

    def state_dict(self):
        return self.optimizer.state_dict()

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state)


class Root(nn.Module):
    """The square root of a weight less ``edge``: no number, once the weight is below that."""

    def __init__(self, edge):
        super().__init__()
        self.weight, self.edge, self.inner = nn.Parameter(torch.tensor(4.0)), edge, nn.Identity()

    def forward(self, x):
        return (self.inner(x * self.weight) - self.edge).sqrt()


class Steps:
    """A trainer that takes steps of the learning rate towards the edge.

    At step 5 its loss is no number if the rate is above ``most``.
    """

    trains, makes, needs, batch_size = (), (), (), 1

    def __init__(self, steps, lr=0.0, edge=-99.0, values=(), scaled=True, most=math.inf):
        self.steps, self.lr, self.edge, self.values, self.scaled = steps, lr, edge, values, scaled
        self.most, self.done = most, []

    def prepare(self, context):
        self.net = nn.Sequential(nn.Identity(), Root(self.edge))
        self.optimizer = ScaledSGD(self.net.parameters(), self.lr)

    def step(self, step, context):
        self.done.append(step + 1)
        loss = self.net(torch.ones(1)).sum()
        self.net.zero_grad()
        loss.backward()
        for parameter in self.net.parameters():
            parameter.grad /= parameter.grad.abs()
        self.optimizer.step()
        value = self.values[step] if self.values else 1.0
        if step == 4 and self.lr * self.optimizer.rate_factor > self.most:
            loss = loss * math.nan
        return {"loss": loss.detach(), "height": torch.tensor(value)}

    def stateful(self):
        part = self.optimizer if self.scaled else self.optimizer.optimizer
        return {"net": self.net, "optimizer": part}

    def finish(self, context):
        return {}


def train(folder, trainer, stop=None, **options):
    """Train in a folder; return the lines shown, the checkpoints and the summary."""
    shown, run = Lines(), RunFolder(folder)
    context = Context("s", 0, CPU, run.stage("s"), reporter=shown, events=EventLog(folder / "events.jsonl"))
    context.options, context.stop = RunOptions(**options), stop or Stop()
    folder.mkdir(exist_ok=True)
    summary = loop.train(trainer, context)
    return shown.lines, run.stage("s").checkpoints, summary


@pytest.mark.parametrize(
    ("every", "seconds"), [("90 s", 90), ("2 min", 120), ("1.5h", 5400), ("0.5 s", 0.5), (500, 0)]
)
def test_an_interval_is_steps_or_a_time(every, seconds):
    policy = CheckpointPolicy(every)
    assert policy.seconds == seconds and policy.steps == (every if seconds == 0 else 0)


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (CheckpointPolicy(3, keep=2), [9, 10]),
        (CheckpointPolicy(3, keep=9), [3, 6, 9, 10]),
        (CheckpointPolicy("1 h"), [10]),
        (CheckpointPolicy(3, keep=1, best="height"), [6, 10]),
        (CheckpointPolicy(3, keep=1, best="s.height"), [6, 10]),
        (CheckpointPolicy(3, keep=1, best="other.loss"), [10]),
    ],
)
def test_the_last_and_the_best_checkpoints_stay(tmp_path, policy, kept):
    """The value at step 8 is lower, but nothing is saved there."""
    values = [9.0, 9.0, 5.0, 9.0, 9.0, 2.0, 9.0, 0.0, 2.0, 3.0]
    _, checkpoints, _ = train(tmp_path, Steps(10, values=values), checkpoint=policy)
    assert checkpoints.steps() == kept
    assert checkpoints.notes(6) == ({"height": 2.0} if 6 in kept and policy.best else {})


def test_the_best_is_known_still_when_a_training_resumes(tmp_path):
    policy = CheckpointPolicy(1, keep=1, best="height")
    train(tmp_path, Steps(4, values=[3.0, 1.0, 2.0, 2.0]), checkpoint=policy)
    _, checkpoints, _ = train(tmp_path, Steps(6, values=[9.0] * 4 + [5.0, 1.0]), checkpoint=policy)
    assert checkpoints.steps() == [2, 6]


def test_a_best_value_that_is_not_logged_is_warned_of_once(tmp_path):
    """A value of another stage, or of a later step: the last checkpoints stay."""
    lines, checkpoints, _ = train(tmp_path, Steps(9), checkpoint=CheckpointPolicy(2, best="lost"))
    (line,) = [line for line in lines if "warning" in line]
    assert line.startswith("warning: stages.s: no 'lost' is logged")
    assert line.endswith("logged are loss, height")
    assert checkpoints.steps() == [8, 9]


def test_saving_takes_a_fiftieth_of_the_time_at_most(tmp_path, monkeypatch):
    """A time is stretched, a number of steps is not."""
    now = 0.0
    monkeypatch.setattr(training_state.time, "monotonic", lambda: now)
    trainer, context = Steps(9), Context("s", 0, CPU, RunFolder(tmp_path).stage("s"))
    trainer.prepare(context)

    def slow(*_, **__):
        nonlocal now
        now += 10

    for every, due in (("10 s", [False, False, True]), (3, [False, True, False])):
        context.options = RunOptions(checkpoint=CheckpointPolicy(every))
        state = TrainingState(trainer, context)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_state", slow)
            state.save(1, {})
        found = []
        for step, later in ((2, 11), (3, 480), (4, 10)):
            now += later
            found.append(state.due(step))
        assert found == due, every


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_what_the_disk_gives_back_otherwise_is_an_error_and_the_earlier_one_stays(
    tmp_path, monkeypatch, name
):
    checkpoints = RunFolder(tmp_path).stage("s").checkpoints
    checkpoints.save(1, {"a": torch.ones(3)})
    write = checkpoint.write_bytes

    def damaging(path, content):
        write(path, content[:-1] + bytes([content[-1] ^ 1]) if path.name == name else content)

    monkeypatch.setattr(checkpoint, "write_bytes", damaging)
    with pytest.raises(RunError, match="comes back otherwise"):
        checkpoints.save(2, {"a": torch.ones(3)})
    assert [path.name for path in checkpoints.path.iterdir()] == ["1"]
    assert torch.equal(checkpoints.load(1)["a"], torch.ones(3))


def test_numbers_gone_bad_are_followed_to_the_module(tmp_path):
    """The weight falls by one a step, from 4: the root of 0 has no slope, of -1 no value."""
    with pytest.raises(RunError) as caught:
        train(tmp_path, Steps(20, lr=1.0, edge=0.5), checkpoint=CheckpointPolicy(2))
    (problem,) = caught.value.problems
    assert problem.what == (
        "stages.s: loss is nan at step 5; it begins in the output of net.1 at step 5; this state is not saved"
    )
    assert "from the checkpoint of step 4" in problem.hint or "begins at step 0" in problem.hint
    assert RunFolder(tmp_path).stage("s").checkpoints.steps() == [2, 4]


def test_a_gradient_gone_bad_in_the_last_step_is_found_before_the_weights_are_saved(tmp_path):
    trainer = Steps(4, lr=1.0)
    prepare = trainer.prepare

    def spoil(module, inputs, output):
        output.register_hook(lambda gradient: gradient * (math.nan if trainer.done[-1] == 4 else 1))

    def prepared(context):
        prepare(context)
        trainer.net[1].inner.register_forward_hook(spoil)

    trainer.prepare = prepared
    with pytest.raises(RunError) as caught:
        train(tmp_path, trainer, checkpoint=CheckpointPolicy("1 h"))
    assert caught.value.problems[0].what == (
        "stages.s: net.1.weight became nan or infinite at a step from 1 to 4; "
        "it begins in the gradient of the output of net.1.inner at step 4; this state is not saved"
    )
    assert trainer.done == [1, 2, 3, 4] * 2, "once more from the start, with checks"


EVERY_TWO = CheckpointPolicy(2)


def test_a_rollback_halves_the_rate_and_is_remembered(tmp_path):
    trainer = Steps(12, lr=1.0, most=0.3)
    lines, checkpoints, summary = train(tmp_path, trainer, checkpoint=EVERY_TWO, on_nan="rollback")
    assert summary == {"rate_factor": 0.25} and trainer.done == [1, 2, 3, 4, 5, 6, 5, 6, *range(5, 13)]
    assert [line for line in lines if "goes back" in line] == [
        "warning: stages.s: loss is nan at step 5: the training goes back to step 4, "
        f"with the learning rate times {factor}"
        for factor in (0.5, 0.25)
    ]
    assert checkpoints.notes(12) == {"rate_factor": 0.25}
    rolled = [line for line in (tmp_path / "events.jsonl").read_text().splitlines() if "rolled_back" in line]
    assert len(rolled) == 2 and '"to": 4, "factor": 0.25' in rolled[1]
    again = Steps(14, lr=1.0)
    train(tmp_path, again, checkpoint=EVERY_TWO)
    assert again.done == [13, 14] and again.optimizer.rate_factor == 0.25, "resumed at the lowered rate"


@pytest.mark.parametrize(("scaled", "times"), [(True, 3), (False, 0)])
def test_a_training_rolls_back_three_times_at_most(tmp_path, scaled, times):
    trainer = Steps(12, lr=1.0, most=0.0, scaled=scaled)
    with pytest.raises(RunError, match="loss is nan at step 5"):
        train(tmp_path, trainer, checkpoint=CheckpointPolicy("1 h"), on_nan="rollback")
    events = tmp_path / "events.jsonl"
    assert (events.read_text() if events.exists() else "").count('"rolled_back"') == times


def test_a_training_that_rolled_back_ends_the_same_when_it_is_stopped(tmp_path):
    _, whole, _ = train(
        tmp_path / "whole", Steps(12, lr=1.0, most=0.3), checkpoint=EVERY_TWO, on_nan="rollback"
    )
    cut, stop = Steps(12, lr=1.0, most=0.3), Stop()
    step = cut.step

    def stopping(number, context):
        if number == 8:
            stop.request()
        return step(number, context)

    cut.step = stopping
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", cut, stop=stop, checkpoint=EVERY_TWO, on_nan="rollback")
    _, parts, _ = train(
        tmp_path / "cut", Steps(12, lr=1.0, most=0.3), checkpoint=EVERY_TWO, on_nan="rollback"
    )
    assert torch.equal(whole.load(12)["net"]["1.weight"], parts.load(12)["net"]["1.weight"])


@pytest.mark.parametrize(
    ("stop", "code", "why"),
    [
        (Stop.after(0), 75, "its time is up"),
        (Stop(signal.SIGUSR1), 75, "stopped by SIGUSR1"),
        (Stop(signal.SIGTERM), 143, "stopped by SIGTERM"),
        (Stop(signal.SIGINT), 130, "stopped by SIGINT"),
    ],
)
def test_a_training_stops_after_its_step_with_the_state_saved(tmp_path, stop, code, why):
    trainer = Steps(9)
    context = Context("s", 0, CPU, RunFolder(tmp_path).stage("s"), stop=stop)
    with pytest.raises(Interrupted, match=why) as caught:
        loop.train(trainer, context)
    assert caught.value.exit_code == code
    assert trainer.done == [1] and context.folder.checkpoints.steps() == [1]


def test_a_program_may_ask_a_run_to_stop():
    stop = Stop()
    stop.check()
    assert not stop.requested
    stop.request()
    with pytest.raises(Interrupted) as caught:
        stop.check()
    assert (caught.value.signum, caught.value.exit_code) == (0, 75)


def test_a_queues_notice_is_no_first_signal_and_a_second_one_stops_at_once():
    with Stop().listening() as stop:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        assert stop.signum == signal.SIGTERM
        with pytest.raises(StoppedAtOnce, match="at once by SIGTERM") as caught:
            signal.raise_signal(signal.SIGTERM)
        assert caught.value.signum == signal.SIGTERM


def test_work_that_writes_nothing_ends_when_the_time_is_up():
    with Stop.after(0.05 / 60).listening() as stop:
        with pytest.raises(Interrupted, match="its time is up") as caught, stop.interrupting():
            for _ in range(500):  # as a metric that computes for long
                time.sleep(0.01)
        assert caught.value.exit_code == 75 and not stop.signum
    with Stop.after(0.05 / 60).listening() as stop:
        with stop.interrupting():
            pass
        time.sleep(0.1)  # nothing ends what may be writing
        assert stop.requested and not stop.signum
    with pytest.raises(ValueError), Stop.after(1).listening() as stop, stop.interrupting():
        raise ValueError("its own error")


class RaisesWhenRemoved:
    """Gets a signal where Python ignores errors."""

    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_in_a_destructor_is_not_lost(capsys):
    with Stop().listening() as stop, pytest.raises(Interrupted) as caught, stop.interrupting():
        RaisesWhenRemoved()
        for _ in range(100):
            time.sleep(0.01)
        pytest.fail("it was lost")
    assert caught.value.signum == signal.SIGTERM and not capsys.readouterr().err


def test_work_that_writes_nothing_ends_where_a_signal_comes():
    with Stop().listening() as stop, pytest.raises(Interrupted), stop.interrupting():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            return  # as an import of a plugin passes over what goes wrong
        raise AssertionError("it went on")
    with Stop().listening() as stop, pytest.raises(Interrupted), stop.interrupting():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise ValueError("of what the signal broke")
    stop = Stop()
    with stop.interrupting():
        pass
    with stop.listening():
        signal.raise_signal(signal.SIGINT)
        assert stop.signum == signal.SIGINT, "afterwards it is noted"
