"""Losses and the feature networks behind them."""

import pytest
import torch
from torch import nn

from uldm_core import MistakeError, registry
from uldm_core.recipe.reader import Reader
from uldm_plugins.nn.frozen import without_gradients

BACKBONES = [
    ("mnist_classifier", {}),
    ("mnist_judge", {}),
    ("vgg16", {"weights": "random"}),
    ("squeezenet", {"weights": "random"}),
    ("dummy", {}),
]


@pytest.fixture(scope="module", params=BACKBONES, ids=lambda case: case[0])
def backbone(request):
    name, options = request.param
    return registry.build("backbone", name, **options)


@pytest.mark.parametrize("channels", [1, 3])
def test_feature_maps_are_as_declared_finest_first(backbone, channels):
    maps = backbone(torch.rand(2, channels, 32, 32) * 2 - 1)
    assert [m.shape[1] for m in maps] == list(backbone.channels)
    sides = [m.shape[-1] for m in maps]
    assert sides == sorted(sides, reverse=True)


def test_a_backbone_stays_frozen_and_still_passes_gradients(backbone):
    images = (torch.rand(2, 1, 28, 28) * 2 - 1).requires_grad_()
    before = [m.detach().clone() for m in backbone.eval()(images)]
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    maps = backbone.train()(images)
    assert all(torch.equal(a, b) for a, b in zip(before, maps))
    assert all(torch.equal(state[name], value) for name, value in backbone.state_dict().items())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    sum(m.square().mean() for m in maps).backward()
    assert images.grad.abs().sum() > 0


def test_grey_images_equal_their_three_copies(backbone):
    grey = torch.rand(2, 1, 28, 28) * 2 - 1
    for one, three in zip(backbone(grey), backbone(grey.expand(-1, 3, -1, -1))):
        assert torch.allclose(one, three, atol=1e-5)


@pytest.mark.parametrize(("name", "at_least"), [("mnist_classifier", 0.994), ("mnist_judge", 0.99)])
def test_shipped_classifiers_know_the_digits(name, at_least):
    test = registry.build("dataset", "mnist", subset="test")
    classifier = registry.build("backbone", name)
    with torch.inference_mode():
        logits = torch.cat(
            [classifier.logits(images.float() / 127.5 - 1) for images in test.pixels[::5].split(500)]
        )
    assert (logits.argmax(1) == test.labels[::5]).float().mean() >= at_least


def test_a_thawed_classifier_trains_and_freezes_again():
    classifier = registry.build("backbone", "mnist_judge", weights="random").thaw().train()
    assert classifier.training and all(p.requires_grad for p in classifier.parameters())
    assert not classifier.freeze().train().training


def test_unknown_weights_are_refused_with_the_choices():
    with pytest.raises(MistakeError, match="'mnist', 'random' or a safetensors file"):
        registry.build("backbone", "mnist_judge", weights="nowhere.safetensors")


@pytest.mark.parametrize("name", ["l1", "l2", "charbonnier", "huber", "lpips"])
def test_a_distance_is_zero_at_equality_with_finite_gradients(name):
    options = {"backbone": "mnist_classifier", "heads": "even"} if name == "lpips" else {}
    loss = registry.build("loss", name, **options)
    images = torch.rand(2, 1, 28, 28) * 2 - 1
    other = images.flip(0).clone().requires_grad_()
    same = images.clone().requires_grad_()
    assert loss(same, images).item() == pytest.approx(0, abs=1e-7)
    assert loss(other, images).item() > 1e-4
    for prediction in (same, other):
        (gradient,) = torch.autograd.grad(loss(prediction, images), prediction)
        assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


def test_lpips_has_finite_gradients_on_blank_images():
    loss = registry.build("loss", "lpips", backbone={"use": "vgg16", "weights": "random"})
    blank = torch.zeros(1, 3, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(blank, torch.zeros(1, 3, 32, 32)), blank)
    assert torch.isfinite(gradient).all()


def test_hinge_is_the_published_formula():
    hinge = registry.build("adversarial_loss", "hinge")
    real, fake = torch.tensor([[2.0, 0.5, -1.0]]), torch.tensor([[-2.0, 0.0, 3.0]])
    assert hinge.discriminator(real, fake).item() == pytest.approx(0.5 * (2.5 / 3 + 5 / 3))
    assert hinge.generator(fake).item() == pytest.approx(-1 / 3)


def test_lsgan_and_vanilla_are_the_published_formulas():
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-2.0, 0.0]])
    lsgan, vanilla = (registry.build("adversarial_loss", name) for name in ("lsgan", "vanilla"))
    assert lsgan.discriminator(real, fake).item() == pytest.approx(0.5 * (1.25 / 2 + 4 / 2))
    assert lsgan.generator(fake).item() == pytest.approx((9 + 1) / 2)
    ones, zeros = torch.ones_like(real), torch.zeros_like(real)
    entropy = nn.functional.binary_cross_entropy_with_logits
    expected = 0.5 * (entropy(real, ones) + entropy(fake, zeros))
    assert vanilla.discriminator(real, fake).item() == pytest.approx(expected.item())
    assert vanilla.generator(fake).item() == pytest.approx(entropy(fake, ones).item())


def test_charbonnier_and_huber_are_the_published_formulas():
    first, second = torch.tensor([0.0, 1.0]), torch.tensor([0.05, 0.0])
    charbonnier = registry.build("loss", "charbonnier", epsilon=0.1)
    expected = (0.0125**0.5 + 1.01**0.5) / 2 - 0.1
    assert charbonnier(first, second).item() == pytest.approx(expected)
    huber = registry.build("loss", "huber", delta=0.1)
    assert huber(first, second).item() == pytest.approx((0.5 * 0.05**2 + 0.1 * 0.95) / 2)


def test_no_gradient_is_left_in_a_network_that_only_passes_it_on():
    network = nn.Linear(3, 1)
    x = torch.ones(2, 3, requires_grad=True)
    with without_gradients(network):
        network(x).sum().backward()
    assert x.grad is not None and network.weight.grad is None
    assert network.weight.requires_grad


def warned(loss, metric, **components):
    """Return which components a recipe with these backbones is warned of."""
    tables = {
        "dataset": "mnist",
        "autoencoder": "vqvae_fast",
        **components,
        "stages": {
            "first": {"use": "train_autoencoder", "losses": [{"use": "lpips", "backbone": loss}]},
            "scores": {"use": "evaluate", "metrics": [{"use": "kid", "backbone": metric}]},
        },
    }
    reader = Reader(registry=registry.default(), data={"uldm": 1, **tables})
    reader.read()
    return [problem.where.key[1:] for problem in reader.problems if problem.code == "shared-backbone"]


@pytest.mark.parametrize(
    ("loss", "metric", "same"),
    [
        ("dummy", "dummy", True),
        ("dummy", {"use": "dummy"}, True),
        ({"ref": "seen"}, "vgg16", True),
        ("vgg16", {"ref": "seen"}, True),
        ("vgg16", {"use": "vgg16", "weights": "random"}, False),
        ("vgg16", {"use": "vgg16", "auto_download": False}, True),
        ({"use": "vgg16", "weights": "a/own.pth"}, {"use": "vgg16", "weights": "b/own.pth"}, True),
        ({"use": "vgg16", "weights": "a/own.pth"}, {"use": "vgg16", "weights": "a/other.pth"}, False),
        ({"use": "vgg16", "weights": "random"}, {"use": "vgg16", "weights": "random"}, False),
        ("mnist_classifier", "mnist_judge", False),
    ],
)
def test_a_metric_in_the_features_that_a_loss_trains_on_is_warned_of(loss, metric, same):
    seen = {"kind": "backbone", "use": "vgg16"}
    assert warned(loss, metric, seen=seen) == [("scores", "metrics", 0)] * same
