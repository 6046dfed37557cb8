"""Shapes carried through a recipe: what does not fit, what cannot be measured, and what things cost."""

from typing import Protocol

import numpy as np
import pytest
import torch
from torch import nn

from uldm_core import Component, MistakeError, Partial, hookimpl, registry
from uldm_core.errors import UnavailableError
from uldm_core.kinds import Kind
from uldm_core.preflight import measure, preflight, probes
from uldm_core.protocols import Optimizer
from uldm_core.recipe import Recipe, ResolvedRecipe
from uldm_core.registry.plugins import collect
from uldm_plugins.diagram.network_levels import network_levels

COMPONENTS = {"dataset": "points", "autoencoder": "halving"}


class Halving(nn.Module):
    """An autoencoder of images [B, 1, 4, 4] to latents [B, 4, 2, 2]; what it promises can be bent."""

    def __init__(
        self, in_channels: int, latent_channels: int = 4, downscale: int = 2, grows: int = 2
    ) -> None:
        super().__init__()
        self.latent_channels, self.downscale = latent_channels, downscale
        self.down = nn.Conv2d(in_channels, 4, 2, stride=2)
        self.up = nn.ConvTranspose2d(4, in_channels, grows, stride=grows)

    def encode(self, x):
        return self.down(x), {}

    def decode(self, latents):
        return self.up(latents)

    def forward(self, x):
        latents, losses = self.encode(x)
        return self.decode(latents), latents, losses


class Wide(nn.Module):
    """A denoiser for latents of some channels, which it may get wrong."""

    def __init__(self, width: int = 4, out: int = 4) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, out, 1)

    def forward(self, latents, conditioning):
        return self.convolution(latents)


class Conditional(Wide):
    """A denoiser that adds a row for the class, which may be too wide."""

    def __init__(self, row: int = 4, classes: int = 0) -> None:
        super().__init__()
        self.rows = nn.Embedding(classes + 1, row)

    def forward(self, latents, time, condition=None):
        return self.convolution(latents) + self.rows(condition)[:, :, None, None]


class Patches(nn.Module):
    """A discriminator."""

    receptive_field = 2

    def __init__(self, in_channels: int, logits: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, logits, 2)

    def forward(self, images):
        return self.convolution(images)


class Maps(nn.Module):
    """A frozen backbone."""

    def __init__(self, channels: tuple[int, ...] = (3,)) -> None:
        super().__init__()
        self.channels = channels
        self.layer = nn.Conv2d(1, 3, 1)
        self.requires_grad_(False)

    def forward(self, images):
        return (self.layer(images),)


class Draws:
    """A sampler that asks for no more steps than there are."""

    def __init__(self, steps: int = 3, side: int = 0) -> None:
        self.steps, self.side = steps, side

    def __call__(self, denoise, noise_scheduler, noise, generator):
        if self.steps > noise_scheduler.timesteps:
            raise ValueError(f"{self.steps} sampling steps, but the noise scheduler has 3 timesteps")
        assert noise_scheduler.values == [0, 0.5, 1] and not noise.is_meta
        for _ in range(self.steps):
            noise = noise + denoise(noise, torch.ones(len(noise)))
        return noise[..., self.side :]


class Parts:
    """A condition."""

    classes = 7


class Moved:
    """An augmentation, which may lose a column."""

    parameters = 2

    def __init__(self, leaks: bool = False, lost: int = 0) -> None:
        self.leaks, self.lost = leaks, lost

    def __call__(self, images, parameters):
        return images[..., self.lost :]


class Augmented(Conditional):
    """A denoiser that adds a layer of what was done to the images, which may be too wide."""

    def __init__(self, row: int = 4, augmentation: int = 0) -> None:
        super().__init__()
        self.layer = nn.Linear(augmentation, row) if augmentation else None

    def forward(self, latents, time, condition=None, augmentation=None):
        added = 0 if augmentation is None else self.layer(augmentation)[:, :, None, None]
        return self.convolution(latents) + added


class Steps:
    """A noise scheduler."""

    prediction, timesteps = "flow", 3

    def __init__(self) -> None:
        self.values = torch.linspace(0, 1, 3).tolist()


def failing(fail):
    """A loss that fails where it is called."""

    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, prediction, target):
            fail(prediction)

    return Fails


def raising(error):
    def fail(images):
        raise error

    return failing(fail)


class Endless:
    def __call__(self, prediction, target):
        while True:
            prediction = prediction * 1


class Learns:
    """A stage that trains an autoencoder, a discriminator and a backbone."""

    trains, makes, needs = ("autoencoder", "backbone"), (), ()

    def __init__(
        self,
        autoencoder: registry.default().kind("autoencoder").load_protocol(),
        discriminator: registry.default().kind("discriminator").load_protocol() | None = None,
        backbone: registry.default().kind("backbone").load_protocol() | None = None,
        batch_size: int = 8,
        optimizer: Partial[Optimizer] = "sgd",
        discriminator_optimizer: Partial[Optimizer] = "sgd",
    ) -> None: ...


REFUSING = {
    "added": failing(lambda images: images + torch.zeros(3)),
    "single": failing(lambda images: images.item()),
    "objects": raising(ValueError("too small\nby far")),
}
LACKING_VALUES = {
    "item": failing(lambda images: images.sum().item()),
    "branches": failing(lambda images: images.sum() > 0 or None),
    "nonzero": failing(lambda images: images[images > 0].numpy()),
    "elsewhere": failing(lambda images: images + torch.from_numpy(np.ones((2, 1, 4, 4)))),
    "own": raising(RuntimeError("a shape of its own, and torch has not refused any")),
    "missing": raising(NotImplementedError("no kernel")),
    "unavailable": raising(UnavailableError("no weights")),
    "odd": raising(KeyError("x")),
    "exits": raising(SystemExit(3)),
}


@pytest.fixture
def flown(registry):
    """Return the preflight of tables that are added to the components."""
    more = [
        ("autoencoder", "halving", Halving),
        ("denoiser", "wide", Wide),
        ("denoiser", "conditional", Conditional),
        ("condition", "parts", Parts),
        ("denoiser", "augmented", Augmented),
        ("augmentation", "moved", Moved),
        ("discriminator", "patches", Patches),
        ("backbone", "maps", Maps),
        ("sampler", "draws", Draws),
        ("noise_scheduler", "steps", Steps),
        ("loss", "endless", Endless),
        ("stage", "learns", Learns),
        *(("loss", name, target) for name, target in {**REFUSING, **LACKING_VALUES}.items()),
    ]
    for kind, name, target in more:
        registry.register(Component(kind, name, target))

    def flown(**tables):
        return preflight.preflight(Recipe.from_dict({**COMPONENTS, **tables}).resolve(registry))

    return flown


def row(found, name):
    (row,) = [row for row in found.rows if row.component == name]
    return row


def problems_of(found):
    return [str(problem) for problem in found.problems if not problem.warning]


def test_a_recipe_that_fits_has_a_row_a_component_in_order(flown):
    found = flown(
        denoiser="wide",
        discriminator="patches",
        noise_scheduler="steps",
        sampler="draws",
        backbone="maps",
        distance_loss="distance",
        stages={"first": {"use": "train", "losses": [{"use": "distance"}]}},
    )
    assert not problems_of(found)
    assert [(row.component, row.output) for row in found.rows] == [
        ("dataset: points", "[B, 1, 4, 4]"),
        ("autoencoder: halving", "[B, 4, 2, 2]"),
        ("denoiser: wide", "[B, 4, 2, 2]"),
        ("discriminator: patches", "[B, 1, 3, 3]"),
        ("noise_scheduler: steps", ""),
        ("sampler: draws", "[B, 4, 2, 2]"),
        ("backbone: maps", "[B, 3, 4, 4]"),
        ("distance_loss: distance", "a number"),
        ("first.losses[0]: distance", "a number"),
    ]


@pytest.mark.parametrize(
    ("tables", "where", "what"),
    [
        (
            {"autoencoder": {"use": "halving", "latent_channels": 5}},
            "autoencoder",
            "latents are [2, 4, 2, 2], not [2, 5, 2, 2]",
        ),
        (
            {"autoencoder": {"use": "halving", "downscale": 4}},
            "autoencoder",
            "latents are [2, 4, 2, 2], not [2, 4, 1, 1]",
        ),
        (
            {"autoencoder": {"use": "halving", "grows": 3}},
            "autoencoder",
            "reconstructions are [2, 1, 6, 6], not [2, 1, 4, 4]",
        ),
        (
            {"denoiser": {"use": "wide", "out": 3}},
            "denoiser",
            "predictions are [2, 3, 2, 2], not [2, 4, 2, 2]",
        ),
        (
            {"denoiser": {"use": "wide", "width": 8}},
            "denoiser",
            "does not take latents [2, 4, 2, 2]: Given groups=1, weight of size [4, 8, 1, 1], expected "
            "input[2, 4, 2, 2] to have 8 channels, but got 4 channels instead "
            "(in convolution: Conv2d(8, 4, kernel_size=(1, 1), stride=(1, 1)))",
        ),
        (
            {"condition": "parts", "denoiser": {"use": "conditional", "row": 5}},
            "denoiser",
            "does not take latents [2, 4, 2, 2]: The size of tensor a (4) must match the size of tensor b "
            "(5) at non-singleton dimension 1",
        ),
        (
            {"condition": "parts", "denoiser": "wide"},
            "denoiser",
            "takes no condition, and the recipe has one",
        ),
        (
            {"augmentation": "moved", "denoiser": "wide"},
            "denoiser",
            "cannot be given what the augmentation did, and the recipe's does not leak",
        ),
        (
            {"augmentation": "moved", "condition": "parts", "denoiser": "conditional"},
            "denoiser",
            "cannot be given what the augmentation did, and the recipe's does not leak",
        ),
        (
            {"augmentation": "moved", "denoiser": {"use": "augmented", "row": 5}},
            "denoiser",
            "does not take latents [2, 4, 2, 2]: The size of tensor a (4) must match the size of tensor b "
            "(5) at non-singleton dimension 1",
        ),
        (
            {"augmentation": {"use": "moved", "leaks": True, "lost": 1}, "denoiser": "wide"},
            "augmentation",
            "images are [2, 1, 4, 3], not [2, 1, 4, 4]",
        ),
        (
            {"discriminator": {"use": "patches", "logits": 2}},
            "discriminator",
            "logits are [2, 2, 3, 3], not [2, 1, 3, 3]",
        ),
        (
            {"backbone": {"use": "maps", "channels": [3, 4]}},
            "backbone",
            "its maps have [3] channels, and it declares [3, 4]",
        ),
        (
            {"noise_scheduler": "steps", "sampler": {"use": "draws", "steps": 4}},
            "sampler",
            "4 sampling steps, but the noise scheduler has 3 timesteps",
        ),
        (
            {"noise_scheduler": "steps", "sampler": {"use": "draws", "side": 1}},
            "sampler",
            "samples are [2, 4, 2, 1], not [2, 4, 2, 2]",
        ),
        (
            {"loss": "added"},
            "loss",
            "does not take images [2, 1, 4, 4]: The size of tensor a (4) must match the size of tensor b (3) "
            "at non-singleton dimension 3",
        ),
        (
            {"loss": "single"},
            "loss",
            "does not take images [2, 1, 4, 4]: a Tensor with 32 elements cannot be converted to Scalar",
        ),
        ({"loss": "objects"}, "loss", "does not take images [2, 1, 4, 4]: too small"),
    ],
)
def test_what_does_not_fit_is_reported_at_the_component(flown, tables, where, what):
    found = flown(**tables)
    (problem,) = [problem for problem in found.problems if not problem.warning]
    assert (problem.where.key, problem.what) == ((where,), what)
    assert "does not fit" in [row.output for row in found.rows]


def test_a_denoiser_is_made_for_the_classes_of_the_condition_and_given_one(flown):
    found = flown(condition="parts", denoiser="conditional")
    assert problems_of(found) == []
    assert (row(found, "denoiser: conditional").output, row(found, "denoiser: conditional").parameters) == (
        "[B, 4, 2, 2]",
        20 + 8 * 4,
    )


@pytest.mark.parametrize(("leaks", "added"), [(False, 12), (True, 0)])
def test_a_denoiser_is_made_for_the_parameters_of_an_augmentation_that_does_not_leak(flown, leaks, added):
    plain = row(flown(denoiser="augmented"), "denoiser: augmented").parameters
    found = flown(augmentation={"use": "moved", "leaks": leaks}, denoiser="augmented")
    assert problems_of(found) == []
    assert row(found, "augmentation: moved").output == "[B, 1, 4, 4]"
    assert row(found, "denoiser: augmented").parameters == plain + added
    assert problems_of(flown(augmentation={"use": "moved", "leaks": True}, denoiser="wide")) == []


def test_the_shapes_around_are_the_hint(flown):
    (problem,) = flown(loss="objects").problems
    assert problem.hint == "images are [B, 1, 4, 4]; latents are [B, 4, 2, 2]"


@pytest.mark.parametrize("name", LACKING_VALUES)
def test_what_only_lacks_values_is_not_measurable_and_stops_nothing(flown, name):
    found = flown(loss=name)
    assert not problems_of(found)
    failed = row(found, f"loss: {name}")
    assert failed.output == "not measurable" and failed.why and failed.parameters == 6


class Painter(Protocol):
    """A kind of a plugin's own: images to images."""

    def paint(self, images): ...


class Oils(nn.Module):
    """A painter in one convolution."""

    def __init__(self, colours: int = 1, least: int = 0) -> None:
        super().__init__()
        self.brush, self.least = nn.Conv2d(colours, 2, 1), least

    def paint(self, images):
        if images.shape[-1] < self.least:
            raise ValueError(f"needs {self.least} pixels")
        return self.brush(images)


def paint(inputs, painter, batch):
    images = inputs.images(batch)
    return probes.expect_shape("pictures", painter.paint(images), (batch, 2, *images.shape[2:]))


class Atelier:
    @hookimpl
    def uldm_kinds(self):
        return [
            Kind(
                "painter", f"{__name__}:Painter", "images to images", probe=f"{__name__}:paint", network=True
            )
        ]

    @hookimpl
    def uldm_components(self):
        return [Component("painter", "oils", Oils)]


@pytest.mark.parametrize(
    ("options", "output", "expected"),
    [
        ({}, "[B, 2, 4, 4]", []),
        (
            {"least": 8},
            "does not fit",
            ["painter: does not take images [2, 1, 4, 4]: needs 8 pixels"],
        ),
        ({"colours": 3}, "does not fit", ["painter: does not take images [2, 1, 4, 4]: Given groups=1"]),
    ],
)
def test_a_plugins_own_kind_is_probed_and_drawn_as_ours_are(registry, options, output, expected):
    registry.add_plugin(collect(Atelier(), "atelier"))
    recipe = Recipe.from_dict({**COMPONENTS, "autoencoder": "coder", "painter": {"use": "oils", **options}})
    found = preflight.preflight(recipe.resolve(registry))
    painter = row(found, "painter: oils")
    assert painter.output == output
    assert [
        problem[: len(start)] for problem, start in zip(problems_of(found), expected, strict=True)
    ] == expected
    if not expected:
        assert (painter.parameters, painter.flops) == (4, 2 * 2 * 16)
        levels = next(known for known in network_levels(recipe.resolve(registry)) if known.name == "painter")
        assert (levels.input, levels.output, levels.network) == ((1, 4, 4), (2, 4, 4), True)
        assert [block.path for level in levels.parts[0].levels for block in level.blocks] == ["brush"]


def test_a_probe_that_cannot_be_imported_leaves_its_component_unmeasured(registry):
    registry.kinds["painter"] = Kind("painter", f"{__name__}:Painter", "", probe="no_such_module:paint")
    registry.register(Component("painter", "oils", Oils))
    found = preflight.preflight(Recipe.from_dict({"painter": "oils"}).resolve(registry))
    assert "no_such_module" in row(found, "painter: oils").why


def test_time_is_up_for_a_pass_that_never_ends(flown, monkeypatch):
    flown(denoiser="wide")  # torch has imported what it needs
    monkeypatch.setattr(preflight, "SECONDS", 0.3)
    assert row(flown(loss="endless"), "loss: endless").why == "took too long"


def test_without_a_noise_scheduler_a_sampler_is_not_measured_and_nothing_is_wrong(flown):
    found = flown(sampler="draws")
    assert row(found, "sampler: draws").why == "there is no noise_scheduler to run it with"
    assert not problems_of(found)


def test_parameters_and_operations_are_those_counted_by_hand(flown):
    found = flown(denoiser="wide", backbone="maps")
    coder = row(found, "autoencoder: halving")
    # down: 4 filters of 1 x 2 x 2 and a bias each; up: 4 of 1 x 2 x 2 and one bias
    assert (coder.parameters, coder.trainable) == (4 * 4 + 4 + 4 * 4 + 1, 37)
    # down: 4 channels x 4 places x 4 products; up: the same products, spread; two operations each
    assert coder.flops == 2 * (4 * 4 * 4) + 2 * (4 * 4 * 4)
    assert row(found, "denoiser: wide").flops == 2 * (4 * 4 * 4)
    assert (row(found, "backbone: maps").parameters, row(found, "backbone: maps").trainable) == (6, 0)


def test_a_training_step_holds_weights_gradients_state_and_what_the_pass_keeps(flown):
    found = flown(
        discriminator="patches", backbone="maps", stages={"first": {"use": "learns", "batch_size": 8}}
    )
    assert not problems_of(found)
    # a gradient and Adam's two averages; both convolutions keep their input: images and latents
    assert row(found, "autoencoder: halving").memory == 4 * (4 * 37 + 8 * 16 + 8 * 16)
    assert row(found, "discriminator: patches").memory == 4 * (4 * 5 + 8 * 16)
    thawed = row(found, "backbone: maps")
    assert (thawed.trainable, thawed.memory) == (6, 4 * (4 * 6 + 8 * 16))


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 10),
        nn.Tanh(),
    )


def test_what_a_pass_keeps_is_what_it_keeps_with_values():
    real, shapes = small_net(), small_net().to("meta")
    own = {tensor.data_ptr() for tensor in [*real.parameters(), *real.buffers()]}
    kept = {}

    def note(tensor):
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        real(torch.ones(5, 1, 6, 6)).sum()
    wanted = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    images = torch.ones(5, 1, 6, 6, device="meta")
    assert measure.activations(shapes, lambda: shapes(images)) == wanted > 0


def test_the_table_is_aligned_and_plain_values_say_the_same(flown):
    found = flown(denoiser="wide")
    lines = found.table().splitlines()
    assert lines[0].split("  ")[0] == "component" and lines[2].split() == [
        "autoencoder:", "halving", "[B,", "4,", "2,", "2]", "37", "256",
    ]  # fmt: skip
    assert lines[0].index("output") == lines[1].index("[B, 1") == lines[2].index("[B, 4")
    assert found.to_json()[1]["flops"] == 256 and found.to_json()[1]["component"] == "autoencoder: halving"


@pytest.mark.parametrize(
    ("number", "said"),
    [(None, ""), (0, "0"), (999, "999"), (1000, "1.0 k"), (1_234_567, "1.2 M"), (5e9, "5.0 G")],
)
def test_large_numbers_are_short(number, said):
    assert preflight.short(number) == said


def test_a_run_is_refused_with_everything_that_does_not_fit(flown, registry):
    resolved: ResolvedRecipe = Recipe.from_dict(
        {**COMPONENTS, "denoiser": {"use": "wide", "out": 3}, "loss": "objects"}
    ).resolve(registry)
    with pytest.raises(MistakeError) as caught:
        preflight.checked(resolved)
    assert [problem.where.key for problem in caught.value.problems] == [("denoiser",), ("loss",)]
