"""The cache of packed arrays: whole, shared between processes, continued, never stale."""

import multiprocessing
import os
import signal
import time
import warnings

import numpy as np
import pytest
import torch

from uldm_core import RunError
from uldm_plugins.shared import cache

SHAPE = (100, 3, 4, 5)
VALUES = np.random.default_rng(0).integers(256, size=SHAPE, dtype=np.uint8)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    return tmp_path / "packed"


@pytest.fixture
def starts():
    return []


def pack(starts, key="images", values=VALUES, **others):
    def batches(start):
        starts.append(start)
        return (values[place : place + 8] for place in range(start, len(values), 8))

    return cache.packed(key, others.get("shape", values.shape), others.get("dtype", values.dtype), batches)


def forked(call):
    """Do something in a process of its own, and return its exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, none of which is used there
        process = multiprocessing.get_context("fork").Process(target=call)
        process.start()
    process.join()
    return process.exitcode


def test_an_array_is_made_once(folder, starts):
    first, second = pack(starts), pack(starts)
    assert starts == [0] and np.array_equal(first, VALUES) and np.array_equal(second, VALUES)
    assert not first.flags.writeable and not list(folder.glob("*.part"))
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".lock", ".npy"]
    assert np.array_equal(np.load(next(folder.glob("*.npy"))), VALUES)
    indices = torch.tensor([99, 0, 3, 0])
    taken = cache.rows(first, indices)
    assert torch.equal(taken, torch.from_numpy(VALUES[indices.numpy()]))
    taken.zero_()
    assert np.array_equal(first, VALUES)
    with pytest.raises(IndexError):
        cache.rows(first, torch.tensor([100]))


def test_another_key_shape_or_type_is_another_array(folder, starts):
    pack(starts)
    others = [VALUES.reshape(100, 60), VALUES.astype(np.float16)]
    for other in others:
        assert np.array_equal(pack(starts, values=other), other)
    assert np.array_equal(pack(starts, "inverted", 255 - VALUES), 255 - VALUES)
    assert np.array_equal(pack(starts), VALUES) and starts == [0] * 4
    assert pack(starts, values=VALUES[:0]).shape == (0, 3, 4, 5) and len(starts) == 4


def test_tensors_can_be_packed(folder):
    tensor = torch.arange(6, dtype=torch.float32).view(3, 2)
    assert np.array_equal(cache.packed("t", (3, 2), np.float32, lambda start: [tensor[start:]]), tensor)


@pytest.mark.parametrize("note_every", [0.0, 1e9])
def test_what_a_killed_process_has_done_is_kept(folder, starts, monkeypatch, note_every):
    monkeypatch.setattr(cache, "_NOTE_EVERY", note_every)
    monkeypatch.setattr(cache, "_WORTH", 0)

    def batches(start):
        yield VALUES[:40]
        yield VALUES[40:56]
        os.kill(os.getpid(), signal.SIGKILL)

    killed = forked(lambda: cache.packed("images", SHAPE, np.uint8, batches))
    assert killed == -signal.SIGKILL and not list(folder.glob("*.npy"))
    assert np.array_equal(pack(starts), VALUES) and starts == [0 if note_every else 56]


def test_an_array_that_lacks_its_name_only_gets_it(folder, starts, monkeypatch):
    def cut(source, target):
        if str(target).endswith(".npy"):
            raise OSError(5, "power cut")
        real(source, target)

    real = os.replace
    with monkeypatch.context() as patch, pytest.raises(RunError, match="power cut"):
        patch.setattr(os, "replace", cut)
        pack(starts)
    assert np.array_equal(pack(starts), VALUES) and starts == [0]


def test_a_second_process_waits_and_uses_what_the_first_makes(folder, starts, caplog):
    caplog.set_level("INFO", "uldm_plugins")

    def slow(start):
        for place in range(0, 100, 20):
            time.sleep(0.08)
            yield VALUES[place : place + 20]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = multiprocessing.get_context("fork")
        process = context.Process(target=lambda: cache.packed("images", SHAPE, np.uint8, slow))
        process.start()
    while not list(folder.glob("*.part")):
        time.sleep(0.005)
    assert np.array_equal(pack(starts), VALUES) and not starts
    assert "another process is packing the same images" in caplog.text
    process.join()


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def foreign(path):
    with path.open("wb") as file:
        np.save(file, 255 - VALUES)


def zeroed(path):
    content = path.read_bytes()
    path.write_bytes(content[:128] + bytes(len(content) - 128))


def absent(path):
    path.unlink()


@pytest.mark.parametrize("ending", ["npy", "json"])
@pytest.mark.parametrize("damage", [cut, foreign, zeroed, absent])
def test_a_damaged_or_foreign_file_is_never_used(folder, starts, ending, damage):
    pack(starts)
    (path,) = folder.glob(f"*.{ending}")
    damage(path)
    assert np.array_equal(pack(starts), VALUES) and starts == [0, 0]


def test_too_little_space_is_said_before(folder, starts, monkeypatch):
    monkeypatch.setattr(cache, "free_bytes", lambda path: 5_999)
    with pytest.raises(RunError, match=r"packed: 6,000 bytes are needed, 5,999 are free\n    make room"):
        pack(starts)
    assert not starts


def test_rows_that_do_not_fit_are_refused(folder):
    for given, error in (([VALUES[:50]], RunError), ([VALUES, VALUES], ValueError), ([VALUES[0]], TypeError)):
        with pytest.raises(error):
            cache.packed("wrong", SHAPE, np.uint8, lambda start, given=given: given)
    with pytest.raises(TypeError):
        cache.packed("wrong", SHAPE, np.uint8, lambda start: [VALUES.astype(float)])


def test_what_nobody_used_for_a_month_is_removed(folder, starts):
    pack(starts, "old"), pack(starts, "used")
    month = time.time() - 31 * 24 * 3600
    (folder / "killed.part").touch()
    for path in folder.iterdir():
        os.utime(path, (month, month))
    pack(starts, "used")
    pack(starts, "new")
    assert [len(list(folder.glob(f"*.{ending}"))) for ending in ("npy", "json", "part")] == [2, 2, 0]
    pack(starts, "used"), pack(starts, "new")
    assert starts == [0, 0, 0]


def test_progress_is_logged(folder, starts, monkeypatch, caplog):
    monkeypatch.setattr(cache, "_LOG_EVERY", 0.0)
    monkeypatch.setattr(cache, "_LARGE", 6_000)
    caplog.set_level("INFO", "uldm_plugins")
    pack(starts)
    assert "packing 100 images, 0.0 GB: " in caplog.text and "packed 96 of 100 images" in caplog.text
