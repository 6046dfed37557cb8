"""A run's folder that somebody sent: nothing is followed out of it, and what is damaged is said in a line."""

import json
import os
import random
import re
import shutil
import struct
from pathlib import Path

import pytest
import torch
from core.conftest import COMPONENTS, LOG, RECIPE, Coder, Codes, forge, sgd

from uldm_core import MistakeError, Registry, UldmError
from uldm_core.engine.opened_run import TrainedRun
from uldm_core.engine.progress import Silent
from uldm_core.engine.run import run
from uldm_core.errors import RunWarning
from uldm_core.paths import inside, listed, remove, whole
from uldm_core.preflight.forecast import forecast
from uldm_core.recipe import Recipe
from uldm_core.run_folder.checkpoint import write_state
from uldm_core.run_folder.files import read_tensors, write_bytes
from uldm_core.run_folder.folder import RunFolder
from uldm_plugins.commands.run_files import check_run

CHANGES = ("stages.first.steps=8", "stages.second.text=ho")
"""With these, a finished run goes on with its first stage, and sets the others aside: all is touched."""


@pytest.fixture(scope="module")
def components():
    own = Registry()
    for component in [*COMPONENTS, LOG]:
        own.register(component)
    return own


@pytest.fixture(scope="module")
def finished(components, tmp_path_factory):
    """A finished run of three stages."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "r.toml").write_text(RECIPE)
    path = run(Recipe.load(folder / "r.toml").resolve(components), out=folder / "x")
    images = path / "stages/first/images/samples"
    images.mkdir(parents=True)
    (images / "00000009.png").write_bytes(b"behind the last checkpoint")
    return path


@pytest.fixture
def sent(finished, tmp_path):
    """A copy of it, in the folder ``runs``, and beside that a folder of somebody's."""
    (tmp_path / "runs").mkdir()
    for name in ("1", "9", "first-0a-6"):
        (tmp_path / "precious" / name).mkdir(parents=True)
        (tmp_path / "precious" / name / "stage.json").write_text("precious")
    return shutil.copytree(finished, tmp_path / "runs" / "x")


class Said(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


def resumes(path, registry, changes=CHANGES):
    """Go on with a run as ``uldm run PATH CHANGES`` does; return what was said, errors included."""
    said = Said()
    try:
        run(Recipe.load(path, changes).resolve(registry), out=path, reporter=said)
    except UldmError as error:
        said.messages.append(str(error))
    return "\n".join(message for message in said.messages if not message.startswith("component "))


def held(folder):
    """Return all that is in a folder, links as links."""
    paths = sorted(folder.rglob("*"))
    return {
        str(path): os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        for path in paths
        if not path.is_fifo()
    }


FOLDERS = (
    "stages",
    "stages/first",
    "stages/first/weights",
    "stages/first/checkpoints",
    "stages/first/checkpoints/6",
    "stages/first/images",
    "stages/first/images/samples",
    "stages/second/artifacts",
    "set_aside",
)
FILES = (
    ".lock",
    "recipe.toml",
    "run.json",
    "environment.json",
    "stages/first/stage.json",
    "stages/first/metrics.jsonl",
    "stages/first/weights/autoencoder.safetensors",
    "stages/first/checkpoints/6/state.json",
    "stages/first/checkpoints/6/state.safetensors",
    "stages/first/images/samples/00000009.png",
    "stages/second/artifacts/drawing.txt",
)


def outwards(path, outside, run):
    """Put a link in a thing's place to the same thing elsewhere."""
    if path.exists():
        path.rename(outside)
    path.symlink_to(outside)


def to_precious(path, outside, run):
    remove(path)
    precious = outside.parent / "1"
    path.symlink_to(precious if path.suffix == "" and path.name != ".lock" else precious / "stage.json")


def dangling(path, outside, run):
    remove(path)
    path.symlink_to(outside)


def within(path, outside, run):
    """Put a link to a thing of the same run."""
    kept = run / "kept"
    path.rename(kept) if path.exists() else kept.mkdir()
    path.symlink_to(kept)


def pipe(path, outside, run):
    remove(path)
    os.mkfifo(path)


def other_kind(path, outside, run):
    """Put a file in a folder's place, a folder in a file's."""
    folder = path.is_dir() or path.name == "set_aside"
    remove(path)
    path.write_text("{}") if folder else (path / "0").mkdir(parents=True)


TRIED = ("stages/first", "stages/first/checkpoints", "run.json", "stages/first/metrics.jsonl", FILES[6])
"""Places at which everything is tried that may be there."""


@pytest.mark.parametrize(
    ("place", "plant"),
    [(place, outwards) for place in (*FOLDERS, *FILES)]
    + [(place, plant) for place in TRIED for plant in (to_precious, dangling, within, pipe, other_kind)]
    + [("recipe.toml", pipe), ("recipe.toml", dangling), ("set_aside", other_kind), (".lock", dangling)],
)
def test_nothing_is_followed_out_of_a_run_that_resumes(sent, components, tmp_path, place, plant):
    plant(sent / place, tmp_path / "precious" / "own", sent)
    before, kept = held(tmp_path / "precious"), held(sent / "kept")
    if place == "recipe.toml" and plant in (dangling, pipe, other_kind):
        with pytest.raises(MistakeError):
            TrainedRun.open(sent, registry=components)
        return
    if place.startswith("stages/second"):  # which is read by the third, if that is still to be done
        shutil.rmtree(sent / "stages/third")
        said = resumes(sent, components, changes=())
    else:
        said = resumes(sent, components)
    passed_over = plant is other_kind and "images" in place
    assert str(sent / place) in said or passed_over, said
    assert said.count("\n") < 9 and "Traceback" not in said
    assert held(tmp_path / "precious") == before and held(sent / "kept") == kept


def test_a_run_may_be_reached_through_a_link_and_its_files_may_have_other_names(sent, components, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    os.link(sent / "stages/first/weights/autoencoder.safetensors", tmp_path / "precious" / "hard")
    os.link(sent / "stages/first/metrics.jsonl", tmp_path / "precious" / "log")
    before = held(tmp_path / "precious")
    assert "done in" in resumes(tmp_path / "link" / "x", components)
    assert held(tmp_path / "precious") == before
    assert TrainedRun.open(tmp_path / "link" / "x", registry=components).component("autoencoder")


def test_a_run_in_a_folder_whose_name_is_not_utf8_is_opened_and_resumed(sent, components):
    path = sent.rename(sent.parent / os.fsdecode(b"\xff"))
    assert TrainedRun.open(path, registry=components).component("autoencoder")
    said = resumes(path, components)
    assert "done in" in said and "skipped" not in said


def test_old_names_of_unfinished_files_are_not_written_through(sent, components, tmp_path):
    places = ["recipe.toml", "run.json", "environment.json", "stages/first/stage.json"]
    places += ["stages/first/checkpoints/8", "stages/first/weights/autoencoder.safetensors"]
    for place in places:
        (sent / f"{place}.part").symlink_to(tmp_path / "precious" / "1" / "stage.json")
    before = held(tmp_path / "precious")
    assert "done in" in resumes(sent, components)
    assert held(tmp_path / "precious") == before


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "content",
    [
        "x/../../../precious",
        "../../precious/1",
        "..",
        "/etc",
        "",
        "a\0b",
        "a" * 5000,
        5,
        None,
        {"a": 1},
    ],
    ids=repr,
)
def test_a_key_that_is_none_becomes_no_path(sent, components, tmp_path, content):
    before = held(tmp_path)
    record = json.loads((sent / "stages/first/stage.json").read_text())
    record["key"]["content"] = content
    forge(sent / "stages/first/stage.json", record)
    said = resumes(sent, components)
    assert f"{sent / 'stages/first/stage.json'}: not what uldm writes there" in said and "uldm run" in said
    assert {path for path in before if "precious" in path} <= held(tmp_path).keys()


RECORDS = {
    "empty": "",
    "cut": '{"key": {"con',
    "deep": DEEP,
    "deep_pairs": '{"a":' * 100_000,
    "list": "[]",
    "nothing": "null",
    "number": "1e999",
    "bytes": b"\xff\xfe\x00",
    "no_key": "{}",
    "more": {"colour": 1},
    "done": {"done": "yes"},
    "nan": {"seconds": float("nan")},
    "infinite": {"seconds": float("inf")},
    "negative": {"seconds": -1},
    "summary": {"summary": {"a": "b"}},
    "summary_list": {"summary": [1]},
    "steps": {"key": {"content": "0a", "steps": -1}},
    "steps_text": {"key": {"content": "0a", "steps": "3"}},
    "steps_long": {"key": {"content": "0a", "steps": 10**300}},
    "made_of": {"key": {"content": "0a", "made_of": 3}},
    "adjusted": {"adjusted": [{"step": 3}]},
    "adjusted_to": {"adjusted": [{"step": 3, "options": {"lr": 0.1}}]},
    "adjusted_at": {"adjusted": [{"step": -3, "options": {}}]},
    "adjustable": {"key": {"content": "0a", "adjustable": [3]}},
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_is_none_is_said_in_a_line(sent, components, name):
    path, new = sent / "stages/first/stage.json", RECORDS[name]
    forge(path, json.loads(path.read_text()) | new if isinstance(new, dict) else new)
    for act in (
        lambda: run(Recipe.load(sent, CHANGES).resolve(components), out=sent),
        lambda: TrainedRun.open(sent, registry=components),
        lambda: forecast(Recipe.load(sent).resolve(components), sent),
    ):
        with pytest.raises(MistakeError) as error:
            act()
        (problem,) = error.value.problems
        assert str(problem).startswith(str(sent / "stages/first"))
        assert "\n" not in problem.what and len(problem.what) < 400


def header(said):
    text = json.dumps(said).encode() if isinstance(said, dict) else said
    return struct.pack("<Q", len(text)) + text


TENSORS = {
    "empty": b"",
    "seven_bytes": b"\0" * 7,
    "long_header": struct.pack("<Q", 2**62),
    "no_json": header(b"\xff" * 50),
    "deep": header(DEEP.encode()),
    "others": header({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}) + b"\0" * 12,
    "other_shape": header({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + b"\0" * 4,
    "huge_shape": header({"weight": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}),
    "cut": header({"weight": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}) + b"\0" * 5,
    "odd_type": header({"weight": {"dtype": "X7", "shape": [3], "data_offsets": [0, 12]}}) + b"\0" * 12,
}


@pytest.mark.parametrize("name", TENSORS)
def test_weights_that_are_none_are_said_in_a_line(sent, components, name):
    path = sent / "stages/first/weights/autoencoder.safetensors"
    path.write_bytes(TENSORS[name])
    with pytest.raises(MistakeError) as error:
        TrainedRun.open(sent, registry=components).component("autoencoder")
    (problem,) = error.value.problems
    assert str(path) in str(problem) and "\n" not in problem.what
    assert "uldm run" in problem.hint and f"--out {sent}" in problem.hint


def test_weights_of_another_shape_are_said_by_their_names(sent, components):
    path, shape = sent / "stages/first/weights/autoencoder.safetensors", TENSORS["other_shape"]
    path.write_bytes(shape)
    record = json.loads((sent / "stages/first/stage.json").read_text())
    forge(sent / "stages/first/stage.json", {**record, "files": {}, "digests": {}})
    with pytest.raises(MistakeError, match=r"weight is \[3\] here and \[1\] there") as error:
        TrainedRun.open(sent, registry=components).component("autoencoder")
    (problem,) = error.value.problems
    assert (
        problem.where.source == str(path) and f"remove {sent / 'stages/first'} and run again" in problem.hint
    )


STATES = {
    "empty": "",
    "deep": DEEP,
    "deep_lists": '{"list":[' * 50_000,
    "list": "[]",
    "two": '{"list": [], "dict": []}',
    "form": '{"pickle": "x"}',
    "tensor": '{"tensor": "999"}',
    "tensor_list": '{"tensor": []}',
    "pairs": '{"dict": [[1, 2, 3]]}',
    "unhashable": '{"dict": [[[], {"value": 1}]]}',
    "no_dict": '{"value": 3}',
    "missing_part": '{"dict": []}',
    "other_parts": '{"dict": [["autoencoder", {"value": 1}], ["optimizer", {"list": []}]]}',
}
OF_ANOTHER_RECIPE = ("no_dict", "missing_part", "other_parts")


@pytest.mark.parametrize("name", [name for name in STATES if name not in OF_ANOTHER_RECIPE])
def test_a_state_that_is_none_is_skipped_with_a_line(sent, components, name):
    path = sent / "stages/first/checkpoints/6/state.json"
    path.write_text(STATES[name])
    said = resumes(sent, components)
    (line,) = [line for line in said.splitlines() if "skipped" in line]
    assert line.startswith(f"warning: stages.first: the checkpoint of step 6 is skipped ({path}: ")
    assert line.endswith("; no other is whole: training begins at step 0") and re.search(
        r"done in \d+ s$", said
    )


@pytest.mark.parametrize("name", OF_ANOTHER_RECIPE)
def test_a_state_of_another_recipe_is_said_in_a_line(sent, components, name):
    checkpoint = sent / "stages/first/checkpoints/6"
    (checkpoint / "state.json").write_text(STATES[name])
    with pytest.raises(MistakeError) as error:
        run(Recipe.load(sent, CHANGES).resolve(components), out=sent)
    (problem,) = error.value.problems
    assert (
        str(problem).startswith(str(checkpoint)) and "\n" not in problem.what and "uldm run" in problem.hint
    )


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_a_state_of_which_a_file_is_missing_is_skipped_and_an_earlier_one_taken(sent, components, name):
    checkpoints = RunFolder(sent).stage("first").checkpoints
    checkpoints.save(5, checkpoints.load(6))
    (sent / "stages/first/checkpoints/6" / name).unlink()
    said = resumes(sent, components)
    assert f"6/{name}: missing); that of step 5 is taken" in said and "done in" in said
    assert checkpoints.steps() == [5, 8], "the damaged one is gone"


def read_all(sent, components, path):
    """Read what a run's folder holds, as opening and going on with it does."""
    if path.suffix in (".toml", ".safetensors"):
        TrainedRun.open(sent, registry=components).component("autoencoder")
    parts = {"autoencoder": Coder(1, Codes(16)), "optimizer": sgd([torch.nn.Parameter(torch.zeros(3))])}
    for name in ("first", "second", "third"):
        RunFolder(sent).stage(name).record()
    state = RunFolder(sent).stage("first").checkpoints.load(6)
    RunFolder(sent).stage("first").checkpoints.restore(6, state, parts)


def go_on(sent, components, path):
    run(Recipe.load(sent, CHANGES).resolve(components), out=sent)


@pytest.mark.parametrize(
    ("act", "times"), [(read_all, 16), pytest.param(go_on, 40, marks=pytest.mark.slow)], ids=["read", "go_on"]
)
def test_any_bytes_of_any_file_end_in_a_line_or_in_success(finished, components, tmp_path, act, times):
    """Flip and cut every file, many times over: nothing but errors of ours, or the file is made again."""
    chance = random.Random(0)
    files = [path for path in finished.rglob("*") if path.is_file() and path.stat().st_size]
    files = sorted(path.relative_to(finished) for path in files if path.suffix != ".png")
    said = 0
    for number in range(times * len(files)):
        if act is go_on or not number:
            sent = shutil.copytree(finished, tmp_path / str(number))
        path = sent / files[number % len(files)]
        whole = path.read_bytes()
        content = bytearray(whole)
        for _ in range(number // len(files) % 4):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        if number // len(files) % 4 == 0:
            del content[chance.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            act(sent, components, path)
            said += not path.is_file() or path.read_bytes() != content
        except RunWarning:
            said += 1
        except UldmError as error:
            said += 1
            assert all("\n" not in problem.what for problem in error.problems), error
        if act is read_all:
            path.write_bytes(whole)
    assert said > times


FOLDERS_OF_EARLIER_VERSIONS = sorted(Path(__file__).with_name("run_folders").iterdir())
"""Finished runs of ``RECIPE``, as programs of earlier versions left them: records of bare keys; with the data
as a list; with sizes of files; with digests of files, and none of them with a checksum or a format."""


@pytest.mark.parametrize("earlier", FOLDERS_OF_EARLIER_VERSIONS, ids=lambda path: path.name)
def test_a_run_of_an_earlier_version_opens_and_resumes(components, tmp_path, earlier):
    sent = shutil.copytree(earlier, tmp_path / "x")
    assert {each.state for each in check_run(sent)} <= {"whole", "unchecked"}
    weights = read_tensors(earlier / "stages/first/weights/autoencoder.safetensors")["weight"]
    opened = TrainedRun.open(sent, registry=components)
    assert opened.refused == {} and torch.equal(opened.component("autoencoder").weight, weights)
    assert opened.artifact("drawing.txt").read_text() == f"hello {weights.tolist()}"
    state = RunFolder(sent).stage("first").checkpoints.load(6)
    assert torch.equal(state["autoencoder"]["weight"], weights)
    said = resumes(sent, components)
    assert "done in" in said and "changed since" not in said, said
    assert "nothing to do" in resumes(sent, components, changes=CHANGES)
    assert {each.state for each in check_run(sent) if not each.stage} == {"whole"}
    assert TrainedRun.open(sent, registry=components).component("autoencoder")


@pytest.mark.parametrize("name", ["run.json", "stages/first/stage.json", "recipe.toml"])
def test_a_run_of_a_later_version_is_refused_by_name(sent, components, name):
    path, before = sent / name, held(sent)
    text = path.read_text()
    path.write_text(text.replace('"format": 2', '"format": 99').replace("uldm = 1", "uldm = 99"))
    assert path.read_text() != text
    for act in (lambda: TrainedRun.open(sent, registry=components), lambda: go_on(sent, components, path)):
        with pytest.raises(
            MistakeError, match=r"recipe format 99 is not known|of format 99, which uldm '0\.1\.0'"
        ) as error:
            act()
        problem = error.value.problems[0]
        assert str(path) in str(problem) and problem.hint == "upgrade uldm: pip install -U uldm"
    assert {name: held(sent)[name] for name in before if name != str(path)} == {
        name: before[name] for name in before if name != str(path)
    }


def test_what_a_crash_left_and_what_is_not_ours_is_distinguished(tmp_path):
    folder = RunFolder(tmp_path).stage("s")
    (folder.path / "checkpoints" / "notes").mkdir(parents=True)
    (folder.path / "checkpoints" / ".0a1b.part").mkdir()
    (folder.path / "checkpoints" / "²").mkdir()
    folder.checkpoints.save(3, {})
    folder.checkpoints.save(4, {})
    folder.checkpoints.prune(1)
    assert sorted(path.name for path in (folder.path / "checkpoints").iterdir()) == ["4", "notes", "²"]
    with pytest.raises(TypeError):
        write_state(folder.path / "checkpoints" / "5", {"a": object()})
    assert folder.checkpoints.last() == 4 and len(listed(folder.path / "checkpoints")) == 3


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/etc", "a\\b", "a\0b", "a\nb", "x" * 256, "ü" * 128], ids=ascii
)
def test_what_is_no_name_of_a_file_becomes_no_path(tmp_path, name):
    for make in (RunFolder(tmp_path).stage, RunFolder(tmp_path).file, RunFolder(tmp_path).stage("s").inside):
        with pytest.raises(MistakeError, match="no name of a file"):
            make(name)
    assert inside(tmp_path, "x" * 255, "ü" * 127)


def test_a_file_that_a_person_names_is_written_whole_through_their_link(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "real")
    write_bytes(tmp_path / "out", b"1")
    write_bytes(tmp_path / "out", b"2")
    assert (tmp_path / "disk" / "real").read_bytes() == b"2" and (tmp_path / "out").is_symlink()
    with pytest.raises(ZeroDivisionError), whole(tmp_path / "out") as file:
        file.write(b"3")
        raise ZeroDivisionError
    assert (tmp_path / "out").read_bytes() == b"2" and len(list((tmp_path / "disk").iterdir())) == 1
    write_bytes(Path("/dev/null"), b"4")
    assert Path("/dev/null").is_char_device()
    reading, writing = os.pipe()
    write_bytes(Path(f"/dev/fd/{writing}"), b"5")
    assert os.read(reading, 9) == b"5"
    with pytest.raises(MistakeError, match="a folder where a file is to be written"):
        write_bytes(tmp_path / "disk", b"5")


def test_temporary_names_are_not_to_be_known_beforehand(tmp_path, monkeypatch):
    names = set()
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (names.add(self.name), replace(self, to))[1])
    for _ in range(9):
        write_bytes(tmp_path / "x", b"1")
        write_state(tmp_path / "1", {"a": torch.ones(1)})
    assert len(names) == 37 and [path.name for path in listed(tmp_path)] == ["1", "x"]
    assert torch.equal(read_tensors(tmp_path / "1" / "state.safetensors")["0"], torch.ones(1))


def test_a_recipe_that_somebody_wrote_is_not_written_over(components, tmp_path):
    text = RECIPE.replace("seed = 3", "seed = 3  # mine")
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "recipe.toml").write_text(text)
    resolved = Recipe.load(tmp_path / "exp" / "recipe.toml").resolve(components)
    for act in (lambda: run(resolved, out=tmp_path / "exp"), lambda: run(resolved, out="")):
        with pytest.raises(MistakeError, match=r"is not of a run: a run would overwrite it|out is empty"):
            act()
    assert (tmp_path / "exp" / "recipe.toml").read_text() == text
    assert [path.name for path in (tmp_path / "exp").iterdir()] == ["recipe.toml"]
    made = run(resolved, out=tmp_path / "x")
    again = run(Recipe.load(made / "recipe.toml").resolve(components), out=made)
    shutil.rmtree(made / "stages")
    (made / "run.json").unlink()  # a run that was killed before it began
    assert run(Recipe.load(made).resolve(components), out=made) == again == made


def test_a_state_of_an_earlier_version_has_no_checksum_and_one_that_changed_is_said(sent, components):
    path = sent / "stages/first/checkpoints/6/state.json"
    state = json.loads(path.read_text())
    assert len(state.pop("checksum")) == 32
    path.write_text(json.dumps(state).replace("0.9", "0.8") + " ")
    assert resumes(sent, components).count("done in") == 1
    path = sent / "stages/first/checkpoints/8/state.json"
    path.write_text(path.read_text().replace("0.8", "0.9"))
    with pytest.raises(MistakeError, match=r"8/state\.json: .*the checksum differs"):
        RunFolder(sent).stage("first").checkpoints.load(8)
