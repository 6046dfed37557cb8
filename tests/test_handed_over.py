"""Every file that a person can hand over, with hostile content: the table of docs/security.md, row by row.

Nothing in it is executed, no memory is asked for that its size does not warrant, and what is wrong is said in
a line with the file's name.
"""

import io
import json
import os
import pickle
import resource
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from uldm_plugins.shared import arrays

MOST_MEMORY = 1 << 27
"""Bytes that reading a hostile file may take: none of them is larger than a megabyte."""


def taking(recipe):
    """Return a recipe whose autoencoder comes from the run ``x``, which trained it."""
    own = recipe[recipe.index('use = "vqvae_fast"') : recipe.index("[denoiser]")]
    training = recipe[recipe.index("[stages.first]") : recipe.index("[stages.second]")]
    return recipe.replace(own, 'from = "x"\n\n').replace(training, "")


class Executes:
    """Makes a file where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def npz(name, header, content=b"\0" * 64):
    """Return an ``.npz`` of one array that says this of itself."""
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"fortran_order": False, **header})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", array.getvalue() + content)
    return file.getvalue()


def zeros(size):
    """Return an ``.npz`` that unpacks to so many zeros: a megabyte compresses to a kilobyte."""
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        array, {"descr": "|u1", "fortran_order": False, "shape": (size, 1, 1, 1)}
    )
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("images.npy", "w", force_zip64=True) as member,
    ):
        member.write(array.getvalue())
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    return file.getvalue()


def tensors(header):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def png(width, height):
    """Return the head of a PNG of any size."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + bytes(12)
    )


DEEP = b'{"a":' * 100_000
PICKLE = pickle.dumps(Executes())
ARRAYS = {
    "pickle": PICKLE,
    "pickle_in_an_array": npz("images", {"descr": "|O", "shape": (1,)}, PICKLE),
    "pickle_as_a_member": npz("images", {"descr": "|u1", "shape": (9, 9, 9, 9)}, PICKLE),
    "unpacks_to_terabytes": npz("images", {"descr": "|u1", "shape": (1 << 40, 1, 1, 1)}),
    "unpacks_to_half_a_gigabyte": zeros(1 << 29),
    "floats": npz("images", {"descr": "<f8", "shape": (1, 2, 2, 2)}),
    "empty": b"",
}
TENSORS = {
    "pickle": PICKLE,
    "header_of_2_to_the_62": struct.pack("<Q", 1 << 62) + b"{}",
    "header_deep": tensors(DEEP),
    "terabytes": tensors({"a": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}),
    "empty": b"",
}
RECORDS = {
    "pickle": PICKLE,
    "deep": DEEP,
    "no_record": b"[]",
    "future": b'{"format": 99, "uldm": "9.9"}',
    "empty": b"",
}
PICTURES = {"pickle": PICKLE, "gigapixels": png(1 << 30, 1 << 30), "empty": b""}
RECIPES = {"pickle": PICKLE, "deep": b"a = " + b"[" * 100_000, "binary": b"\xff\x00" * 9}
FIRST, SCORES = "x/stages/first", "x/stages/scores/artifacts"
REPORT, RUN = ["report", "x"], ["run", "x", "--out", "x"]
TABLE = [
    ("x/recipe.toml", RECIPES, RUN),
    ("x/recipe.toml", RECIPES, REPORT),
    (f"{FIRST}/stage.json", RECORDS, RUN),
    (f"{FIRST}/stage_copy.json", RECORDS, RUN),
    (f"{FIRST}/stage.json", RECORDS, REPORT),
    (f"{FIRST}/checkpoints/2/state.json", RECORDS, ["doctor", "x"]),
    (f"{FIRST}/checkpoints/2/state.safetensors", TENSORS, ["doctor", "x"]),
    (f"{FIRST}/weights/autoencoder.safetensors", TENSORS, ["sample", "x", "--out", "y.png", "--count", "1"]),
    (f"{FIRST}/weights/autoencoder.safetensors", TENSORS, ["run", "takes.toml", "--out", "z"]),
    ("x/stages/samples/artifacts/samples.npz", ARRAYS, ["evaluate", "x", "--metrics", "psnr"]),
    ("x/stages/samples/artifacts/samples.npz", ARRAYS, REPORT),
    (f"{SCORES}/nearest.npz", ARRAYS, REPORT),
    (f"{SCORES}/metrics.json", RECORDS, REPORT),
    ("x/evaluations/1.json", RECORDS, REPORT),
    ("x/run.json", RECORDS, REPORT),
    ("x/environment.json", RECORDS, REPORT),
    (f"{FIRST}/metrics.jsonl", RECORDS, REPORT),
    (f"{FIRST}/images/reconstructions/00000002.png", PICTURES, REPORT),
    ("mine.npz", ARRAYS, ["evaluate", "mine.npz", "--against", "mine.npz", "--metrics", "psnr"]),
    ("mine/1.png", PICTURES, ["reconstruct", "x", "mine", "--out", "y"]),
    ("mine/1.png", PICTURES, ["evaluate", "mine", "--against", "mine", "--metrics", "psnr"]),
    ("mine.toml", RECIPES, ["validate", "mine.toml"]),
    ("mine.toml", RECIPES, ["diff", "mine.toml", "x"]),
]
"""What is handed over, with what in it, and a command that reads it."""


CASES = [(place, name, command) for place, contents, command in TABLE for name in contents]


@pytest.mark.parametrize(
    ("place", "name", "command"),
    [
        pytest.param(
            *case,
            id=f"{case[2][0]}-{Path(case[0]).name}-{case[1]}",
            marks=[pytest.mark.slow] * (number % 4 > 0),
        )
        for number, case in enumerate(CASES)
    ],
)
def test_hostile_files_are_named_and_nothing_in_them_is_done(
    uldm, small_run, tmp_path, monkeypatch, place, name, command
):
    monkeypatch.setattr(arrays, "half_of_memory", lambda: 1 << 28)
    shutil.copytree(small_run, "x")
    Path("takes.toml").write_text(taking((small_run.parent / "tiny.toml").read_text()))
    path = Path(place)
    path.parent.mkdir(exist_ok=True)
    content = next(contents for where, contents, how in TABLE if (where, how) == (place, command))[name]
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, out, error = uldm(*command)
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert not Path("executed").exists() and taken < MOST_MEMORY, taken
    said = out + error
    assert "Traceback" not in said and (path.name in said or f"{path.parent}" in said), said
    assert code in (0, 1, 2) and max(map(len, said.splitlines()), default=0) < 1000
