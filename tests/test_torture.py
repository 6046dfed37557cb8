"""A few of what benchmarks/torture.py tries: killed runs resume to the same bits, damaged files are named."""

import importlib.util
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "torture.py"

RECIPE = """\
extends = "{base}"
run = {{ device = "cpu", precision = "float32", checkpoint.every = 2 }}
stages.first.steps = 5
stages.second = {{ steps = 12, previews = 6 }}
"""


@pytest.fixture(scope="module")
def torture(tmp_path_factory, small_run):
    """The program, on a smaller recipe, with its reference run."""
    spec = importlib.util.spec_from_file_location("torture", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules["torture"] = module
    spec.loader.exec_module(module)
    module.RECIPE = RECIPE.format(base=small_run.with_name("tiny.toml"))
    module.EVERY, module.WORK = 2, tmp_path_factory.mktemp("torture")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # of fork
        module.warm(module.WORK / "warm", [module.RUN])
        module.count_steps(patch.setattr)
        module.REFERENCE = module.make_reference(module.WORK)
        yield module
    del sys.modules["torture"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="takes fork")
@pytest.mark.parametrize("share", [0.3, 0.45, 0.6, 0.75])
def test_a_run_killed_before_a_change_of_a_file_resumes_to_the_same_bits(torture, share):
    with torture.scratch() as folder:
        torture.fresh(folder)
        trial = torture.Trial("", 0)
        torture.killed(trial, folder, [torture.Death(change=round(share * torture.REFERENCE.changes))])
    assert not trial.found, trial.detail


def test_torture_finds_what_a_kill_may_not_leave(torture):
    """A check that cannot fail is none: here a leftover, and a weight of another run."""
    with torture.scratch() as folder:
        shutil.copytree(torture.REFERENCE.folder, folder, dirs_exist_ok=True)
        (folder / "x/.0123456789abcdef.part").mkdir()
        shutil.copy(folder / "x/samples.png", folder / "x/stages/second/images/samples/00000005.png")
        trial = torture.Trial("", 0)
        torture.resumed(trial, folder, 0, 1)
    assert set(trial.found) & {"left over", "unequal"}, trial.detail


@pytest.mark.parametrize(
    "name",
    [
        "recipe.toml",
        "events.jsonl",
        "samples.png",
        "stages/first/stage.json",
        "stages/first/metrics.jsonl",
        "stages/first/weights/autoencoder.safetensors",
        "stages/second/checkpoints/12/state.safetensors",
        "stages/second/checkpoints/12/state.json",
        "stages/samples/artifacts/samples.npz",
        "stages/scores/artifacts/metrics.json",
    ],
)
def test_a_flipped_bit_is_named_by_the_doctor_and_not_used(torture, uldm, tmp_path, name):
    shutil.copytree(torture.REFERENCE.folder, tmp_path, dirs_exist_ok=True)
    damaged = bytearray((tmp_path / "x" / name).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "x" / name).write_bytes(damaged)
    code, out, error = uldm("doctor", "x")
    assert code and torture.is_named(name, out + error), out + error
    code, out, error = uldm("run", "x", "--out", "x")
    now, whole = (folder / "x" / name for folder in (tmp_path, torture.REFERENCE.folder))
    same = now.read_bytes() in (damaged, whole.read_bytes())  # left for the doctor, or copied again
    assert same or torture.is_named(name, out + error), out + error
    differing = torture.differing(torture.contents(tmp_path / "x"), torture.REFERENCE.held)
    assert code == 2 or set(differing) <= {name}


def test_what_an_unfinished_training_has_logged_is_checked_as_it_resumes(torture, uldm, tmp_path):
    torture.fresh(tmp_path)
    torture.command(torture.RUN, tmp_path, death=torture.Death(step=torture.REFERENCE.steps))
    (tmp_path / "x/stages/first/stage_copy.json").unlink()
    names = ["metrics.jsonl", "images/samples/00000002.png"]
    for path in (tmp_path / "x/stages/second" / name for name in names):
        path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    for command in (["doctor", "x"], ["run", "x", "--out", "x"]):
        _, out, error = uldm(*command)
        assert all(f"stages/second/{name}" in out + error for name in names), out + error
    assert (tmp_path / "x/stages/first/stage_copy.json").exists()


def test_a_record_in_the_place_of_another_is_refused(torture, uldm, tmp_path):
    shutil.copytree(torture.REFERENCE.folder, tmp_path, dirs_exist_ok=True)
    shutil.copy(tmp_path / "x/stages/first/stage.json", tmp_path / "x/environment.json")
    for command in (["doctor", "x"], ["report", "x"]):
        _, out, error = uldm(*command)
        assert (
            "environment.json" in out + error and "another record: 'stages/first/stage.json'" in out + error
        )
    (tmp_path / "x/run.json").unlink()
    _, out, error = uldm("report", "x")
    assert "x/run.json: warning: missing" in out + error
    (tmp_path / "x/recipe.toml").unlink()
    (tmp_path / "x/run.json").mkdir()
    assert "x is not a run: it has no recipe.toml" in uldm("evaluate", "x")[2]
    assert "x: a folder without a recipe.toml" in uldm("run", "x")[2]


@pytest.mark.slow
def test_torture_itself(tmp_path):
    """Every row of its table, with few trials."""
    command = [
        sys.executable,
        PROGRAM,
        "--kills",
        "6",
        "--flips",
        "30",
        "--disk-full",
        "2",
        "--power-cuts",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (
        "| SIGKILL before a step | 1 |" in done.stdout and "| damaged file of finished | 18 |" in done.stdout
    )
