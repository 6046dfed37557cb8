"""What a run tells of itself: its events, its lock, what it cannot write, where its bits will differ."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from uldm_core import Component, MistakeError, RunError
from uldm_core.cli import main as program
from uldm_core.engine import limits, loop, run_log, trackers
from uldm_core.engine import run as engine
from uldm_core.engine.device import Device
from uldm_core.engine.environment import checkpoint_environments, differences
from uldm_core.engine.progress import Silent
from uldm_core.engine.run import run
from uldm_core.engine.run_log import RunStatus
from uldm_core.engine.signals import Interrupted, Stop
from uldm_core.recipe import Recipe
from uldm_core.run_folder import events, lines
from uldm_core.run_folder.events import EventLog, read_events
from uldm_core.run_folder.files import read_record
from uldm_core.run_folder.lock import lock_folder
from uldm_plugins.trackers import jsonl

ROOT = Path(__file__).parent.parent.parent


class At(Silent):
    """Calls ``do`` once, as soon as so many steps are reported."""

    def __init__(self, step=0, do=None):
        self.said, self.step, self.do = [], step, do

    def message(self, text):
        self.said += text.splitlines()

    def advanced(self, done, metrics, rate):
        if self.do and done >= self.step:
            do, self.do = self.do, None
            do()


@pytest.fixture
def planned(registry, write, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 1)
    return lambda *overrides, changes=(): Recipe.load(write(*changes), overrides).resolve(registry)


def names(folder):
    return [event.name for event in read_events(folder / "events.jsonl")[0]]


def last(folder, name):
    return [event for event in read_events(folder / "events.jsonl")[0] if event.name == name][-1]


def stopped_at(step, resolved, out, number=signal.SIGTERM):
    stop = Stop()
    with pytest.raises(Interrupted):
        run(resolved, out=out, stop=stop, reporter=At(step, lambda: setattr(stop, "signum", number)))


def full(path):
    """Raise what the system does on a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


# ---------------------------------------------------------------- lines and events


def test_a_line_that_a_crash_cut_short_hurts_no_other(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append("started", pid=1)
    with path.open("ab") as file:
        file.write(path.read_bytes()[:30])
    assert ([event.name for event in read_events(path)[0]], read_events(path)[1]) == (["started"], 0)
    log.append("done")
    found, damaged, end = read_events(path)
    assert ([event.name for event in found], damaged) == (["started", "done"], 1)
    assert end == path.stat().st_size and read_events(path, end) == ([], 0, end)


def test_a_bit_that_flips_anywhere_in_a_line_is_noticed(tmp_path):
    path = tmp_path / "events.jsonl"
    EventLog(path).append("checkpoint", stage="first", step=12, text='"}, "crc": "')
    EventLog(path).append("done")
    good = path.read_bytes()
    for place in range(good.index(b"\n")):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
        found, damaged, _ = read_events(path)
        assert [event.name for event in found] == ["done"] and damaged in (1, 2), place
    path.write_bytes(b"[]\n{}\n\xff\n" + b"[" * 9999 + b"\n" + good)
    assert [event.name for event in read_events(path)[0]] == ["checkpoint", "done"]


def test_lines_are_added_whole_or_not_at_all(tmp_path, monkeypatch):
    path, write = tmp_path / "log", os.write
    lines.append_lines(path, ["one"])

    def half(descriptor, content):
        if len(content) > 4:
            return write(descriptor, content[:4])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match=r"No space left on device: '.*log'"):
        lines.append_lines(path, ["number two"])
    assert path.read_text() == "one\n"
    monkeypatch.undo()
    lines.append_lines(path, ["two", "three"], sync=True)
    assert lines.read_lines(path) == (["one", "two", "three"], 14)
    monkeypatch.setattr(lines, "MOST_BYTES", 5)
    assert lines.read_lines(path, 4) == (["two"], 8)


def test_events_that_cannot_be_written_come_with_the_next(tmp_path, monkeypatch):
    log = EventLog(tmp_path / "events.jsonl")
    monkeypatch.setattr(events, "append_lines", lambda path, *_, **__: full(path))
    log.append("started")
    log.append("stage")
    assert len(log.waiting) == 2
    monkeypatch.undo()
    log.append("done")
    assert names(tmp_path) == ["started", "stage", "done"] and not log.waiting


def test_a_run_tells_what_happened_to_it(planned, registry, tmp_path, monkeypatch):
    out = tmp_path / "out"
    stopped_at(2, planned(), out)
    assert [name for name in names(out) if name != "checkpoint"] == ["started", "stage", "stopped"]
    assert last(out, "stopped").values == {"signal": "SIGTERM"}
    began = last(out, "started").values
    assert began["stages"] == {"first": "do", "second": "do", "third": "do"} and began["pid"] == os.getpid()
    assert began["environment"]["threads"] == torch.get_num_threads()
    monkeypatch.setattr(registry.get("stage", "train").target, "fail_at", 4)
    with pytest.raises(RunError):
        run(planned(), out=out)
    assert [name for name in names(out) if name != "checkpoint"][3:] == ["resumed", "stage", "failed"]
    assert last(out, "failed").values["error"].startswith("stages.first: loss is nan at step 5")
    monkeypatch.undo()
    before = len(names(out))
    run(planned("stages.first.batch_size=3"), out=out)
    assert last(out, "archived").stage == "first" and names(out)[-1] == "done"
    assert [name for name in names(out)[before:] if name == "stage_done"] == ["stage_done"] * 3
    before = names(out)
    run(planned("stages.first.batch_size=3"), out=out)
    assert names(out) == before, "nothing was done"


def test_warnings_are_kept(planned, registry, tmp_path):
    registry.register(Component("tracker", "sick", "no_such_module:Sick", always=True))
    reporter = At()
    run(planned(), out=tmp_path / "out", reporter=reporter)
    said = [text.removeprefix("warning: ") for text in reporter.said if text.startswith("warning: tracker")]
    kept = [
        event.values["text"]
        for event in read_events(tmp_path / "out/events.jsonl")[0]
        if event.name == "warning"
    ]
    assert kept == said and len(said) == 2


# ---------------------------------------------------------------- one writer


def test_of_several_that_want_a_folder_one_gets_it(tmp_path):
    begin, over, got = threading.Barrier(4), threading.Barrier(4), []

    def want():
        begin.wait()
        try:
            with lock_folder(tmp_path / "run"):
                got.append("it")
                over.wait()
        except MistakeError as error:
            got.append(str(error))
            over.wait()

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted("another run is using" in text for text in got) == [False, True, True, True], got


def test_a_folder_into_which_nothing_was_written_is_taken_away(planned, tmp_path):
    with pytest.raises(MistakeError, match="denoiser"):
        run(planned("denoiser.channels=9"), out=tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with pytest.raises(MistakeError, match="denoiser"):
        run(planned("denoiser.channels=9"), out=tmp_path / "old")
    assert (tmp_path / "old").is_dir()


def test_a_second_run_is_refused_before_the_preflight(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "checked", lambda *_, **__: pytest.fail("the preflight came first"))
    with lock_folder(tmp_path / "out"), pytest.raises(MistakeError, match=r"process \d+ on .*, since 2"):
        run(planned(), out=tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "lock.json").write_text("[" * 9999)  # of a run that was killed, say
    with lock_folder(tmp_path / "out"):
        (tmp_path / "out" / "lock.json").write_text("[" * 9999)
        with pytest.raises(MistakeError, match=r"out: another run is using this folder\n"):
            run(planned(), out=tmp_path / "out")


def test_the_program_refuses_before_torch_is_imported(tmp_path):
    (tmp_path / "r.toml").write_text('[run]\nout = "${vars.out}"\n[vars]\nout = "there"\n')
    code = "import sys\nfrom uldm_core.cli.main import main\ntry: main(['run', 'r.toml'])\n"
    code += "finally: print('torch' in sys.modules)"
    with lock_folder(tmp_path / "there"):
        found = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert (found.returncode, found.stdout) == (2, "False\n"), found.stderr
    assert found.stderr.startswith(
        f"error: there: another run is using this folder: process {os.getpid()} on "
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows moves no folder that is in use")
@pytest.mark.parametrize("what", ["moved", "removed", "replaced"])
def test_a_folder_that_is_gone_stops_its_run(planned, tmp_path, what):
    out, away = tmp_path / "out", tmp_path / "away"

    def take_away():
        shutil.rmtree(out) if what == "removed" else out.rename(away)
        if what == "replaced":
            out.mkdir()

    reporter = At(3, take_away)
    with pytest.raises(RunError) as caught:
        run(planned(), out=out, reporter=reporter)
    said = str(caught.value).splitlines()[0]
    now = "it was removed" if what == "removed" else f"it is now {away}"
    if Path("/proc/self/fd").is_dir():
        assert said == f"{out}: the run's folder is gone: {now}; nothing more is written"
    assert not out.exists() if what != "replaced" else not os.listdir(out)
    assert not [text for text in reporter.said if text.startswith("warning: tracker")]
    if what == "moved":
        assert json.loads((away / "run.json").read_text())["state"] == "running"
        away.rename(out)
        run(planned(), out=out)
        assert names(out)[-1] == "done"


# ---------------------------------------------------------------- a disk that is full


@pytest.fixture
def disk(monkeypatch):
    """A disk that can be full to the log of metrics, as the steps in ``full`` say."""

    class Disk:
        full = ()

        def append(self, path, texts, **more):
            if json.loads(texts[0])["step"] in self.full:
                full(path)
            lines.append_lines(path, texts, **more)

    disk = Disk()
    monkeypatch.setattr(jsonl, "append_lines", disk.append)
    monkeypatch.setattr(trackers, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(trackers, "MOST_SHARE", 1e9)
    return disk


def steps(out):
    return [
        json.loads(line)["step"] for line in (out / "stages/first/metrics.jsonl").read_text().splitlines()
    ]


def test_what_a_full_disk_did_not_take_is_written_later(planned, disk, tmp_path):
    disk.full = {2, 3, 4}
    reporter = At(4, lambda: setattr(disk, "full", ()))
    run(planned(), out=tmp_path / "out", reporter=reporter)
    assert steps(tmp_path / "out") == [1, 2, 3, 4, 5, 6]
    said = [text for text in reporter.said if "tracker/jsonl" in text]
    assert (
        said[0].startswith("warning: tracker/jsonl cannot write, and tries again: ") and "No space" in said[0]
    )
    assert said[1:] == ["tracker/jsonl writes again; nothing of it is lost"]


def test_what_is_lost_is_said_in_the_end_and_by_the_next_run(planned, disk, tmp_path):
    disk.full, reporter, out = {4, 5, 6}, At(), tmp_path / "out"
    with pytest.raises(RunError, match=r"out: done, but not all of the log could be written: tracker/jsonl"):
        run(planned(), out=out, reporter=reporter)
    assert steps(out) == [1, 2, 3] and json.loads((out / "run.json").read_text())["state"] == "done"
    assert "warning: tracker/jsonl has lost 3 entries" in "\n".join(reporter.said)
    assert last(out, "lost").values == {
        "tracker": "tracker/jsonl",
        "stages": {"first": 3},
    }
    disk.full, again = (), At()
    run(planned(), out=out, reporter=again)
    lost = "warning: 3 entries of the log of stages.first could not be written: they are lost since 20"
    assert any(text.startswith(lost) for text in again.said) and steps(out) == [1, 2, 3]
    run(planned("stages.first.batch_size=3"), out=out)
    anew = At()
    run(planned("stages.first.batch_size=3"), out=out, reporter=anew)
    assert steps(out) == [1, 2, 3, 4, 5, 6] and not any("stages.first could" in text for text in anew.said)


def test_what_waits_is_bounded(planned, disk, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "MOST_CALLS", 2)
    disk.full, out = {2, 3, 4}, tmp_path / "out"
    with pytest.raises(RunError):
        run(planned(), out=out, reporter=At(4, lambda: setattr(disk, "full", ())))
    assert steps(out) == [1, 2, 3, 5, 6] and last(out, "lost").values["stages"] == {"first": 1}


def test_run_json_is_true_on_a_full_disk(tmp_path, monkeypatch):
    status = RunStatus(tmp_path / "run.json", "uldm run x")
    status.write("running", "a long error that is not there any more")

    def refuse(path, record):
        raise RunError(f"{path}: cannot be written")

    monkeypatch.setattr(run_log, "write_record", refuse)
    status.write("failed", "no space")
    found = read_record(tmp_path / "run.json", dict)
    assert (found["state"], found["error"], found["command"]) == ("failed", "no space", "uldm run x")
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunError):
        status.write("failed")


def test_a_run_for_which_there_is_no_space_does_not_begin(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "free_bytes", lambda path: 100)
    with pytest.raises(MistakeError) as caught:
        run(planned(), out=tmp_path / "out")
    # three weights; three times in a checkpoint with their average and the optimizer's two
    need = int(1.1 * (3 * 4 * (1 + 3 * 4)))
    said = f"{tmp_path / 'out'}: too little room on the disk: {need} B needed, 100 B free"
    assert str(caught.value).splitlines()[0] == said and not (tmp_path / "out").exists()
    monkeypatch.setattr(limits, "free_bytes", lambda path: need)
    run(planned(), out=tmp_path / "out")
    monkeypatch.setattr(limits, "free_bytes", lambda path: 0)
    run(planned(), out=tmp_path / "out")  # nothing to do needs nothing


def test_samples_count_as_what_they_take_on_disk(tmp_path):
    from uldm_core.preflight.preflight import checked
    from uldm_core.preflight.storage import stored_bytes

    resolved = Recipe.load("mnist_smoke", ["stages.samples.count=1000"]).resolve()
    found = checked(resolved)
    assert stored_bytes(resolved, found, "samples") == (1000 + 10 * 12) * 28 * 28
    assert stored_bytes(resolved, found, "first") > 3 * stored_bytes(resolved, found, "samples")


@pytest.mark.skipif(os.name == "nt", reason="of POSIX")
def test_a_folder_that_cannot_be_written_is_said_in_a_line(planned, tmp_path, monkeypatch):
    def refuse(path, *_):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    for called in ("mkdir", "open"):
        monkeypatch.setattr(os, called, refuse)
        with pytest.raises(
            RunError, match=r"out(/\.lock)?: cannot be written: Read-only file system\n *it is mounted"
        ):
            run(planned(), out=tmp_path / "out")
        monkeypatch.undo()
        (tmp_path / "out").mkdir(exist_ok=True)


# ---------------------------------------------------------------- memory


def cpu():
    return RuntimeError(
        "[enforce fail at alloc_cpu.cpp:130] DefaultCPUAllocator: can't allocate memory: 99 bytes"
    )


@pytest.mark.parametrize(
    "error", [cpu(), MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory. Tried")]
)
def test_memory_that_does_not_suffice_is_said_with_what_to_lower(
    planned, registry, tmp_path, monkeypatch, error
):
    train, step = registry.get("stage", "train").target, registry.get("stage", "train").target.step

    def large(self, number, context):
        if number == 4:
            raise error
        return step(self, number, context)

    stopped_at(2, planned(), tmp_path / "out")
    monkeypatch.setattr(train, "step", large)
    with pytest.raises(RunError) as caught:
        run(planned(), out=tmp_path / "out")
    said, hint = str(caught.value).splitlines()
    assert said.startswith("stages.first: out of memory on cpu, ")
    assert hint.strip().startswith("lower stages.first.batch_size (now 2), the size of the images")
    assert os.listdir(tmp_path / "out/stages/first/checkpoints")
    monkeypatch.undo()
    run(planned(), out=tmp_path / "out")


def test_an_operation_that_gives_other_bits_each_time_is_named_with_the_option(
    planned, registry, tmp_path, monkeypatch
):
    def step(self, number, context):
        what = "upsample does not have a deterministic implementation, but you set 'torch.use_det...'"
        raise RuntimeError(what)

    monkeypatch.setattr(registry.get("stage", "train").target, "step", step)
    wanted = "stages.first: upsample does not have a deterministic implementation\n.*deterministic = false"
    with pytest.raises(RunError, match=wanted):
        run(planned(), out=tmp_path / "out")


def test_other_errors_are_not_taken_for_it():
    assert not any(
        map(limits.is_out_of_memory, [RuntimeError("shapes differ"), OSError(2, "x"), KeyError("x")])
    )


# ---------------------------------------------------------------- surroundings


def test_resuming_where_bits_will_differ_is_said_and_refused_if_asked(planned, tmp_path, monkeypatch):
    out, changed = tmp_path / "out", "run.precision='float32'"
    stopped_at(2, planned("run.precision='bfloat16'"), out)
    EventLog(out / "events.jsonl").append("checkpoint", stage="first", step=2)
    with pytest.raises(MistakeError) as caught:
        run(planned(changed), out=out, exact=True)
    what = "stages.first resumes where its bits will differ: precision bfloat16 -> float32"
    assert str(caught.value).splitlines()[0] == what
    reporter = At()
    monkeypatch.setattr(engine, "do_stage", lambda *_: (_ for _ in ()).throw(RunError("killed")))
    with pytest.raises(RunError):  # before another checkpoint is made
        run(planned(changed), out=out, reporter=reporter)
    assert f"warning: {what}" in reporter.said and last(out, "warning").values["text"] == what
    with pytest.raises(MistakeError, match="bfloat16 -> float32"):
        run(planned(changed), out=out, exact=True)
    monkeypatch.undo()
    with monkeypatch.context() as patch, pytest.raises(MistakeError, match="deterministic is false"):
        patch.setattr(Device, "repeats_bits", False)
        run(planned("run.precision='bfloat16'"), out=out, exact=True)
    run(planned("run.precision='bfloat16'"), out=out, exact=True)


def test_a_restored_result_is_compared_with_the_environment_of_its_own_checkpoint(planned, tmp_path):
    out = tmp_path / "out"
    stopped_at(2, planned("run.precision='bfloat16'"), out)
    stopped_at(2, planned("run.precision='float32'", "seed=4"), out)
    with pytest.raises(MistakeError, match="precision bfloat16 -> float32"):
        run(planned("run.precision='float32'"), out=out, exact=True)
    run(planned("run.precision='bfloat16'"), out=out, exact=True)


def test_a_damaged_environment_is_said_and_written_anew(planned, tmp_path):
    out, reporter = tmp_path / "out", At()
    stopped_at(2, planned(), out)
    (out / "events.jsonl").unlink()  # where it is read as well
    (out / "environment.json").write_bytes(b"{")
    run(planned(), out=out, reporter=reporter)
    assert [line for line in reporter.said if line.startswith(f"warning: {out / 'environment.json'}: ")]
    assert read_record(out / "environment.json", dict)["torch"] == torch.__version__


def test_environments_are_compared_as_far_as_they_tell():
    old = {"torch": "2.5", "machine": "cpu, float32, 2 threads", "python": "3.10"}
    now = {**old, "threads": 1, "machine": "cpu, float32, 1 threads", "torch": "2.6", "cpu": "new"}
    assert differences(old, now) == [
        "torch 2.5 -> 2.6",
        "machine cpu, float32, 2 threads -> cpu, float32, 1 threads",
    ]
    assert differences({**now, "threads": 4}, now) == ["threads 4 -> 1"]
    assert checkpoint_environments([]) == {}


def test_an_environment_tells_versions_libraries_and_the_command(planned, tmp_path):
    out = run(planned(), out=tmp_path / "out", command="uldm run it")
    found = json.loads((out / "environment.json").read_text())
    assert found["torch"] == torch.__version__ and found["threads"] == torch.get_num_threads()
    assert found["precision"] in found["machine"] and found["cpu"] and found["command"] == "uldm run it"
    assert found["numpy"] and found["host"] and "cudnn.benchmark" in found["deterministic"]
    run(planned(), out=out, command="uldm run again")
    assert json.loads((out / "environment.json").read_text())["command"] == "uldm run it", "nothing was done"


# ---------------------------------------------------------------- uldm log


def shown(*arguments):
    return CliRunner().invoke(program.cli, ["log", *map(str, arguments)])


def test_uldm_log_prints_events(planned, tmp_path):
    out = tmp_path / "out"
    stopped_at(2, planned(), out)
    text = shown(out).stdout.splitlines()
    assert "started" in text[0] and "stages first=do second=do third=do" in text[0]
    assert text[1].endswith("stage       first: from step 0 of 6") and text[-1].endswith(
        "stopped     signal SIGTERM"
    )
    tables = [json.loads(line) for line in shown(out, "--json").stdout.splitlines()]
    assert [table["event"] for table in tables] == names(out) and tables[0]["pid"] == os.getpid()
    found = shown(out, "--follow")
    assert found.stdout.splitlines() == text and found.stderr == ""
    with (out / "events.jsonl").open("ab") as file:
        file.write(b"nonsense\n")
    EventLog(out / "events.jsonl").append("resumed", text="\x1b[2J", error="too hot\n    cool it")
    found = shown(out, "--follow")
    assert found.stdout.endswith("resumed     \N{REPLACEMENT CHARACTER}[2J, too hot; cool it\n")
    assert "1 lines are damaged" in found.stderr
    assert "nobody writes any more: the run was killed" in found.stderr


def test_uldm_log_follows_a_run_until_it_has_ended(planned, tmp_path, monkeypatch):
    from uldm_plugins.commands import log

    out, waited = tmp_path / "out", []
    with lock_folder(out) as lock:
        run(planned("stages.first.steps=1"), out=out, lock=lock)
        held = lock_folder(tmp_path / "other")

        def wait(seconds):
            waited.append(seconds)
            if len(waited) == 2:
                held.__exit__(None, None, None)

        (tmp_path / "other").mkdir()
        shutil.copy(out / "events.jsonl", tmp_path / "other")
        shutil.copy(out / "recipe.toml", tmp_path / "other")
    held.__enter__()
    monkeypatch.setattr(log.time, "sleep", wait)
    found = shown(tmp_path / "other", "--follow")
    assert len(waited) == 2 and found.stdout.count("done\n") == 1


def test_a_run_without_events_says_so(tmp_path):
    found = CliRunner().invoke(program.cli, ["log", str(tmp_path)])
    assert isinstance(found.exception, MistakeError) and "events.jsonl" in str(found.exception)
    (tmp_path / "events.jsonl").touch()
    found = CliRunner().invoke(program.cli, ["log", str(tmp_path)])
    assert "no events: the run has just begun, or lost them" in found.stderr
    found = CliRunner().invoke(program.cli, ["log", str(tmp_path / "events.jsonl")])
    assert "a file, not a run's folder" in str(found.exception)


# ---------------------------------------------------------------- the program, on real limits

SMOKE = (
    "mnist_smoke",
    "stages.first.steps=400",
    "stages.second.steps=2",
    "stages.samples.count=10",
    "run.checkpoint.every=5",
    "--device=cpu",
    "--precision=float32",
    "--threads=1",
)


def uldm(*arguments, cwd, **more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "uldm_core.cli.main", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more
    )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 MB; only root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place, left):
    """Leave so many bytes free."""
    free = shutil.disk_usage(place).free - left
    with (place / "filling").open("ab") as file:
        while free > 0:
            free -= file.write(bytes(min(free, 1 << 20)))


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_a_true_run(small_disk, tmp_path):
    out = small_disk / "run"
    found = uldm("run", *SMOKE, "--until=first", "--out", out, cwd=tmp_path)
    while found.poll() is None and not list(out.glob("stages/first/checkpoints/[0-9]*")):
        time.sleep(0.05)
    fill(small_disk, 0)
    _, said = found.communicate()
    assert found.returncode == 1 and "Traceback" not in said, said
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert str(out) in error and "No space left on device" in error and "free" in error
    assert read_record(out / "run.json", dict)["state"] == "failed"
    assert not list(out.rglob("*.part"))
    (small_disk / "filling").unlink()
    again = uldm("run", *SMOKE, "stages.first.steps=20", "--until=first", "--out", out, cwd=tmp_path)
    _, said = again.communicate()
    assert again.returncode == 0, said
    assert names(out)[-1] == "done"


@pytest.mark.slow
def test_a_disk_that_is_too_small_is_refused_before_the_first_step(small_disk, tmp_path):
    fill(small_disk, 1 << 20)
    found = uldm("run", *SMOKE, "--out", small_disk / "run", cwd=tmp_path)
    _, said = found.communicate()
    assert found.returncode == 2 and "too little room on the disk" in said and "Traceback" not in said
    assert os.listdir(small_disk) == ["filling"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux alone")
def test_a_batch_that_is_too_large_ends_with_one_line(tmp_path):
    import resource

    limit = 6 << 30  # which no look at the machine's memory knows of
    found = uldm(
        "run",
        *SMOKE,
        "stages.first.batch_size=8000",
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    _, said = found.communicate()
    assert found.returncode == 1 and "Traceback" not in said, said
    assert "error: stages.first: out of memory on cpu" in said
    assert "lower stages.first.batch_size (now 8000)" in said
