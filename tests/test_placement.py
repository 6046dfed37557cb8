"""Whatever a stage is built of is on the run's device, however deep it is nested."""

import pytest
import torch
from attrs import frozen
from torch import nn

from uldm_core import Recipe, registry
from uldm_core.engine.components import RunComponents
from uldm_core.engine.device import Device, outermost_modules
from uldm_core.engine.run_stage import run_stage
from uldm_core.shapes import shapes_only
from uldm_plugins.stages.guided import with_weights

META = Device(torch.device("meta"), torch.float32)
LPIPS = {"use": "lpips", "backbone": "dummy"}
METRICS = [name for name in registry.names("metric") if "/" not in name]
STAGES = {
    "train_autoencoder": {"losses": ["l1", LPIPS], "adversarial": "hinge"},
    "train_diffusion": {"timestep_weighting": "min_snr"},
    "train_classifier": {},
    "tune": {"metric": {"use": "frechet", "backbone": "mnist_judge"}},
    "sample": {"sampler": "heun"},
    "evaluate": {},
}
COMPONENTS = {
    "dataset": {"use": "synthetic", "size": 28, "channels": 1},
    "autoencoder": {"use": "vqvae_fast", "quantizer": "vq_ema"},
    "discriminator": "patchgan",
    "denoiser": "unet",
    "noise_scheduler": "cosine",
    "latent_scaling": "unit_variance",
    "backbone": "mnist_classifier",
}


@pytest.fixture
def made(monkeypatch):
    """Every module that is made meanwhile."""
    modules, construct = [], nn.Module.__init__

    def recorded(module, *args, **options):
        construct(module, *args, **options)
        modules.append(module)

    monkeypatch.setattr(nn.Module, "__init__", recorded)
    return modules


def build(stage, options, device=META):
    stages = {name: {"use": name, **table} for name, table in {**STAGES, stage: options}.items()}
    resolved = Recipe.from_dict({"uldm": 1, **COMPONENTS, "stages": stages}).resolve(data=False)
    store = RunComponents.of(resolved, device)
    with shapes_only():
        return store.build(resolved.stages[stage])


def elsewhere(modules):
    tensors = [(module, t) for module in modules for t in (*module.parameters(), *module.buffers())]
    return {type(module).__name__ for module, tensor in tensors if not tensor.is_meta}


def test_every_stage_is_tried():
    assert set(STAGES) == set(registry.names("stage"))


@pytest.mark.parametrize("stage", STAGES)
def test_all_that_a_stage_is_built_of_is_on_the_device(stage, made):
    build(stage, STAGES[stage])
    assert len(made) > 10 and not elsewhere(made)


def test_a_weaker_denoiser_and_copies_of_it_are_on_the_device(monkeypatch):
    monkeypatch.setitem(COMPONENTS, "small", {"kind": "denoiser", "use": "mlp"})
    guidance = build("sample", {"guidance": {"use": "auto", "weaker": {"ref": "small"}}}).guidance
    early = [torch.zeros(parameter.shape) for parameter in guidance.weaker.parameters()]
    assert not elsewhere([guidance.weaker, with_weights(guidance.weaker, early)])


@pytest.mark.parametrize("metric", METRICS)
def test_all_that_a_metric_within_a_stage_is_built_of_is_on_the_device(metric, made):
    backbone = "backbone" in {option.name for option in registry.describe("metric", metric).options}
    build("evaluate", {"metrics": [{"use": metric, **({"backbone": "mnist_judge"} if backbone else {})}]})
    assert made and not elsewhere(made)


@frozen
class Pair:
    first: object
    second: object = None


class Hides(nn.Module):
    """Keeps a network out of its own state."""

    def __init__(self, network):
        super().__init__()
        self.hidden, self.own = [network], nn.Linear(1, 1)


def test_modules_are_found_wherever_they_are_held():
    networks = [nn.Linear(1, 1) for _ in range(4)]
    hides = Hides(networks[0])
    holder = Pair({"a": [networks[1]]}, (Pair(Pair(networks[2])), hides, hides.own))
    holder.first["itself"] = holder
    found = outermost_modules(holder)
    assert {id(module) for module in found} == {id(module) for module in (*networks[:3], hides)}


def test_what_is_nested_is_compiled_once_and_by_its_outermost_module(monkeypatch):
    compiled = []

    def note(module):
        compiled.append(type(module).__name__)
        module._compiled_call_impl = module._call_impl

    monkeypatch.setattr(nn.Module, "compile", note)
    build(
        "evaluate",
        {"metrics": ["frechet_mnist", {**LPIPS}]},
        Device(torch.device("cpu"), torch.float32, True),
    )
    assert sorted(compiled) == ["FastVQVAE", "MnistJudge", "PerceptualDistance"]


def test_a_stage_built_by_hand_is_placed_too(tmp_path, monkeypatch):
    class Look:
        trains, makes, needs = (), (), ()

        def __init__(self):
            self.metrics = [Pair(nn.Linear(2, 2))]

        def run(self, context):
            return {"meta": float(self.metrics[0].first.weight.is_meta)}

    monkeypatch.setattr("uldm_core.engine.run_stage.choose_device", lambda options: META)
    assert run_stage(Look(), tmp_path / "out") == {"meta": 1.0}


@pytest.mark.parametrize(
    ("device", "repeats", "changes"),
    [
        (Device(torch.device("cpu"), torch.float32, deterministic=True), True, False),
        (Device(torch.device("cuda"), torch.float32), False, False),
        (Device(torch.device("cuda"), torch.float32, deterministic=True), True, True),
    ],
)
def test_a_gpu_repeats_bits_if_it_is_asked_to_and_only_in_steps_of_a_training(device, repeats, changes):
    def chosen():
        return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic

    assert device.repeats_bits == repeats and chosen() == (False, False)
    with pytest.raises(KeyError), device.algorithms():
        assert chosen() == (changes, changes)
        raise KeyError
    assert chosen() == (False, False)
