"""Commands on a run's folder that somebody sent: nothing outside changes, and errors name the file."""

import errno
import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from uldm_core import MistakeError
from uldm_core.engine.opened_run import TrainedRun
from uldm_core.errors import RunWarning
from uldm_core.protocols import RunStart
from uldm_core.run_folder import files
from uldm_core.run_folder.folder import RunFolder
from uldm_plugins.commands.run_files import check_run
from uldm_plugins.trackers.mlflow import MLflow
from uldm_plugins.trackers.shared import kept_id
from uldm_plugins.trackers.tensorboard import TensorBoard


@pytest.fixture
def sent(small_run, tmp_path):
    """A copy of it as ``x``, and a folder of somebody's."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "1").write_text("precious")
    return shutil.copytree(small_run, tmp_path / "x")


def held(folder):
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


WEIGHTS, SAMPLES = "stages/first/weights/autoencoder.safetensors", "stages/samples/artifacts/samples.npz"
COMMANDS = {
    "run": ["run", "x", "--out", "x"],
    "sample": ["sample", "x", "--out", "y.png", "--count", "1"],
    "report": ["report", "x"],
    "evaluate": ["evaluate", "x", "--metrics", "psnr"],
    "reconstruct": ["reconstruct", "x", "--out", "y.npz", "--count", "1"],
    "codebook": ["codebook", "x", "--out", "y.png"],
    "compare": ["compare", "x", "x", "--count", "1", "--out", "y.html"],
    "diff": ["diff", "x", "x"],
    "validate": ["validate", "x"],
    "doctor": ["doctor", "x", "--json"],
}
LINKS = [
    ("sample", WEIGHTS),
    ("sample", "stages"),
    ("reconstruct", "stages/first/weights"),
    ("diff", "recipe.toml"),
    ("validate", "recipe.toml"),
    ("compare", "recipe.toml"),
    ("report", "recipe.toml"),
    ("evaluate", SAMPLES),
    ("evaluate", "evaluations"),
    ("evaluate", "report.html"),
]
TOP = [("run", name) for name in ("samples.png", "metrics.json", "reconstructions.png", "samples.npz")]


@pytest.mark.parametrize(("command", "place"), [*LINKS, *TOP[:3]])
def test_a_command_follows_nothing_out_of_the_folder(uldm, sent, tmp_path, command, place):
    whole = sent / place
    if whole.exists():
        whole.rename(tmp_path / "precious" / "own")
    else:
        (tmp_path / "precious" / "own").mkdir()
    whole.symlink_to(tmp_path / "precious" / "own")
    if command == "run":
        shutil.rmtree(sent / "stages/samples")
        shutil.rmtree(sent / "stages/scores")
    before = held(tmp_path / "precious")
    code, _, error = uldm(*COMMANDS[command])
    assert code == 2 and f"x/{place}: a symbolic link; a run's folder holds its own files" in error, error
    assert held(tmp_path / "precious") == before and not Path("y.npz").exists()


@pytest.mark.parametrize("place", ["stages", "stages/second/weights", "report.html"])
def test_a_page_or_a_comparison_names_the_link(uldm, sent, tmp_path, place):
    (sent / place).rename(tmp_path / "own")
    (sent / place).symlink_to(tmp_path / "own")
    before = held(tmp_path / "own") or (tmp_path / "own").read_bytes()
    code, _, error = uldm(*COMMANDS["compare"])
    assert code == 0 and ("a symbolic link" in Path("y.html").read_text()) == (place != "report.html")
    code, _, error = uldm(*COMMANDS["report"])
    assert "a symbolic link" in error
    assert (held(tmp_path / "own") or (tmp_path / "own").read_bytes()) == before


@pytest.mark.parametrize(
    ("command", "place", "content"),
    [
        ("sample", WEIGHTS, b""),
        ("sample", "stages/second/weights/latent_scaling.safetensors", b"\0" * 9),
        ("evaluate", SAMPLES, b""),
        ("evaluate", SAMPLES, b"PK\x05\x06" + b"\0" * 18),
        ("reconstruct", "stages/first/stage.json", b"[]"),
        ("codebook", "recipe.toml", b"\xff"),
        ("run", "stages/first/stage.json", b""),
    ],
)
def test_a_damaged_file_is_one_line_with_its_name_and_the_fix(uldm, sent, command, place, content):
    (sent / place).write_bytes(content)
    if place.endswith("stage.json"):
        (sent / "stages/first/stage_copy.json").unlink()
    code, _, error = uldm(*COMMANDS[command])
    assert code == 2 and "Traceback" not in error, error
    assert [line for line in error.splitlines() if f"x/{place}" in line], error
    assert "uldm run x" in error or place == "recipe.toml"


@pytest.mark.parametrize("what", ["damaged", "missing"])
def test_a_record_is_read_from_its_copy_and_repaired(uldm, sent, what):
    record = sent / "stages/first/stage.json"
    before = record.read_bytes()
    record.write_bytes(before.replace(b"true", b"false")) if what == "damaged" else record.unlink()
    said = "the checksum differs" if what == "damaged" else "missing"
    assert RunFolder(sent).stage("first").record().done
    with pytest.warns(RunWarning, match=rf"first/stage\.json: .*{said}"):
        TrainedRun.open(sent)
    code, _, error = uldm(*COMMANDS["run"])
    assert code == 0 and f"x/stages/first/stage.json: {'not what' if what == 'damaged' else said}" in error
    assert "nothing to do" in error and record.read_bytes() == before


def test_a_stage_without_any_record_is_archived_and_done_anew(uldm, sent):
    for record in (sent / "stages/second").glob("stage*.json"):
        record.unlink()
    code, _, error = uldm(*COMMANDS["run"])
    assert (
        code == 0
        and "stages/second has no record of its options: it is kept in x/set_aside/second-unknown" in error
    )
    assert (sent / "set_aside/second-unknown/weights").is_dir() and RunFolder(sent).stage(
        "second"
    ).record().done


def test_a_recipe_that_has_changed_is_said(uldm, sent):
    path = sent / "recipe.toml"
    path.write_text(path.read_text().replace("seed = 0", "seed  = 0"))
    with pytest.warns(
        RunWarning, match=r"x/recipe\.toml: it has changed since a run wrote it, by hand or by"
    ):
        TrainedRun.open(sent)
    assert "warning: x/recipe.toml: it has changed since a run wrote it" in uldm(*COMMANDS["run"])[2]
    TrainedRun.open(sent)


def damage(path, chance):
    """Flip a bit of a file, cut it short, empty it or remove it; of a log, whose end may be cut, a bit."""
    content, how = bytearray(path.read_bytes()), 0.5 if path.name == "events.jsonl" else chance.random()
    if how < 0.1:
        return path.unlink()
    if how < 0.7 and content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    else:
        del content[chance.randrange(len(content)) if how < 0.9 else 0 :]
    path.write_bytes(content)


NOT_CHECKED = {".lock", "report.html"}  # made anew when they are next used


def files_of(run):
    return sorted(path for path in run.rglob("*") if path.is_file() and path.name not in NOT_CHECKED)


def test_doctor_finds_damage_of_every_file(sent):
    chance = random.Random(0)
    assert {each.state for each in check_run(sent)} == {"whole"}
    assert len(check_run(sent)) == len(files_of(sent)) - 2 - 4, (
        "a checkpoint is two files, and so is a record"
    )
    for path in files_of(sent):
        content = path.read_bytes()
        damage(path, chance)
        named = {str(sent / each.file) for each in check_run(sent) if each.state == "damaged"}
        checkpoint = path.parent.parent.name == "checkpoints"
        removed = not path.exists() and path.name == "events.jsonl"
        of_it = (
            {str(path)}
            if not checkpoint
            else {str(each) for each in (path.parent, *path.parent.glob("*"), path)}
        )
        assert of_it & named or removed, path
        path.write_bytes(content)


def test_doctor_finds_links_foreign_records_and_what_may_not_be_read(sent, tmp_path, monkeypatch):
    checked = [path for path in files_of(sent) if path.name != "stage_copy.json"]
    seconds = {path for path in checked if path.name == "state.safetensors"}
    for number, path in enumerate(checked):
        there = path.rename(tmp_path / str(number))
        path.symlink_to(there)
    found = {sent / each.file for each in check_run(sent) if each.state == "damaged"}
    assert set(checked) - found <= seconds, "of a checkpoint its first file is named"
    for number, path in enumerate(checked):
        (tmp_path / str(number)).replace(path)
    status = (sent / "run.json").read_bytes()
    (sent / "run.json").write_text('{"state": "done"}')
    assert [each.file for each in check_run(sent) if each.state == "damaged"] == ["run.json"], "no checksum"
    (sent / "run.json").write_bytes(status)
    real = Path.open

    def forbidden(path, *args, **kwargs):
        if path.name in ("events.jsonl", "samples.npz"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    files._digest.cache_clear()
    monkeypatch.setattr(Path, "open", forbidden)
    found = {each.file: each.what for each in check_run(sent) if each.state == "damaged"}
    assert set(found) == {"events.jsonl", SAMPLES} and set(found.values()) == {
        "cannot be read: Permission denied"
    }


def test_doctor_says_stage_by_stage_what_is_whole(uldm, sent):
    code, out, error = uldm("doctor", "x")
    assert code == 0 and not error and out.splitlines()[-1].startswith("stages/second: 8 of 8 files"), out
    (sent / SAMPLES).write_bytes(b"")
    (sent / "stages/first/.0123456789abcdef.part").mkdir()
    code, out, _ = uldm("doctor", "x")
    assert code == 1 and f"    {SAMPLES}: damaged: it has changed since it was written: the checksum" in out
    assert "    stages/first/.0123456789abcdef.part: left behind: by a killed program" in out
    assert out.splitlines()[-1] == "not whole; what can be is made again by: uldm run x --out x"
    code, out, _ = uldm(*COMMANDS["doctor"])
    assert code == 1 and not json.loads(out)["whole"]
    code, _, error = uldm("doctor", "nowhere")
    assert code == 2 and "nowhere is not a run" in error


def test_a_damaged_artifact_is_made_again(uldm, sent):
    before = (sent / SAMPLES).read_bytes()
    (sent / SAMPLES).write_bytes(b"")
    code, out, error = uldm(*COMMANDS["run"])
    assert code == 0 and f"x/{SAMPLES} has changed since it was written" in out + error
    assert (sent / SAMPLES).read_bytes() == before


def test_pipes_are_not_waited_for(uldm, sent):
    for place in (WEIGHTS, SAMPLES, "run.json"):
        (sent / place).unlink()
        os.mkfifo(sent / place)
    for command in ("sample", "evaluate", "run"):
        code, _, error = uldm(*COMMANDS[command])
        assert code == 2 and "neither a file nor a folder" in error


@pytest.mark.parametrize("plant", [os.mkfifo, lambda path: path.symlink_to("run.json")])
def test_what_is_refused_where_the_lock_is_noted_stays_as_it_is(uldm, sent, plant):
    plant(sent / "lock.json")
    code, _, error = uldm(*COMMANDS["run"])
    assert code == 2 and error.startswith("error: x/lock.json: ") and "remove" not in error.splitlines()[0]
    assert os.path.lexists(sent / "lock.json")
    (sent / "lock.json").unlink()
    assert uldm(*COMMANDS["run"])[0] == 0


def test_an_empty_path_is_no_path(uldm, sent):
    shutil.copy(sent / "recipe.toml", "recipe.toml")
    for command in (
        ["run", "x", "--out", ""],
        ["report", ""],
        ["codebook", "x", "--out", ""],
        ["new", "recipe", ""],
    ):
        code, _, error = uldm(*command)
        assert code == 2 and "it is empty" in error
    assert not Path("stages").exists()


def test_a_recipe_that_somebody_wrote_is_not_written_over(uldm, small_run, tmp_path):
    text = (small_run.parent / "tiny.toml").read_text()
    Path("exp").mkdir()
    Path("exp/recipe.toml").write_text(text)
    for more in ([], ["--dry-run"]):
        code, _, error = uldm("run", "exp/recipe.toml", "--out", "exp", *more)
        assert code == 2 and "exp/recipe.toml is not of a run: a run would overwrite it" in error
    shutil.copytree(small_run, "x")
    shutil.copy("exp/recipe.toml", "x/recipe.toml")
    Path("exp/run.json").write_text("{}")
    Path("exp/stages").mkdir()
    for command in (["run", "exp"], ["run", "x"], ["run", "x/recipe.toml", "--out", "x"]):
        code, _, error = uldm(*command)
        assert code == 2 and "recipe.toml is not of a run: a run would overwrite it" in error
    assert Path("exp/recipe.toml").read_text() == Path("x/recipe.toml").read_text() == text


@pytest.mark.parametrize("content", ["../../x", "", "a b", "a\n\nb", "x" * 200])
def test_an_identifier_that_is_none_is_not_handed_on(tmp_path, content):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "id").write_text(content)
    with pytest.raises(MistakeError, match="wandb/id: no identifier of a run"):
        kept_id(tmp_path, "wandb", "id")


def test_trackers_write_into_no_folder_elsewhere(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "x").mkdir()
    start = RunStart(tmp_path / "x", "x", {}, ["first"], "")
    for name in ("tensorboard", "mlflow", "wandb"):
        (tmp_path / "x" / name).symlink_to(tmp_path / "precious")
    tensorboard = TensorBoard()
    tensorboard.begin(start)
    for act in (
        lambda: tensorboard.stage("first", 0, 1),
        lambda: MLflow().begin(start),
        lambda: kept_id(tmp_path / "x", "wandb", "id"),
    ):
        with pytest.raises(MistakeError, match="a symbolic link"):
            act()
    assert not list((tmp_path / "precious").iterdir())


@pytest.mark.slow
def test_a_database_of_mlflow_sends_no_images_elsewhere(tmp_path, monkeypatch):
    """A run that was moved stands for one whose database names another folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "x").mkdir()
    tracker = MLflow()
    tracker.begin(RunStart(tmp_path / "x", "x", {"seed": 0}, ["first"], ""))
    tracker.images("first", 1, "samples", torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    tracker.end("stopped")
    MLflow().begin(RunStart(tmp_path / "x", "x", {"seed": 0}, ["first"], ""))
    (tmp_path / "x").rename(tmp_path / "y")
    with pytest.raises(MistakeError, match=r"mlflow\.db: images of the run are kept elsewhere: file:"):
        MLflow().begin(RunStart(tmp_path / "y", "y", {"seed": 0}, ["first"], ""))
    (tmp_path / "y/mlflow/run_id").unlink()
    with pytest.raises(MistakeError, match="kept elsewhere"):
        MLflow().begin(RunStart(tmp_path / "y", "y", {"seed": 0}, ["first"], ""))
