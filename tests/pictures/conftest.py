"""Commands on a very small run."""

import warnings

import pytest

from uldm_core.cli import main as program

TINY = ("dataset.limit=40", "stages.first.steps=2", "--until", "first")


@pytest.fixture
def uldm(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder; return its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = program._run(list(map(str, arguments)))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return trained(tmp_path_factory, "autoencoder.quantizer=vq_ema")


@pytest.fixture(scope="session")
def residual_run(tmp_path_factory):
    return trained(tmp_path_factory, "autoencoder.quantizer=residual_vq")


@pytest.fixture(scope="session")
def run_without_codes(tmp_path_factory):
    return trained(tmp_path_factory, "autoencoder=autoencoder_kl")


def trained(tmp_path_factory, *options):
    folder = tmp_path_factory.mktemp("pictures") / "tiny"
    assert program._run(["run", "mnist_smoke", *TINY, *options, "--out", str(folder)]) == 0
    return folder
