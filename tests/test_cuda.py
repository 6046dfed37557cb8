"""What only a machine with an NVIDIA GPU can show; elsewhere these tests are skipped.

pytest -n 0 tests/test_cuda.py
"""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_resume import CUTS, TRAINERS, assert_cut_is_whole, whole  # noqa: F401  (a fixture)

from uldm_core import MistakeError, registry
from uldm_core.engine.device import Device, choose_device
from uldm_core.engine.run import run
from uldm_core.errors import is_unavailable
from uldm_core.recipe import Recipe, RunOptions
from uldm_core.run_folder.files import read_tensors
from uldm_core.testing.contract import Case, contract_of
from uldm_core.testing.subject import registered
from uldm_core.testing.tensors import floats_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
NETWORKS = ("autoencoder", "backbone", "denoiser", "discriminator", "latent_scaling", "quantizer")
BUILT_IN = [
    part
    for part in registry.default().components()
    if (part.kind in NETWORKS or part.path == "loss/lpips") and part.path != "backbone/inception"
]
"""All but Inception, whose weights must be fetched."""
FLIPS = ("quantizer", "autoencoder")
"""Kinds whose codes may be others where two are as near."""
STEPS = ("stages.first.steps=4", "stages.second.steps=4", "stages.samples.count=12")
SHORT = ("dataset.limit=600", *STEPS, "stages.samples.sampler.steps=2")


def gpu(precision="float32", compile=False):
    return Device(torch.device("cuda"), getattr(torch, precision), compile, deterministic=True)


@pytest.fixture(autouse=True)
def all_bits(monkeypatch):
    """Multiply float32 as it is, and not in TF32."""
    choose_device(RunOptions(deterministic=True))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("component", BUILT_IN, ids=lambda component: component.path)
def test_a_network_gives_on_a_gpu_what_it_gives_on_the_cpu(component):
    subject = registered(component.kind, f"{component.plugin}/{component.name}")
    contract = contract_of(registry.default().kind(component.kind))

    @settings(max_examples=3)
    @given(st.data())
    def compare(data):
        case = Case(subject, contract, data.draw)
        network = case.module().eval()
        inputs = case.inputs(network)
        wanted = floats_in(case.call(network, *inputs))
        found = floats_in(case.call(network.cuda(), *(tensor.cuda() for tensor in inputs)))
        for theirs, ours in zip(wanted, found, strict=True):
            error = (ours.detach().cpu() - theirs.detach()).abs()
            allowed = 1e-3 * max(theirs.detach().abs().max().item(), 1.0)
            share = (error > allowed).float().mean().item()
            assert ours.is_cuda and share <= (0.05 if component.kind in FLIPS else 0), error.max()

    try:
        compare()
    except MistakeError as error:
        if not is_unavailable(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TRAINERS)
def test_every_trainer_may_be_cut_anywhere(tmp_path, whole, name, precision):  # noqa: F811
    for number, cut in enumerate(CUTS.values()):
        assert_cut_is_whole(tmp_path / str(number), whole, name, gpu(precision), **cut)


@pytest.mark.filterwarnings("ignore")  # of torch, of itself
@pytest.mark.parametrize("name", ["vq_ema", "diffusion"])
def test_a_compiled_trainer_may_be_cut(tmp_path, whole, name):  # noqa: F811
    assert_cut_is_whole(tmp_path, whole, name, gpu("bfloat16", compile=True), stop_at=[3])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "gpu"
    return run(Recipe.load("mnist_smoke", (*SHORT, "run.device='cuda'")), out=out)


def test_a_gpu_is_taken_where_there_is_one_and_bfloat16_where_it_multiplies_it(trained):
    device = choose_device(RunOptions())
    newer = torch.cuda.get_device_capability() >= (8, 0)
    assert device.device.type == "cuda" and (device.precision is torch.bfloat16) == newer
    assert torch.cuda.get_device_name() in (trained / "environment.json").read_text("utf-8")


def test_a_gpus_weights_give_the_cpu_nearly_the_same_samples(uldm, trained, tmp_path):
    images = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.npz"
        options = ("--device", device, "--precision", "float32", "--count", 16, "--out", out)
        assert uldm("sample", trained, *options)[0] == 0
        with np.load(out) as file:
            images[device] = file["images"].astype(int)
    assert np.abs(images["cpu"] - images["cuda"]).mean() < 1
    states = [read_tensors(path) for path in trained.glob("stages/*/weights/*.safetensors")]
    assert states and all(tensor.device.type == "cpu" for state in states for tensor in state.values())


RECIPES = {
    "texture_tiny": (),
    "mnist_ddpm": (
        "dataset.limit=600",
        *STEPS,
        "noise_scheduler.timesteps=8",
        "stages.samples.sampler.steps=8",
    ),
    "pixels_tiny": ("dataset.limit=600", "stages.second.steps=4", "stages.samples.count=12"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_runs_on_a_gpu(name, tmp_path):
    folder = run(Recipe.load(name, (*RECIPES[name], "run.device='cuda'")), out=tmp_path / "out")
    results = json.loads((folder / "metrics.json").read_text())["results"]
    assert all(np.isfinite(list(found.values())).all() for found in results.values())


def test_memory_that_a_gpu_has_not_is_said_before_the_first_step(tmp_path):
    large = ("stages.first.batch_size=100000000", "run.device='cuda'")
    with pytest.raises(MistakeError, match="a step of 100,000,000 samples needs"):
        run(Recipe.load("mnist_smoke", large), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
