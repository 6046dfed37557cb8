"""Commands on a very small run."""

import pytest

from uldm_core.cli import main as program

RECIPE = """
uldm = 1
dataset = { use = "mnist", limit = 40 }
autoencoder = { use = "vqvae_fast", quantizer = "vq_ema" }
[stages.first]
use = "train_autoencoder"
steps = 2
"""


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return trained(tmp_path_factory)


@pytest.fixture(scope="session")
def residual_run(tmp_path_factory):
    return trained(tmp_path_factory, "autoencoder.quantizer=residual_vq")


@pytest.fixture(scope="session")
def run_without_codes(tmp_path_factory):
    return trained(tmp_path_factory, "autoencoder=autoencoder_kl", "autoencoder.block_out_channels=[16, 16]")


def trained(tmp_path_factory, *options):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "tiny.toml").write_text(RECIPE)
    assert program._run(["run", str(folder / "tiny.toml"), *options, "--out", str(folder / "tiny")]) == 0
    return folder / "tiny"
