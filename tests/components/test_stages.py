"""What trainers promise beyond running: schedules, averages, images that match their time."""

import inspect
from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from uldm_core import MistakeError, Partial, RunError, registry, run_stage
from uldm_core.engine.randomness import batch_indices
from uldm_core.recipe import RunOptions
from uldm_core.run_folder.files import read_tensors
from uldm_core.run_folder.folder import RunFolder
from uldm_core.testing.doubles import RecordingDataset, TinyDataset, TinyDenoiser, components
from uldm_plugins.shared.arrays import read_arrays
from uldm_plugins.shared.ema import EMA, warmed
from uldm_plugins.stages.guided import AVERAGES
from uldm_plugins.stages.held_out import DRAWS, HELD_OUT, divided
from uldm_plugins.stages.sample import load_images, save_images
from uldm_plugins.stages.train_autoencoder import gradient_ratio
from uldm_plugins.stages.training import OptimizerStep


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@given(steps=st.integers(1, 200), warmup=st.integers(0, 50))
def test_schedules_stay_between_nothing_and_full(name, steps, warmup):
    schedule = registry.partial("lr_schedule", name, warmup=warmup)(steps)
    factors = [schedule(step) for step in range(steps)]
    assert all(0 <= factor <= 1 for factor in factors)
    if warmup:
        assert factors[0] <= 1 / warmup
    else:
        assert factors[0] == 1
    if name != "constant" and steps > 20 and warmup < steps // 2:
        assert factors[-1] < 0.2 and factors[warmup:] == sorted(factors[warmup:], reverse=True)


def test_the_linear_schedule_holds_then_falls():
    schedule = registry.partial("lr_schedule", "linear", hold=0.5, end=0.1)(100)
    assert [schedule(step) for step in (0, 50, 75, 100)] == pytest.approx([1, 1, 0.55, 0.1])


def test_a_descent_sets_the_rate_of_its_step_and_bounds_the_gradient():
    weight = nn.Parameter(torch.tensor([3.0]))
    schedule = registry.partial("lr_schedule", "linear")
    optimize = OptimizerStep([weight], Partial(torch.optim.SGD, lr=1.0), schedule, 10, max_grad_norm=0.5)
    optimize(100 * weight.sum(), 5)
    assert optimize.optimizer.param_groups[0]["lr"] == pytest.approx(0.5)
    assert weight.item() == pytest.approx(3 - 0.5 * 0.5, rel=1e-4)


@pytest.mark.parametrize("name", ["adamw", "adam", "muon"])
def test_an_optimizers_new_options_hold_after_its_state_is_loaded(name):
    """Its moments go on, and so does what the optimizer itself keeps beside its options."""

    def optimize(**options):
        network = nn.Linear(2, 2)
        with torch.no_grad():
            network.weight.fill_(1.0), network.bias.fill_(1.0)
        make = registry.partial("optimizer", name, **options)
        return network, OptimizerStep(
            network.parameters(), make, registry.partial("lr_schedule", "constant"), 9
        )

    def step(network, optimize, number):
        before = network.weight.detach().clone()
        optimize((network(torch.tensor([[1.0, 2.0]])) ** 2).sum(), number)
        return (network.weight.detach() - before).abs().mean().item()

    old, new = optimize(lr=0.1, betas=[0.8, 0.9]), optimize(lr=0.001, betas=[0.7, 0.9])
    moved = step(*old, 0)
    for group in old[1].optimizer.param_groups:
        group["count"] = 5
    new[1].load_state_dict(deepcopy(old[1].state_dict()))
    assert 0 < step(*new, 1) < moved / 20
    for group in new[1].optimizer.param_groups:
        assert group["lr"] == 0.001 and tuple(group.get("betas", (0.7, 0.9))) == (0.7, 0.9)
        assert group["count"] == 5


class Torn(TinyDataset):
    """A file of it is damaged after a few batches."""

    whole = 3

    def images(self, indices):
        self.whole -= 1
        if self.whole < 0:
            raise ValueError("x.png: cut short")
        return super().images(indices)


@pytest.mark.parametrize("name", ["train_autoencoder", "train_diffusion", "train_classifier"])
def test_a_damaged_file_ends_a_training_with_its_last_step_saved(tmp_path, name):
    inferred = inspect.signature(registry.default().get("stage", name).load()).parameters
    given = {name: component for name, component in components().items() if name in inferred}
    more = {"cache_latents": False} if name == "train_diffusion" else {}
    if "backbone" in given:  # one that can be trained
        given["backbone"] = registry.build("backbone", "mnist_classifier")
    given["dataset"] = Torn()
    given["dataset"].whole = 4 if more else 3  # one batch is passed through to fit the scaling
    stage = registry.build("stage", name, **given, steps=9, batch_size=4, **more)
    with pytest.raises(RunError, match=r"stages\.s: step 4: the dataset .* x\.png: cut short") as caught:
        run_stage(stage, tmp_path, name="s", options=RunOptions(device="cpu"))
    assert "the state is saved" in caught.value.problems[0].hint
    assert RunFolder(tmp_path).stage("s").checkpoints.last() == 3


def test_the_average_follows_its_formula_and_survives_saving():
    network = nn.Linear(2, 1, bias=False)
    ema = EMA(network, warmed(0.9))
    expected = network.weight.detach().clone()
    for update in range(30):
        with torch.no_grad():
            network.weight.add_(torch.randn(1, 2))
        ema.update()
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * network.weight.detach()
    again = EMA(network, warmed(0.9))
    again.load_state_dict(ema.state_dict())
    again.apply()
    assert again.updates == 30 and torch.allclose(network.weight, expected, atol=1e-5)


def test_an_average_without_decay_is_the_network_itself():
    network = nn.Linear(2, 1)
    ema = EMA(network, warmed(0.0))
    with torch.no_grad():
        network.weight.add_(1)
    ema.update()
    before = network.weight.clone()
    ema.apply()
    assert torch.equal(network.weight, before)


def test_adversarial_training_needs_a_discriminator():
    dataset = registry.build("dataset", "mnist", subset="test", limit=4)
    autoencoder = registry.build("autoencoder", "vqvae_fast", in_channels=1)
    with pytest.raises(MistakeError, match="adversarial needs a discriminator"):
        registry.build(
            "stage", "train_autoencoder", dataset=dataset, autoencoder=autoencoder, adversarial="hinge"
        )


def test_the_adaptive_weight_balances_both_gradients_at_the_last_layer():
    layer = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    distance, verdict = layer(x).abs().mean(), -0.01 * layer(x).sum()
    ratio = gradient_ratio(distance, verdict, layer.weight)
    norms = [
        torch.autograd.grad(loss, layer.weight, retain_graph=True)[0].norm() for loss in (distance, verdict)
    ]
    assert not ratio.requires_grad
    assert ratio.item() == pytest.approx((norms[0] / (norms[1] + 1e-4)).item())
    assert gradient_ratio(1e9 * distance, 0 * verdict, layer.weight).item() == 1e4


def test_the_adaptive_weight_needs_a_last_layer():
    with pytest.raises(MistakeError, match="adaptive_weight: IdentityAutoencoder names no last_layer"):
        registry.build(
            "stage",
            "train_autoencoder",
            dataset={"use": "mnist", "limit": 10},
            autoencoder="identity",
            discriminator="patchgan",
            adversarial="hinge",
            adaptive_weight=True,
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_images_survive_their_file(tmp_path, channels):
    images = torch.randint(0, 256, (5, channels, 6, 7), dtype=torch.uint8)
    save_images(tmp_path / "x.npz", images)
    assert torch.equal(load_images(tmp_path / "x.npz"), images)


def diffusion(**options):
    """Return a training of a tiny denoiser, which encodes each batch anew."""
    parts = {**components(), **options}
    known = inspect.signature(registry.default().get("stage", "train_diffusion").load()).parameters
    given = {name: part for name, part in parts.items() if name in known}
    return registry.build("stage", "train_diffusion", **{"batch_size": 4, "cache_latents": False, **given})


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 8), (0.1, 3)])
def test_images_that_are_held_out_are_never_trained(tmp_path, share, count):
    dataset = RecordingDataset(count=32)
    trainer = diffusion(dataset=dataset, held_out=share, watch=0, steps=20, previews=0)
    run_stage(trainer, tmp_path, name="s", options=RunOptions(device="cpu"))
    asked = dataset.asked[32:]  # after those that the scaling is fitted to
    indices = read_arrays(RunFolder(tmp_path).stage("s").artifact(HELD_OUT))["indices"]
    assert indices.dtype == "int64" and indices.shape == (count,)
    assert set(asked) == set(range(32)) - set(indices.tolist())
    if not count:
        assert asked == [int(i) for step in range(20) for i in batch_indices(32, 4, 0, "s", step)]


@pytest.mark.parametrize(("count", "share"), [(4, 0.1), (1, 0.5), (1, 0.4)])
def test_a_share_that_holds_out_nothing_or_all_is_refused(count, share):
    with pytest.raises(RunError, match=f"held_out = {share} holds out 0 of {count} images"):
        divided(count, share, torch.Generator())


class RecordsClasses(TinyDenoiser):
    """Remembers which classes it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def forward(self, latents, conditioning, condition=None):
        self.told += condition.tolist()
        return super().forward(latents, conditioning)


def test_of_several_averages_the_one_with_the_least_held_out_loss_is_taken(tmp_path):
    dataset, denoiser = RecordingDataset(count=32), RecordsClasses()
    options = {"ema": "post_hoc", "held_out": 0.25, "watch": 0, "ema_stds": [0.02, 0.27], "drop": 0.9}
    condition = registry.build("condition", "labels", classes=2)
    parts = {"dataset": dataset, "denoiser": denoiser, "condition": condition}
    trainer = diffusion(**parts, steps=12, previews=0, **options)
    losses = run_stage(trainer, tmp_path, name="s", options=RunOptions(device="cpu"))
    assert losses.keys() == {"held_out_loss_ema_0.02", "held_out_loss_ema_0.27"}
    kept = read_tensors(RunFolder(tmp_path).stage("s").artifact(AVERAGES))
    assert trainer.artifact_bytes == sum(tensor.nbytes for tensor in kept.values())
    assert {name.rpartition(".")[0] for name in kept} - {""} == {"weaker", "ema_0.02", "ema_0.27"}
    best = min(losses, key=losses.get).removeprefix("held_out_loss_")
    for number, parameter in enumerate(denoiser.parameters()):
        assert torch.equal(parameter, kept[f"{best}.{number}"])
        assert not torch.equal(kept[f"ema_0.02.{number}"], kept[f"ema_0.27.{number}"])
    trained, held = 12 * trainer.batch_size, trainer.kept_back.tolist()
    assert len(held) == 8 and dataset.asked[32 + trained :] == 2 * DRAWS * held
    assert denoiser.told[trained:] == 2 * DRAWS * dataset.labels[held].tolist()
    assert denoiser.told[:trained].count(trainer.condition.classes) > trained / 2


def test_a_coupling_across_the_classes_of_a_condition_is_refused():
    coupling, condition = (
        registry.build(*each) for each in (("coupling", "minibatch_ot"), ("condition", "clusters"))
    )
    diffusion(coupling=coupling)
    with pytest.raises(MistakeError, match="MinibatchOT pairs across the classes of the condition"):
        diffusion(coupling=coupling, condition=condition)


def test_a_denoiser_is_trained_on_the_noise_that_the_coupling_gives(tmp_path):
    """Here none, so that of latents at time t, on the straight path, 1 - t is left."""
    given, inputs, denoiser = [], [], TinyDenoiser()

    def nothing(latents, noise):
        given.append((latents.clone(), noise))
        return torch.zeros_like(noise)

    denoiser.register_forward_pre_hook(lambda _, called: inputs.append(called))
    run_stage(diffusion(denoiser=denoiser, coupling=nothing, steps=1, previews=0), tmp_path)
    ((latents, noise),), ((noisy, time),) = given, inputs
    assert noise.std() > 0.5 and latents.shape == noise.shape
    torch.testing.assert_close(noisy, (1 - time / 1000).view(-1, 1, 1, 1) * latents)


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"ema": "post_hoc"}, "held out: add held_out = 0.05"),
        ({"ema_stds": [0.05, 0.1], "held_out": 0.1}, 'widths of ema = "post_hoc": add that'),
    ],
)
def test_averages_without_what_chooses_them_are_refused(options, wrong):
    with pytest.raises(MistakeError, match=wrong):
        diffusion(**options)
