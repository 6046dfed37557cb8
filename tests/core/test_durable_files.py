"""What is written survives a power cut, and what the system refuses to write is said in a line."""

import errno
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch

from uldm_core import RunError
from uldm_core.engine.run import run
from uldm_core.paths import copy, free_bytes, make_folder, move, remove, sweep, whole
from uldm_core.recipe import Recipe
from uldm_core.run_folder import stage_folder as folders
from uldm_core.run_folder.checkpoint import write_state
from uldm_core.run_folder.files import digest, read_record, write_bytes, write_record
from uldm_core.run_folder.folder import RunFolder


@pytest.fixture
def done(monkeypatch, tmp_path):
    """What is synced, replaced and removed, in order, by names; temporary names as ``part``."""
    found = []

    def name(path):
        return "part" if path.name.endswith(".part") else path.relative_to(tmp_path).as_posix()

    fsync, replace, rmtree = os.fsync, Path.replace, shutil.rmtree

    def synced(descriptor):
        found.append(f"sync {name(Path(os.readlink(f'/proc/self/fd/{descriptor}')))}")
        fsync(descriptor)

    def replaced(self, to):
        found.append(f"{name(self)} to {name(to)}")
        return replace(self, to)

    def removed(path):
        found.append(f"remove {name(path)}")
        rmtree(path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(shutil, "rmtree", removed)
    return found


def test_a_file_is_on_disk_before_its_name_is_and_then_its_folder(tmp_path, done):
    write_bytes(tmp_path / "a/b/x", b"1")
    assert done == ["sync .", "sync a", "sync part", "part to a/b/x", "sync a/b"]
    done.clear()
    copy(tmp_path / "a/b/x", tmp_path / "a/b/y")
    assert done == ["sync part", "part to a/b/y", "sync a/b"]


def test_a_folder_is_renamed_before_it_is_removed_and_both_parents_know(tmp_path, done):
    make_folder(tmp_path / "a")
    (tmp_path / "a/x").write_bytes(b"1")
    move(tmp_path / "a", tmp_path / "b/c")
    remove(tmp_path / "b/c")
    assert done[:1] == ["sync ."] and done[1:3] == ["sync .", "a to b/c"]
    assert sorted(done[3:5]) == ["sync .", "sync b"] and done[5:] == ["b/c to part", "sync b", "remove part"]


def test_a_checkpoint_is_on_disk_before_an_older_one_goes(tmp_path, done):
    write_state(tmp_path / "1", {"a": torch.ones(1)})
    assert done.index("part to 1") > max(i for i, what in enumerate(done) if what == "sync part")
    assert done[-2:] == ["part to 1", "sync ."]


def test_what_killed_programs_left_is_swept_and_nothing_else(tmp_path):
    ours, gone = ".0123456789abcdef.part", []
    others = [
        ".0123456789abcde.part",
        "0123456789abcdef.part",
        ".0123456789ABCDEF.part",
        "x.part",
        f"{ours}2",
    ]
    (tmp_path / "run/stages/first").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ours).write_text("of another")
    (tmp_path / "run/link").symlink_to(tmp_path / "elsewhere")
    for place in (tmp_path / "run", tmp_path / "run/stages/first"):
        for name in others:
            (place / name).write_text("kept")
        (place / ours).mkdir()
        (place / ours / "state.json").write_text("{}")
        (place / ours / ours).write_text("{}")
        gone.append(place / ours)
    (tmp_path / "run/stages" / ours).write_text("half a file")
    (tmp_path / "run/stages/.fedcba9876543210.part").symlink_to(tmp_path / "elsewhere")
    before = sum(len(files) for _, _, files in os.walk(tmp_path))
    assert set(sweep(tmp_path / "run")) >= set(gone)
    assert not [path for path in (tmp_path / "run").rglob(ours)]
    assert before - sum(len(files) for _, _, files in os.walk(tmp_path)) == 5
    assert (tmp_path / "elsewhere" / ours).read_text() == "of another"
    assert sweep(tmp_path / "run") == [] and sweep(tmp_path / "nowhere") == []


def test_a_removal_that_is_killed_leaves_what_is_swept(tmp_path, monkeypatch):
    (tmp_path / "x/y").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            remove(tmp_path / "x")
    assert not (tmp_path / "x").exists() and len(sweep(tmp_path)) == 1 and not list(tmp_path.iterdir())


REFUSALS = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "your quota of that disk is used up",
    errno.EFBIG: "ulimit -f",
    errno.EROFS: "mounted to be read only",
    errno.EACCES: "you may not write there",
}


@pytest.mark.parametrize("code", REFUSALS, ids=errno.errorcode.get)
@pytest.mark.parametrize("place", ["open", "fsync", "replace", "mkdir"])
def test_what_the_system_refuses_is_one_line(tmp_path, monkeypatch, code, place):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path if place in ("replace", "mkdir") else os, place, refuse)
    path = tmp_path / "new/x" if place == "mkdir" else path
    with pytest.raises(RunError) as error:
        write_bytes(path, b"1" * 1234567)
    monkeypatch.undo()
    (problem,) = error.value.problems
    assert problem.where.source == str(path.parent if place == "mkdir" else path)
    assert f"cannot be written: {os.strerror(code)}" in problem.what and REFUSALS[code] in problem.hint
    counted = code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    assert ("are free" in problem.what) == counted and "\n" not in problem.what
    assert ("1,234,567 bytes are needed" in problem.what) == (counted and place != "mkdir")
    assert (tmp_path / "x").read_bytes() == b"old" and [each.name for each in tmp_path.iterdir()] == ["x"]


def test_a_file_larger_than_allowed_leaves_the_old_one(tmp_path):
    write_bytes(tmp_path / "x", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 22, hard))
    try:
        with pytest.raises(
            RunError, match=r"x: cannot be written: File too large: 5,000,000 bytes are needed"
        ):
            write_bytes(tmp_path / "x", bytes(5_000_000))
        with pytest.raises(RunError, match=f"^{tmp_path}/checkpoints: cannot be written: File too large"):
            write_state(tmp_path / "checkpoints/1", {"a": torch.zeros(2_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "x").read_bytes() == b"old" and not list((tmp_path / "checkpoints").iterdir())


def test_an_error_of_reading_another_file_is_not_said_of_the_one_that_is_written(tmp_path):
    with pytest.raises(FileNotFoundError), whole(tmp_path / "x"):
        (tmp_path / "elsewhere" / "y").read_bytes()
    with pytest.raises(FileNotFoundError):
        copy(tmp_path / "none", tmp_path / "x")
    with pytest.raises(RunError, match="file: cannot be written: File exists"):
        write_bytes(write_bytes(tmp_path / "file", b"") or tmp_path / "file/y", b"")
    assert free_bytes(tmp_path / "no/such/place") > 0


def test_a_stage_is_done_only_when_its_files_are_on_disk(registry, write, tmp_path, monkeypatch):
    synced, failing = [], [False]
    real_sync, real_write = folders.sync, folders.write_record

    def sync(path):
        if failing[0] and path.name == "drawing.txt":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        synced.append(path.name)
        real_sync(path)

    def write_it(path, record):
        if record["done"] and path.name == "stage.json" and path.parent.name == "second":
            assert {"drawing.txt", "artifacts"} <= set(synced) and set(record["digests"]) == {
                "artifacts/drawing.txt"
            }
        real_write(path, record)

    monkeypatch.setattr(folders, "sync", sync)
    monkeypatch.setattr(folders, "write_record", write_it)
    resolved = Recipe.load(write()).resolve(registry)
    failing[0] = True
    with pytest.raises(RunError, match="stages/second: cannot be written: Input/output error"):
        run(resolved, out=tmp_path / "x")
    assert not RunFolder(tmp_path / "x").stage("second").record().done
    failing[0] = False
    run(resolved, out=tmp_path / "x")
    record = RunFolder(tmp_path / "x").stage("first").record()
    assert record.digests.keys() == record.files.keys() | {"metrics.jsonl"}


def test_a_digest_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    path, opened, real = tmp_path / "x", [], Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *a, **more: (opened.append(self), real(self, *a, **more))[1]
    )
    path.write_bytes(b"1")
    first = digest(path)
    assert digest(path) == first and opened.count(path) == 3, "within the clock's tick it may have changed"
    os.utime(path, ns=(10**18, 10**18))
    assert digest(path) == digest(path) == first and opened.count(path) == 4
    write_bytes(path, b"2")
    os.utime(path, ns=(10**18, 10**18))
    assert digest(path) != first, "another file of that size and time"


def test_a_record_knows_whether_it_is_as_it_was_written(tmp_path):
    path = tmp_path / "x.json"
    write_record(path, {"a": [1.5, None, float("inf")], "b": {"\ud800": "ü"}})
    assert read_record(path, dict) == {"a": [1.5, None, float("inf")], "b": {"\ud800": "ü"}}
    text = path.read_text()
    changes = [
        ("1.5", "1.25"),
        ('"a"', '"c"'),
        ('"format"', '"former"'),
        ('"checksum"', '"checksom"'),
        ('"uldm"', '"oldm"'),
    ]
    for old, new in changes:
        path.write_text(text.replace(old, new))
        with pytest.raises(Exception, match=r"x\.json: not what uldm writes there: it has changed since"):
            read_record(path, dict)
    path.write_text('{"a": 1}')
    assert read_record(path, dict) == {"a": 1}, "of an earlier version"
