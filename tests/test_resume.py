"""Trainings and runs that are cut anywhere end as if they had not been: every bit is compared."""

import json

import pytest
import torch

from uldm_core import registry
from uldm_core.engine import loop
from uldm_core.engine.context import Context
from uldm_core.engine.device import Device
from uldm_core.engine.run import run
from uldm_core.engine.signals import Interrupted, Stop
from uldm_core.recipe import Recipe, RunOptions
from uldm_core.recipe.run_options import CheckpointPolicy
from uldm_core.run_folder.folder import RunFolder

STEPS, BATCH, IMAGES = 6, 8, 20
CUTS = {
    "first step, in an epoch, at its end, last step": {"stop_at": [1, 2, 5, 6]},
    "every step": {"stop_at": [1, 2, 3, 4, 5, 6]},
    "killed before, at and after a checkpoint, and in the last step": {"kill_at": [1, 2, 3, 6]},
}
"""In which steps a training is asked to stop, or is killed with a checkpoint every two steps.

Five batches are two epochs.
"""
COMMON = {"steps": STEPS, "batch_size": BATCH}
KL = {"block_out_channels": [8, 8], "latent_channels": 2, "norm_num_groups": 4}
UNET = {
    "down_channels": [8, 8],
    "mid_channels": [8, 8],
    "norm_channels": 4,
    "num_heads": 2,
    "time_emb_dim": 8,
    "conv_out_channels": 8,
}


def autoencoder(**options):
    """Return a small autoencoder and its training, with a discriminator from the third step on."""
    return registry.build(
        "stage",
        "train_autoencoder",
        dataset=registry.build("dataset", "mnist", limit=IMAGES),
        autoencoder=registry.build("autoencoder", options.pop("use"), in_channels=1, **options),
        discriminator=registry.build("discriminator", "patchgan", in_channels=1, channels=[4, 8, 8]),
        losses=[{"use": "l1"}, {"use": "l2", "start": 2}],
        adversarial={"use": "hinge", "weight": 0.5, "start": 2},
        adaptive_weight="quantizer" not in options,
        **COMMON,
    )


def quantized(name):
    return autoencoder(use="vqvae_fast", quantizer={"use": name, "codebook_size": 16, "dim": 4})


def diffusion(cache_latents, classes=0, **options):
    """Return a small denoiser's training, conditioned on clusters if there are to be classes.

    It drops values, and is given what was done to the images.
    """
    condition = registry.build("condition", "clusters", classes=classes) if classes else None
    coder = registry.build("autoencoder", "autoencoder_kl", in_channels=1, **KL)
    return registry.build(
        "stage",
        "train_diffusion",
        dataset=registry.build("dataset", "mnist", limit=IMAGES),
        autoencoder=coder,
        denoiser=registry.build(
            "denoiser", "unet", channels=2, classes=classes, augmentation=2, dropout=0.2, **UNET
        ),
        augmentation=registry.build("augmentation", "translate"),
        variants=2,
        condition=condition,
        noise_scheduler=registry.build("noise_scheduler", "flow"),
        latent_scaling=registry.build("latent_scaling", "unit_variance", channels=2),
        cache_latents=cache_latents,
        **COMMON,
        **options,
    )


def classifier():
    dataset = registry.build("dataset", "mnist", limit=IMAGES)
    backbone = registry.build("backbone", "mnist_classifier")
    return registry.build("stage", "train_classifier", dataset=dataset, backbone=backbone, **COMMON)


TRAINERS = {
    "vq": lambda: quantized("vq"),
    "vq_ema": lambda: quantized("vq_ema"),
    "kl": lambda: autoencoder(use="autoencoder_kl", **KL),
    "diffusion": lambda: diffusion(True, ema="post_hoc", held_out=0.2, watch=0, classes=4),
    "diffusion, not cached": lambda: diffusion(False, checkpoint="best", held_out=0.2, watch=2),
    "classifier": classifier,
}


class Killed(BaseException):
    pass


def train(folder, make, device, stop_at=0, kill_at=0):
    """Train in a folder, asked to stop in one step or killed in one; return the trained components."""
    torch.manual_seed(0)
    trainer, stop = device.place(make()), Stop()
    step = trainer.step

    def cut(number, context):
        metrics = step(number, context)
        if number + 1 == kill_at:
            raise Killed
        if number + 1 == stop_at:
            stop.request()
        return metrics

    trainer.step = cut
    policy = CheckpointPolicy(2, keep=2) if kill_at else CheckpointPolicy("1 h")
    stage = RunFolder(folder).stage("s")
    loop.train(trainer, Context("s", 0, device, stage, stop=stop, options=RunOptions(checkpoint=policy)))
    trained = {name: getattr(trainer, name).state_dict() for name in trainer.trains if getattr(trainer, name)}
    return {f"{name}.{key}": value for name, state in trained.items() for key, value in state.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return what a training makes that is never cut, and its last checkpoint."""
    made = {}

    def whole(name, device):
        key = name, str(device), device.compile
        if key not in made:
            folder = tmp_path_factory.mktemp("whole")
            made[key] = train(folder, TRAINERS[name], device), folder
        return made[key]

    return whole


def assert_cut_is_whole(tmp_path, whole, name, device, **cut):
    wanted, folder = whole(name, device)
    (kind, steps), given = *cut.items(), {}
    for step in steps:
        with pytest.raises((Interrupted, Killed)):
            train(tmp_path, TRAINERS[name], device, **{kind: step})
    given = train(tmp_path, TRAINERS[name], device)
    assert given.keys() == wanted.keys()
    differ = [key for key in wanted if not torch.equal(wanted[key], given[key])]
    assert not differ, differ[:3]
    last = f"stages/s/checkpoints/{STEPS}/state.safetensors"
    assert (tmp_path / last).read_bytes() == (folder / last).read_bytes()


def on(precision, compile=False):
    return Device(torch.device("cpu"), getattr(torch, precision), compile)


@pytest.mark.parametrize("name", ["vq_ema", "diffusion"])
def test_a_trainer_that_is_cut_ends_as_if_it_had_not_been(tmp_path, whole, name):
    assert_cut_is_whole(tmp_path, whole, name, on("bfloat16"), stop_at=[1, 5, 6])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TRAINERS)
def test_every_trainer_may_be_cut_anywhere(tmp_path, whole, name, precision):
    for number, cut in enumerate(CUTS.values()):
        assert_cut_is_whole(tmp_path / str(number), whole, name, on(precision), **cut)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch, of itself
@pytest.mark.parametrize("name", ["vq", "vq_ema"])
def test_a_compiled_trainer_may_be_cut(tmp_path, whole, name):
    assert_cut_is_whole(tmp_path, whole, name, on("bfloat16", compile=True), stop_at=[3])


class StopAtCheck(Stop):
    """Asks to stop at the n-th time that a stage asks."""

    def __init__(self, number=-1):
        super().__init__()
        self.number, self.count = number, 0

    def check(self):
        self.count += 1
        if self.count == self.number:
            self.request()
        super().check()


TINY = (
    "dataset.limit=600",
    "stages.first.steps=2",
    "stages.second.steps=2",
    "stages.samples.count=12",
    "stages.samples.batch_size=4",
    "stages.samples.sampler.steps=2",
)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Return the folder of a run that was not cut, and how often its stages ask whether to stop."""
    stop = StopAtCheck()
    return run(
        Recipe.load("mnist_smoke", TINY), out=tmp_path_factory.mktemp("run") / "x", stop=stop
    ), stop.count


def results(folder):
    paths = [*folder.glob("stages/*/weights/*"), *folder.glob("stages/*/artifacts/*"), *folder.glob("*.png")]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 0.2, 0.4, 0.6, 0.8, 1])
def test_a_run_may_be_cut_between_stages_and_in_their_batches(tmp_path, whole_run, place):
    folder, count = whole_run
    number = 1 + round(place * (count - 1))
    with pytest.raises(Interrupted):
        run(Recipe.load("mnist_smoke", TINY), out=tmp_path / "x", stop=StopAtCheck(number))
    status = tmp_path / "x/run.json"
    if place:
        assert json.loads(status.read_text())["state"] == "stopped"
    else:
        assert not status.exists(), "in the preflight, nothing has begun"
    run(Recipe.load("mnist_smoke", TINY), out=tmp_path / "x")
    ours, theirs = results(tmp_path / "x"), results(folder)
    assert ours.keys() == theirs.keys()
    assert not [path for path in ours if ours[path] != theirs[path]]
