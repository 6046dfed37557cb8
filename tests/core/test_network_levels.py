"""What networks look like inside: levels, shapes and parameters, against what was counted by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from uldm_core import Component, MistakeError
from uldm_core.protocols import Quantizer
from uldm_core.recipe import Recipe
from uldm_plugins.diagram import network_levels as levels_module
from uldm_plugins.diagram import trace
from uldm_plugins.diagram.network_levels import network_levels


class Residual(nn.Module):
    """A block made of layers, with attention if asked for."""

    def __init__(self, inputs, outputs, attends=False):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.SiLU())
        self.attends = attends

    def forward(self, x):
        x = self.body(x)
        if self.attends:
            tokens = x.flatten(2).transpose(1, 2)
            x = x + F.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2).view(x.shape)
        return x


class Hourglass(nn.Module):
    """A U-Net of 4x4 latents with a parameter of its own, and an embedding of the time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.told = nn.Linear(1, 8)
        self.downs = nn.ModuleList([Residual(channels, 8)])
        self.shrink = nn.Conv2d(8, 8, 2, stride=2)
        self.mids = nn.ModuleList([Residual(8, 8, attends=True), Residual(8, 8)])
        self.ups = nn.ModuleList([Residual(16, 8)])
        self.out = nn.Conv2d(8, channels, 1)

    def forward(self, latents, conditioning):
        told = self.told(conditioning[:, None])[:, :, None, None]
        skip = self.downs[0](latents)
        x = self.shrink(skip) + told
        for block in self.mids:
            x = block(x)
        x = F.interpolate(x, skip.shape[2:])
        return self.out(self.ups[0](torch.cat([x, skip], 1))) * self.scale[0]


class Squeezes(nn.Module):
    """An autoencoder whose quantizer is a component, of images [B, 1, 4, 4]."""

    downscale = 2

    def __init__(self, in_channels: int, quantizer: Quantizer) -> None:
        super().__init__()
        self.latent_channels = 4
        self.first = nn.Conv2d(in_channels, 4, 2, stride=2)
        self.quantizer = quantizer
        self.last = nn.ConvTranspose2d(4, in_channels, 2, stride=2)

    def encode(self, x):
        return self.quantizer(self.first(x))[:2]

    def decode(self, latents):
        return self.last(latents)

    def forward(self, x):
        latents, losses = self.encode(x)
        return self.decode(latents), latents, losses


class Rounds(nn.Module):
    """A quantizer with a layer, or one that needs values."""

    codebook_size, dim = 8, 4

    def __init__(self, needs_values: bool = False) -> None:
        super().__init__()
        self.layer, self.needs_values = nn.Conv2d(4, 4, 1), needs_values

    def forward(self, latents):
        if self.needs_values and latents.sum().item() > 1:
            return latents
        codes = self.layer(latents)
        return codes, {}, codes[:, :2].long()

    def lookup(self, indices):
        return indices


class Twice(nn.Module):
    """A discriminator that looks at the image, and at a smaller one."""

    receptive_field = 9

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(nn.Conv2d(in_channels, 1, 3) for _ in range(2))

    def forward(self, images):
        smaller = F.interpolate(images, scale_factor=0.75)
        return self.scales[0](images) + self.scales[1](smaller)


class Deep(nn.Module):
    """Widths, and no height: a row of blocks of one width, then another."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels, 6)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True) for _ in range(3))
        self.last = nn.Linear(6, channels)

    def forward(self, latents, conditioning):
        tokens = self.first(latents.flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens = block(tokens)
        return self.last(tokens).transpose(1, 2).reshape(latents.shape)


class Curious(nn.Module):
    """A denoiser that asks for values."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, 1)

    def forward(self, latents, conditioning):
        return self.layer(latents) if latents.sum().item() else latents


@pytest.fixture
def opened(registry):
    """Return the anatomy of a noun in a small recipe."""
    registry.register(Component("denoiser", "hourglass", Hourglass))
    registry.register(Component("denoiser", "deep", Deep))
    registry.register(Component("denoiser", "curious", Curious))
    registry.register(Component("autoencoder", "squeezes", Squeezes))
    registry.register(Component("quantizer", "rounds", Rounds))
    registry.register(Component("discriminator", "twice", Twice))
    registry.register(Component("discriminator", "shared", Shared))
    registry.register(Component("autoencoder", "one_way", OneWay))

    def opened(name, **tables):
        recipe = {"dataset": "points", "autoencoder": {"use": "coder"}, **tables}
        return next(a for a in network_levels(Recipe.from_dict(recipe).resolve(registry)) if a.name == name)

    return opened


def rows(part):
    return [(level.output, level.resize, level.attention, level.contents()) for level in part.levels]


def test_a_u_net_is_levels_down_a_bottleneck_and_levels_up_that_join_them(opened):
    net = opened("denoiser", denoiser="hourglass")
    assert rows(net.part("network")) == [
        ((8, 4, 4), "", False, [(1, "Residual")]),
        ((8, 2, 2), "down", True, [(1, "Conv2d"), (2, "Residual")]),
        ((4, 4, 4), "up", False, [(1, "Residual"), (1, "Conv2d")]),
    ]
    assert [level.bottleneck for level in net.part("network").levels] == [False, True, False]
    assert [level.joins for level in net.part("network").levels] == [False, False, True]
    assert [level.width for level in net.part("network").levels] == [8, 8, 8]
    assert (net.input, net.output) == ((4, 4, 4), (4, 4, 4))


def test_parameters_are_those_counted_by_hand_and_add_up(opened):
    net = opened("denoiser", denoiser="hourglass")
    wanted = [9 * 4 * 8 + 8, (4 * 8 * 8 + 8) + 2 * (9 * 8 * 8 + 8), (9 * 16 * 8 + 8) + (8 * 4 + 4)]
    assert [level.parameters for level in net.part("network").levels] == wanted
    assert net.part("conditioning").parameters == 8 + 8 and net.elsewhere == 5
    assert sum(part.parameters for part in net.parts) + net.elsewhere == net.row.parameters


def test_what_works_on_the_time_alone_is_told_from_the_network(opened):
    net = opened("denoiser", denoiser="hourglass")
    assert rows(net.part("conditioning")) == [((8,), "", False, [(1, "Linear")])]


def test_sequences_fold_into_one_level_as_long_as_their_shape_is_one(opened):
    net = opened("denoiser", denoiser="deep")
    assert rows(net.part("network")) == [
        ((16, 6), "", True, [(1, "Linear"), (3, "TransformerEncoderLayer")]),
        ((16, 4), "", False, [(1, "Linear")]),
    ]
    assert not any(level.bottleneck for level in net.part("network").levels)


def test_encoder_quantizer_and_decoder_are_told_apart(opened):
    coder = opened("autoencoder", autoencoder={"use": "squeezes", "quantizer": "rounds"})
    found = {part.name: (part.parameters, [level.output for level in part.levels]) for part in coder.parts}
    assert found == {
        "encoder": (4 * 4 + 4, [(4, 2, 2)]),
        "quantizer": (4 * 4 + 4, [(4, 2, 2)]),
        "decoder": (4 * 4 + 1, [(1, 4, 4)]),
    }
    assert coder.codebook == levels_module.Codebook("rounds", 8, 4) and coder.latents == (4, 2, 2)
    assert (coder.input, coder.output) == ((1, 4, 4), (1, 4, 4))


def test_what_ran_before_values_were_asked_for_is_shown_all_the_same(opened):
    quantizer = {"use": "rounds", "needs_values": True}
    coder = opened("autoencoder", autoencoder={"use": "squeezes", "quantizer": quantizer})
    assert "meta" in coder.why
    assert [level.output for level in coder.part("encoder").levels] == [(4, 2, 2)]
    assert [level.output for level in coder.part("decoder").levels] == [(1, 4, 4)]


def test_a_network_that_cannot_be_traced_says_why(opened):
    net = opened("denoiser", denoiser="curious")
    assert "meta" in net.why and net.part("network").levels == [] and net.row.parameters == 20


def test_a_branch_begins_anew_from_the_image(opened):
    net = opened("discriminator", discriminator="twice")
    assert [level.branch for level in net.part("network").levels] == [(), (1, 3, 3)]
    assert net.receptive_field == 9


def test_a_recipe_that_does_not_fit_is_refused(opened):
    with pytest.raises(MistakeError):
        opened("denoiser", denoiser={"use": "net", "width": "wide"})


def test_an_autoencoder_is_given_its_own_latents(opened):
    second = {"kind": "autoencoder", "use": "squeezes", "quantizer": "rounds"}
    found = opened("small", small=second)
    assert (found.latents, found.output) == ((4, 2, 2), (1, 4, 4))


class OneWay(Squeezes):
    """An autoencoder that cannot decode."""

    decode = None

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, Rounds())

    def forward(self, x):
        return x, *self.encode(x)


def test_an_autoencoder_without_a_way_back_is_no_traceback(opened):
    found = opened("autoencoder", autoencoder="one_way")
    assert found.part("decoder").why == "TypeError: 'NoneType' object is not callable"
    assert [level.output for level in found.part("encoder").levels] == [(4, 2, 2)]


class Shared(nn.Module):
    """A discriminator that pools, and runs one layer twice."""

    receptive_field = 4

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(in_channels, in_channels, 1)

    def forward(self, images):
        return self.layer(F.max_pool2d(self.layer(images), 2))


def test_a_layer_that_runs_twice_is_shown_twice_and_counted_once(opened):
    net = opened("discriminator", discriminator="shared").part("network")
    assert [(level.grid, level.parameters) for level in net.levels] == [((4, 4), 2), ((2, 2), 0)]
    assert [level.branch for level in net.levels] == [(), ()]


class Attention(nn.Module):
    """By its name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.layer(x)


def test_attention_beside_its_blocks_makes_no_level_of_its_own():
    network = nn.ModuleDict({"residuals": Residual(1, 1), "attentions": Attention(), "mids": Residual(1, 1)})
    with trace.Trace(network) as watch:
        x = trace.followed(torch.zeros(2, 1, 4, 4))
        for name in network:
            x = network[name](x)
    levels = levels_module.levels_of(trace.blocks_of(list(watch.top.blocks()), set(), follow=False))
    assert [level.contents() for level in levels] == [
        [(1, "Residual"), (1, "Attention")],
        [(1, "Residual")],
    ]
    assert [level.attention for level in levels] == [True, False]


def test_plain_values_say_the_same(opened):
    said = opened("denoiser", denoiser="hourglass").to_json()
    (network, told) = said["parts"]
    assert (said["kind"], said["use"], said["parameters"]) == ("denoiser", "hourglass", 2945)
    assert [level["parameters"] for level in network["levels"]] == [296, 1432, 1196]
    assert network["levels"][1]["blocks"][1] == {
        "path": "mids.0", "type": "Residual", "input": (8, 2, 2), "output": (8, 2, 2), "parameters": 584,
        "attention": True, "composite": True, "conditioning": False, "layer": True,
    }  # fmt: skip
    assert told["part"] == "conditioning"


def traced(network, *shape):
    given = trace.followed(torch.zeros(2, *shape))
    with trace.Trace(network) as watch:
        network(given)
    return [(call.path, call.output) for call in watch.top.blocks()]


class Whole(nn.Module):
    """Convolutions without a module around each level, as in many a first draft."""

    def __init__(self, stride):
        super().__init__()
        self.a, self.b = (nn.Conv2d(1, 1, 3, stride, 1) for _ in range(2))

    def forward(self, x):
        return self.b(self.a(x))


def test_a_module_is_one_block_as_long_as_it_changes_the_size_once_at_most():
    assert traced(nn.Sequential(Whole(1)), 1, 8, 8) == [("0", (1, 8, 8))]
    assert traced(nn.Sequential(Whole(2)), 1, 8, 8) == [("0.a", (1, 4, 4)), ("0.b", (1, 2, 2))]


def test_hooks_are_gone_afterwards_and_after_an_error():
    net = nn.Sequential(nn.Conv2d(1, 1, 1))
    with pytest.raises(RuntimeError, match="channels"), trace.Trace(net):
        net(torch.zeros(2, 3, 4, 4))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
