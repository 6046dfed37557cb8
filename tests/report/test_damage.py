"""A page of a run that somebody sent: it shows what is there, says what is damaged, and follows nothing."""

import io
import os
import random
import struct
import zipfile
import zlib

import numpy as np
import pytest
from click.testing import CliRunner

from uldm_core import MistakeError
from uldm_core.cli import main as program
from uldm_plugins.report.comparison import comparison_of
from uldm_plugins.report.page import report_of, write_report
from uldm_plugins.shared import arrays
from uldm_plugins.shared.arrays import first_of, read_arrays, save_arrays
from uldm_plugins.stages.sample import load_images

SCORES, SAMPLES = "stages/scores/artifacts", "stages/samples/artifacts"


def said_of(path):
    """Return the page, and what was said of files that cannot be read."""
    problems = []
    page = report_of(path, warn=problems.append)
    for problem in problems:
        assert str(problem.where) in page and "\n" not in problem.what and len(problem.what) < 400
    return page, {str(problem.where): problem.what for problem in problems}


@pytest.mark.parametrize("plant", ["outwards", "pipe"])
@pytest.mark.parametrize(
    "place",
    [
        "stages",
        "stages/first",
        "stages/first/metrics.jsonl",
        "stages/first/images",
        SCORES,
        f"{SAMPLES}/samples.npz",
        "evaluations",
        "events.jsonl",
        "recipe.toml",
        "run.json",
        "environment.json",
    ],
)
def test_a_page_follows_nothing_out_of_the_folder(run, tmp_path, place, plant):
    run.everything(size=8)
    (run.path / "events.jsonl").touch()
    (run.path / place).rename(tmp_path / "elsewhere")
    if plant == "pipe":
        os.mkfifo(run.path / place)
    else:
        (run.path / place).symlink_to(tmp_path / "elsewhere")
    _, said = said_of(run.path)
    what = "neither a file nor a folder" if plant == "pipe" else "a symbolic link"
    assert any(where == str(run.path / place) and what in text for where, text in said.items()), said


def test_a_page_is_not_written_through_a_link(run, tmp_path):
    run.everything(size=8)
    (tmp_path / "precious").write_text("precious")
    for name in ("report.html", "report.html.part"):
        (run.path / name).unlink(missing_ok=True)
        (run.path / name).symlink_to(tmp_path / "precious")
    with pytest.raises(MistakeError, match=r"report\.html: a symbolic link"):
        write_report(run.path)
    (run.path / "report.html").unlink()
    write_report(run.path)
    assert (tmp_path / "precious").read_text() == "precious"


def test_the_commands_name_what_is_damaged_and_show_the_rest(make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [make_run(name) for name in ("one", "two")]
    for run in runs:
        run.everything(size=8)
    (runs[1].path / SCORES / "metrics.json").write_text('{"results": {"samples": 3}}')
    (runs[1].path / SAMPLES / "samples.npz").write_bytes(b"")
    for command in (["report", runs[1].path], ["compare", *(run.path for run in runs), "--count", "0"]):
        done = CliRunner().invoke(program.cli, list(map(str, command)))
        assert done.exit_code == 0, done.output
        assert "metrics.json: warning: not what uldm writes there: " in done.stderr
        assert "samples.npz" in done.stderr or command[0] == "compare"
    page = comparison_of([run.path for run in runs])
    assert "metrics.json is damaged: not what uldm writes there" in page and "4.481" in page


NUMBERS = {
    "run.json": [
        '{"state": 3, "updated": "0001-01-01T00:00:00"}',
        '{"updated": "9999-12-31T23:59:59"}',
        "[]",
    ],
    "environment.json": ["[1]", '{"a": {"b": [1]}}', "3"],
    "stages/first/stage.json": [
        '{"done": true, "seconds": NaN}',
        '{"seconds": 1e999}',
        '{"seconds": -1}',
        '{"done": [], "seconds": 1}',
    ],
    "stages/first/metrics.jsonl": [
        '{"step": 1e400, "loss": 1}\n{"step": 2}',
        '{"step": 1, "loss": ' + "9" * 400 + "}\n{}\n",
        "[" * 100_000 + "\n3\n",
        '{"step": 1e300, "loss": 1}\n' * 2,
        '{"step": NaN, "loss": 1}\n' * 2,
        "\x00\n\x00\n",
    ],
    f"{SCORES}/codebook.json": [
        '{"codebooks": [{"size": 0, "counts": [], "used": 0, "perplexity": 1}]}',
        '{"codebooks": [{"size": 8, "counts": [-1], "used": 0, "perplexity": 1}]}',
        '{"codebooks": [{"size": 8, "counts": [1], "used": 0, "perplexity": NaN}]}',
        '{"codebooks": [{"size": 8, "counts": [1e999], "used": 0, "perplexity": 1}]}',
        '{"codebooks": [{"size": 1e60, "counts": [1], "used": 0, "perplexity": 1}]}',
        '{"codebooks": 3}',
    ],
    f"{SCORES}/classes.json": [
        '{"labels": ["a"], "samples": [NaN], "real": [0.5]}',
        '{"labels": ["a"], "samples": [-1e300], "real": [0.5]}',
        '{"labels": "abc"}',
    ],
    f"{SCORES}/metrics.json": [
        '{"results": {"samples": {"x": "y"}}}',
        '{"counts": {"samples": NaN}}',
        '{"counts": {"samples": []}}',
        '{"results": []}',
    ],
    "recipe.toml": [
        "[stages]\nfirst = 3\n",
        "stages = 3\n",
        "[stages.first]\nuse = []\nsteps = 1e9\n",
        "[" * 5000,
    ],
}


@pytest.mark.parametrize(("name", "content"), [(name, text) for name in NUMBERS for text in NUMBERS[name]])
def test_records_that_are_none_spoil_no_page(run, name, content):
    run.recipe()
    run.state()
    run.stage("first", 2.0)
    (run.path / name).parent.mkdir(parents=True, exist_ok=True)
    (run.path / name).write_text(content)
    said_of(run.path)
    comparison_of([run.path, run.path])


def packed(path, name, header, content=b""):
    """Write an ``.npz`` whose array says this of itself."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"fortran_order": False, **header})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", file.getvalue() + content)


U8 = {"descr": "|u1"}
ARRAYS = {
    "empty": None,
    "huge": {**U8, "shape": (1 << 40, 1 << 20, 28, 1)},
    "wide": {**U8, "shape": (1, 1 << 20, 1 << 20, 1)},
    "negative": {**U8, "shape": (-1, -28, 28, 1)},
    "objects": {"descr": "|O", "shape": (1, 8, 8, 1)},
    "text": {"descr": "<U9", "shape": (1, 8, 8, 1)},
    "fields": {"descr": [("a", "<i4")], "shape": (1, 8, 8, 1)},
    "cut": {**U8, "shape": (100, 8, 8, 1)},
    "more": {**U8, "shape": (1, 4, 4, 1)},
    "flat": {**U8, "shape": (64,)},
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_none_are_not_unpacked(run, name, monkeypatch):
    run.everything(size=8)
    for path in run.path.rglob("*.npz"):
        if ARRAYS[name] is None:
            path.write_bytes(b"")
        else:
            packed(path, "images", ARRAYS[name], b"\0" * 64)
    _, said = said_of(run.path)
    assert {os.path.basename(where) for where in said} == {
        "samples.npz",
        "path.npz",
        "nearest.npz",
        "reconstructions.npz",
    }
    path = run.path / SAMPLES / "samples.npz"
    with pytest.raises(MistakeError, match=r"samples\.npz: ") as error:
        load_images(path)
    assert "uldm run" in error.value.problems[0].hint and "\n" not in error.value.problems[0].what


def test_what_unpacks_to_more_than_memory_holds_is_refused_by_its_head(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    packed(path, "images", {**U8, "shape": (1 << 22, 2, 2, 1)}, b"\0" * (1 << 24))
    assert path.stat().st_size < 1 << 15 and read_arrays(path)["images"].shape == (1 << 22, 2, 2, 1)
    monkeypatch.setattr(arrays, "half_of_memory", lambda: (1 << 24) - 1)
    monkeypatch.setattr(arrays, "_read", lambda *_: pytest.fail("it is unpacked"))
    with pytest.raises(ValueError, match=r"images is uint8 \[4194304, 2, 2, 1\]: more than may be unpacked"):
        read_arrays(path)


def test_arrays_come_back_as_they_were(tmp_path):
    import torch

    given = {"a": torch.arange(24).view(2, 3, 4), "b": torch.zeros(0, 3), "c": torch.rand(())}
    save_arrays(tmp_path / "x.npz", **given)
    np.savez(tmp_path / "y.npz", a=np.asfortranarray(given["a"].numpy()), b=given["b"], c=given["c"])
    for name in ("x", "y"):
        back = read_arrays(tmp_path / f"{name}.npz")
        assert all(np.array_equal(back[key], given[key].numpy()) for key in given)
    rows, total = first_of(tmp_path / "x.npz", "a", 1)
    assert total == 2 and np.array_equal(rows, given["a"][:1].numpy())


@pytest.mark.parametrize("times", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_any_bytes_of_any_file_are_a_page(run, tmp_path, times):
    run.everything(size=8)
    chance = random.Random(times)
    for place, path in enumerate(sorted(path for path in run.path.rglob("*") if path.is_file())):
        whole = path.read_bytes()
        for number in range(place, place + times):
            content = bytearray(whole)
            for _ in range(number % 3):
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            if number % 3 == 0:
                del content[chance.randrange(len(content)) :]
            path.write_bytes(content)
            said_of(run.path)
        path.write_bytes(whole)


def test_a_picture_too_large_for_a_page_is_not_decoded(run):
    run.everything(size=8)
    path = run.path / "stages/first/images/reconstructions/00000200.png"
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 1 << 15, 1 << 15)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    assert said_of(run.path)[1] == {str(path): "no PNG that can be shown"}
