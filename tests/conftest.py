"""For every test: one thread, since the tensors are too small to share; Hypothesis's profile; the program."""

import os
import tempfile
import warnings

import pytest
import torch
from hypothesis import settings

from uldm_core import registry
from uldm_core.cli import main as program

os.environ["OMP_NUM_THREADS"] = "1"  # of programs that tests start: several at once only wait for each other
os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="trackio")  # not a person's own, nor another worker's

torch.set_num_threads(1)

# The same examples each time: a failure is of the change, not of the day. ``search`` looks for others.
settings.register_profile("everyday", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=500)
settings.load_profile("everyday")


@pytest.fixture(autouse=True, scope="session")
def own_cache_folder(tmp_path_factory):
    """Keep what is remembered of image files out of a person's own cache; return what says where that is."""
    from uldm_plugins.shared import checked_files

    folder, real = tmp_path_factory.mktemp("cache"), checked_files.cache_folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checked_files, "cache_folder", lambda: folder)
        yield real


@pytest.fixture
def uldm(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder; return its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                code = program._run(list(map(str, arguments)))
            except SystemExit as error:
                code = error.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield call
    registry.default.cache_clear()  # of what --plugin brought
