"""Every built-in keeps the contract of its kind, and the defects that the contracts found stay mended."""

import hashlib

import pytest
import torch

from uldm_core import MistakeError, registry
from uldm_core.testing import Profile
from uldm_core.testing.runner import check_subject
from uldm_core.testing.subject import registered

QUICK = Profile(examples=2, seconds=0.05)


def name(component):
    return f"{component.kind}/{registry.default().name_of(component)}"


EVERY_DAY = {
    *(
        "adversarial_loss/hinge",
        "augmentation/compose",
        "autoencoder/vqvae_fast",
        "backbone/dummy",
        "condition/labels",
        "dataset/synthetic",
        "denoiser/mlp",
    ),
    *(
        "discriminator/patchgan",
        "guidance/adaptive_projected",
        "latent_scaling/unit_variance",
        "loss/l1",
        "lr_schedule/cosine",
    ),
    *("metric/frechet", "metric/psnr", "noise_scheduler/cosine", "noise_scheduler/flow", "optimizer/adamw"),
    *("quantizer/vq_ema", "sampler/heun", "stage/sample", "stage/train_diffusion", "tracker/jsonl"),
    *("timestep_weighting/min_snr", "coupling/minibatch_ot"),
}
"""Some of each kind; the others are slow tests."""
SMALL = {
    "autoencoder/vqvae_fast": {"encoder_channels": [8, 16], "decoder_channels": [8, 16]},
    "denoiser/mlp": {"width": 64, "hidden": 64, "depth": 2},
    "discriminator/patchgan": {"channels": [8, 16, 32]},
}
"""Options of networks that are large by default."""


def _of_its_day(component):
    marks = () if component.path in EVERY_DAY else pytest.mark.slow
    return pytest.param(component, marks=marks, id=name(component))


@pytest.mark.parametrize("component", [*map(_of_its_day, registry.default().components())])
def test_a_built_in_keeps_its_contract(component):
    full = f"{component.plugin}/{component.name}"
    subject = registered(component.kind, full, SMALL.get(component.path))
    report = check_subject(subject, component.xfail, profile=QUICK)
    report.raise_for_failures()
    if report.unavailable:
        pytest.skip(str(report))


def test_a_discrete_scheduler_counts_its_steps_in_float32_whatever_the_times_come_in():
    scheduler = registry.build("noise_scheduler", "linear")
    times = torch.tensor([0.0, 0.5, 1.0], dtype=torch.bfloat16)
    assert scheduler.step(times).tolist() == [0, 500, 999]


def test_a_denoiser_cast_to_bfloat16_still_knows_late_times():
    torch.manual_seed(0)
    denoiser = registry.build("denoiser", "mlp", channels=4, size=4)
    times = torch.tensor([871.0, 877.0])
    wanted = denoiser.time(times)
    cast = denoiser.time.to(torch.bfloat16)(times).float()
    assert (cast - wanted).norm() < 0.02 * wanted.norm()


def test_a_stage_is_built_in_python_with_its_defaults():
    trainer = registry.build(
        "stage",
        "train_diffusion",
        dataset=registry.build("dataset", "mnist", limit=8),
        autoencoder=registry.build("autoencoder", "vqvae_fast", in_channels=1),
        denoiser=registry.build("denoiser", "mlp", channels=4, size=7),
        noise_scheduler="flow",
        latent_scaling={"use": "unit_variance", "channels": 4},
    )
    assert type(trainer.loss.timestep_weighting).__name__ == "Uniform"


@pytest.mark.parametrize(
    ("name", "message"),
    [("vgg.pth", "carries no hash"), ("vgg-00000000.pth", "damaged"), ("none.safetensors", "there is no")],
)
def test_weights_of_vgg_must_carry_their_hash(tmp_path, name, message):
    if "none" not in name:
        (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(MistakeError, match=message):
        registry.build("backbone", "vgg16", weights=str(tmp_path / name))


def test_weights_of_vgg_load_by_a_name_with_their_hash(tmp_path):
    torch.manual_seed(0)
    source = registry.build("backbone", "vgg16", weights="random")
    state, index = {}, 0
    for stage in source.stages:
        for layer in stage:
            state |= {f"features.{index}.{name}": value for name, value in layer.state_dict().items()}
            index += 1
    torch.save({**state, "classifier.0.bias": torch.zeros(2)}, tmp_path / "raw")
    digest = hashlib.sha256((tmp_path / "raw").read_bytes()).hexdigest()[:8]
    path = (tmp_path / "raw").rename(tmp_path / f"vgg16-{digest}.pth")
    loaded = registry.build("backbone", "vgg16", weights=str(path))
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])
