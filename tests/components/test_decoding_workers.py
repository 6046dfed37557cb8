"""Worker processes that decode images: the same pixels and the same errors, and nothing left of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from uldm_core import registry
from uldm_plugins.shared import decoding_workers
from uldm_plugins.shared.decoding_workers import Decoding, _Worker, _workers
from uldm_plugins.shared.files import Reading

COUNT = 40
EVERY = torch.arange(COUNT)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding_workers, "FEW", 0)
    monkeypatch.setattr(decoding_workers, "cores", lambda: 2)
    monkeypatch.setattr(_Worker, "usable", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(COUNT):
        Image.fromarray(draw.integers(256, size=(9, 12, 4), dtype=np.uint8)).save(place(tmp_path, index))
    place(tmp_path, 7).rename(tmp_path / "images" / os.fsdecode(b"a\n\xff.png"))
    return tmp_path / "images"


def place(tmp_path, index):
    return tmp_path / "images" / f"{index:02}.png"


def images_of(folder, **options):
    """Return all images of a folder of which a share is drawn for testing, in the order of the splits."""
    dataset = registry.build("dataset", "image_folder", root=folder, size=(8, 10), **options)
    splits = map(dataset.split, dataset.splits)
    return dataset, torch.cat([split.images(torch.arange(len(split))) for split in splits])


def running():
    return [worker._process.pid for worker in _workers if worker._process]


def decode(folder):
    reading, paths = Reading((8, 10), 3), sorted(folder.iterdir())
    return Decoding(reading, paths, lambda number: reading.read(paths[number]), COUNT).result()


def test_workers_give_the_images_that_threads_give(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(decoding_workers, "FEW", COUNT)
        few = {pack: images_of(folder, pack=pack)[1] for pack in (True, False)}
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "other cache"))
    monkeypatch.setattr(Reading, "read", None)
    monkeypatch.setattr(Reading, "decode", None)  # here, not in the workers
    for pack in (True, False):
        assert torch.equal(images_of(folder, pack=pack)[1], few[pack])
    assert running()
    assert torch.equal(few[True], few[False])


@pytest.mark.parametrize("how", ["damaged", "gone", "a pipe"])
def test_a_file_that_breaks_is_named(folder, how):
    dataset, _ = images_of(folder, pack=False)
    path = dataset.paths[3]
    path.unlink()
    if how == "damaged":
        path.write_text("no image")
    elif how == "a pipe":
        os.mkfifo(path)
    dataset.prefetch(torch.tensor([2, 3]))
    with pytest.raises(ValueError, match=rf"{path.name} cannot be decoded \(.*\): remove or replace it"):
        dataset.images(torch.tensor([2, 3]))
    assert len(dataset.images(torch.tensor([2, 4]))) == 2


def test_what_packing_notes_of_files_is_the_same(folder, caplog):
    frames = [Image.new("L", (9, 9), shade) for shade in (0, 200)]
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    (folder / "bad.png").write_bytes((folder / "00.png").read_bytes()[:-40])
    dataset, _ = images_of(folder)
    assert [*dataset.left_out] == ["bad.png"] and len(dataset._files) == COUNT + 2
    assert "1 animated (film.gif)" in caplog.text


def test_a_worker_that_ends_is_replaced_and_nothing_is_lost(folder, caplog):
    wanted = decode(folder)
    before = running()
    for process in before:
        os.kill(process, signal.SIGKILL)
    assert np.array_equal(decode(folder), wanted)
    assert "a process that decodes images ended" in caplog.text and "status -9" in caplog.text
    caplog.clear()
    assert np.array_equal(decode(folder), wanted) and not caplog.text
    assert running() and not {*running()} & {*before}


@pytest.mark.parametrize("start", ["print('a greeting of some length')", "raise SystemExit(3)"])
def test_where_no_worker_can_be_started_images_are_decoded_here(folder, monkeypatch, caplog, start):
    wanted = decode(folder)
    for worker in _workers:
        worker.stop()
    monkeypatch.setattr(decoding_workers, "_START", start)
    assert np.array_equal(decode(folder), wanted) and not running()
    assert "a process that decodes images ended" in caplog.text
    caplog.clear()
    assert np.array_equal(decode(folder), wanted) and not caplog.text


@pytest.mark.parametrize("child", [True, False])
def test_neither_a_child_of_a_loader_nor_one_core_has_workers(folder, monkeypatch, child):
    monkeypatch.setattr("multiprocessing.parent_process", lambda: object() if child else None)
    monkeypatch.setattr(decoding_workers, "cores", lambda: 2 if child else 1)
    monkeypatch.setattr(_Worker, "decode", None)
    decode(folder)


SCRIPT = """
import os, sys, time
from pathlib import Path
from uldm_plugins.shared import decoding_workers
from uldm_plugins.shared.decoding_workers import Decoding, _workers
from uldm_plugins.shared.files import Reading

decoding_workers.cores = lambda: 2
reading, paths = Reading((8, 10), 3), sorted(Path(sys.argv[1]).iterdir())
decode = lambda: Decoding(reading, paths, lambda number: 1 / 0, 10_000).result()
pids = lambda: [worker._process.pid for worker in _workers]
images = decode()
assert "torch" not in sys.modules
before = pids()
child = os.fork()
assert (decode() == images).all() and bool({*pids()} & {*before}) != (not child)
if not child:
    os.kill(pids()[0], 0)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
if sys.argv[2] == "ends":
    print(*before)
    sys.exit()
try:
    print(*before, flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    assert (decode() == images).all() and pids() == before
    print("stopped")
"""
"""Has no guard: were it imported by workers, these would start workers."""


def is_running(process):
    """Whether a process has not ended: perhaps nobody has asked for its exit status yet."""
    try:
        return ") Z" not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ends", "SIGINT", "SIGKILL"])
def test_workers_end_with_the_program_and_do_not_hear_ctrl_c(folder, tmp_path, how):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-W", "error", tmp_path / "script.py", folder, how]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, start_new_session=True) as program:
        workers = [int(number) for number in program.stdout.readline().split()]
        time.sleep(0.2)
        if how == "SIGINT":
            os.killpg(program.pid, signal.SIGINT)
        elif how == "SIGKILL":
            program.kill()
        out, errors = program.communicate(timeout=20)
    assert workers and not errors and ("stopped" in out) is (how == "SIGINT")
    until = time.monotonic() + 5
    while any(map(is_running, workers)):
        assert time.monotonic() < until, f"{workers} are still there"
        time.sleep(0.02)
