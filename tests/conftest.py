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
    """Keep what is cached of images out of a person's own cache; return what says where that is."""
    from uldm_plugins.shared import cache

    folder, real = tmp_path_factory.mktemp("cache"), cache.cache_folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "cache_folder", lambda: folder)
        yield real


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Ask no address whether it has a file: each has."""
    from uldm_core.preflight import required_files

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(required_files, "ask", lambda url: "")
        yield


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk():
    """Sync nothing: no test cuts the power. Those of what is synced, and when, watch the calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


SMALL_RECIPE = """\
uldm = 1

[dataset]
use = "synthetic"
count = 8
size = 8

[autoencoder]
use = "vqvae_fast"
quantizer = { use = "vq", codebook_size = 4, dim = 2 }
encoder_channels = [4]
decoder_channels = [4]

[denoiser]
use = "mlp"
width = 8
hidden = 8
depth = 1

[noise_scheduler]
use = "flow"

[stages.first]
use = "train_autoencoder"
steps = 2
batch_size = 4
losses = [{ use = "l1" }]
previews = 1

[stages.second]
use = "train_diffusion"
steps = 2
batch_size = 4
previews = 1

[stages.samples]
use = "sample"
sampler = { use = "euler", steps = 2 }
count = 2
batch_size = 2

[stages.scores]
use = "evaluate"
metrics = [{ use = "psnr" }]
"""


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """Return a finished run of four stages, ``x`` beside ``tiny.toml``: copy it to change it."""
    from uldm_core.engine.run import run
    from uldm_core.recipe import Recipe

    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.toml").write_text(SMALL_RECIPE)
    return run(Recipe.load(folder / "tiny.toml").resolve(), out=folder / "x")


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
