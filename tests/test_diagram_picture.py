"""``uldm diagram --out``: every recipe and every network as a picture that can be read."""

import json
import re
from html import unescape
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch
from PIL import Image
from shipped import RUNNABLE, loaded
from torch import nn

from uldm_core import Component, Registry, registry
from uldm_core.cli import main as program
from uldm_core.errors import is_unavailable
from uldm_core.recipe import Recipe
from uldm_plugins.diagram.canvas import Style, settings, wrapped
from uldm_plugins.diagram.flowchart import graph_of
from uldm_plugins.diagram.network_levels import network_levels
from uldm_plugins.diagram.picture import picture

ROOT = Path(__file__).parent.parent
SMOKE = ROOT / "recipes/mnist_smoke.toml"
NETWORKS = ("autoencoder", "discriminator", "denoiser", "backbone")


def drawn(recipe, own=None):
    """Return a recipe's network levels and its picture."""
    resolved = recipe.resolve(own)
    found = network_levels(resolved)
    return found, picture(resolved, found)


def legible(figure):
    """Say which texts are cut off, lie on each other, or leave their box; nothing if all can be read."""
    with settings():
        renderer = FigureCanvasAgg(figure).get_renderer()
        (axes,) = figure.axes
        texts = [(text.get_text(), text.get_window_extent(renderer)) for text in axes.texts]
        boxes = [p.get_window_extent(renderer) for p in axes.patches if isinstance(p, FancyBboxPatch)]
    page = figure.bbox
    wrong = [f"{text!r} leaves the page" for text, at in texts if not _within(at, page)]
    wrong += [f"{a!r} lies on {b!r}" for (a, x), (b, y) in combinations(texts, 2) if x.overlaps(y)]
    for text, at in texts:
        around = [box for box in boxes if box.contains((at.x0 + at.x1) / 2, (at.y0 + at.y1) / 2)]
        wrong += [f"{text!r} leaves its box" for box in around if not _within(at, box)]
    return wrong


def _within(inner, outer):
    return outer.x0 <= inner.x0 and inner.x1 <= outer.x1 and outer.y0 <= inner.y0 and inner.y1 <= outer.y1


def words(figure):
    """Return all text without spaces: a long name is wrapped."""
    return "".join(text.get_text() for text in figure.axes[0].texts).replace(" ", "")


def sums(found):
    """Say of which networks the parts do not add up to the whole."""
    traced = [one for one in found if one.parts and not one.row.why]
    counted = {k.name: sum(part.parameters for part in k.parts) + k.elsewhere for k in traced}
    return {k.name for k in traced if counted[k.name] != (k.row.parameters or 0)}


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_drawn_and_can_be_read(path, tmp_path):
    recipe = loaded(path, tmp_path)
    found, figure = drawn(recipe)
    assert legible(figure) == [] and sums(found) == set()
    resolved = recipe.resolve()
    specs = [*resolved.components.values(), *resolved.stages.values()]
    named = {b.use for b in [*specs, *(part for b in specs for part in b.parts())]}
    assert {name for name in named if name not in words(figure)} == set()
    assert not [one.name for one in found if one.network and one.why]


def components():
    for component in registry.default().components():
        if component.kind in (*NETWORKS, "quantizer") and component.distribution == "uldm":
            slow = component.plugin != "uldm" or component.kind in ("backbone", "quantizer")
            name = registry.default().name_of(component)
            yield pytest.param(component, marks=[pytest.mark.slow] * slow, id=f"{component.kind}-{name}")


@pytest.mark.parametrize("component", list(components()))
def test_every_network_of_ours_is_drawn_and_can_be_read(component):
    use = registry.default().name_of(component)
    table = {"use": use, **component.example}
    data = {"dataset": {"use": "synthetic", "size": 64, "channels": 3}, "autoencoder": "identity"}
    if component.kind == "quantizer":
        data["autoencoder"] = {"use": "vqvae_fast", "quantizer": table}
    else:
        data[component.kind] = table
    try:
        found, figure = drawn(Recipe.from_dict(data))
    except Exception as error:
        if is_unavailable(error):
            pytest.skip(str(error))
        raise
    assert legible(figure) == [] and sums(found) == set() and use in words(figure)


def test_a_condition_goes_into_the_denoiser_its_training_and_sampling():
    recipe = Recipe.load(SMOKE, ['condition={use = "clusters", classes = 400}'])
    found, figure = drawn(recipe)
    assert not legible(figure) and not sums(found)
    line = "given the class of each image, one of 400, by the condition clusters"
    assert line.replace(" ", "") in words(figure)
    graph = graph_of(recipe.resolve())
    names = {node.id: node.lines[0].partition(":")[0] for node in graph.nodes}
    ways = {(names[edge.start], names[edge.end]) for edge in graph.edges}
    assert {("condition", "denoiser"), ("second", "condition"), ("condition", "samples")} <= ways


def test_the_levels_of_a_vqvae_are_those_of_its_options():
    found = network_levels(Recipe.load("mnist_ddpm").resolve())
    coder, net, discriminator = (next(k for k in found if k.kind == kind) for kind in NETWORKS[:3:1])
    assert [(level.grid, level.width) for level in coder.part("encoder").levels] == [
        ((28, 28), 32), ((14, 14), 64), ((7, 7), 64),
    ]  # fmt: skip
    assert coder.latents == (4, 7, 7) and (coder.codebook.size, coder.codebook.dim) == (256, 4)
    built = registry.build("autoencoder", "vqvae", in_channels=1, down_channels=[32, 64])
    for name in ("encoder", "quantizer", "decoder"):
        counted = sum(parameter.numel() for parameter in getattr(built, name).parameters())
        assert coder.part(name).parameters == counted
    assert (net.output, net.receptive_field) == ((1, 2, 2), 46)
    assert [(level.grid, level.attention) for level in discriminator.part("network").levels] == [
        ((7, 7), True), ((4, 4), True), ((7, 7), True),
    ]  # fmt: skip


def test_text_of_an_svg_can_be_selected_and_the_same_recipe_gives_the_same_bytes(tmp_path):
    files = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for file in files:
        assert program._run(["diagram", str(SMOKE), "denoiser.use=unet", "--out", str(file)]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    said = unescape(" ".join(re.findall(r"<text[^>]*>([^<]*)<", files[0].read_text("utf-8"))))
    for word in ("mnist_smoke", "vq_ema", "patchgan", "unet", "euler", "frechet_mnist", "train_diffusion"):
        assert word in said


@pytest.mark.parametrize(
    ("suffix", "begins"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")]
)
def test_other_formats(tmp_path, suffix, begins):
    out = tmp_path / f"x{suffix}"
    assert program._run(["diagram", "mnist_judge", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(begins)
    if suffix == ".png":
        with Image.open(out) as image:
            assert image.width == 1875  # 675 points at 200 dots an inch


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mnist_smoke", "--out", "x.jpg"], "must end in .svg, .png or .pdf"),
        (["mnist_smoke", "--out", "x"], "must end in .svg, .png or .pdf"),
        (["mnist_smoke", "--out", "nowhere/x.svg"], "there is no folder nowhere"),
        (["mnist_smoke", "--out", "x.svg", "--json"], "exclude each other"),
        (["mnist_smoke", "--json", "--format", "dot"], "exclude each other"),
        (["nowhere.toml", "--out", "x.svg"], "nowhere.toml"),
        (["mnist_smoke", "denoiser.use=unett", "--out", "x.svg"], "did you mean 'unet'"),
        (["mnist_smoke", "autoencoder.encoder_channels=[1,2,3]", "--out", "x.svg"], "must be as many"),
    ],
)
def test_mistakes_are_said_and_nothing_is_written(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert program._run(["diagram", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and not list(tmp_path.iterdir())


def test_json_holds_what_the_picture_shows(capsys):
    assert program._run(["diagram", str(SMOKE), "--json"]) == 0
    components = {one["name"]: one for one in json.loads(capsys.readouterr().out)["components"]}
    coder = components["autoencoder"]
    assert coder["codebook"] == {"use": "vq_ema", "size": 512, "dim": 4, "count": 1}
    assert [part["part"] for part in coder["parts"]] == ["encoder", "quantizer", "decoder"]
    assert coder["parts"][0]["levels"][0]["output"] == [32, 14, 14]
    assert (
        components["noise_scheduler"]["parts"] == [] and components["discriminator"]["receptive_field"] == 46
    )


class AnAutoencoderWithAClassNameThatIsMuchTooLongForAnyBoxOfAnyPictureInAnyPaper(nn.Module):
    """Twelve levels."""

    latent_channels, downscale = 8, 2**12

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        widths = [in_channels, *[8] * 12]
        self.down = nn.Sequential(*(nn.Conv2d(a, b, 2, 2) for a, b in pairwise(widths)))
        self.up = nn.Sequential(*(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairwise(widths[::-1])))

    def encode(self, x):
        return self.down(x), {}

    def decode(self, latents):
        return self.up(latents)

    def forward(self, x):
        latents, losses = self.encode(x)
        return self.decode(latents), latents, losses


class TheConvolutionWithALongName_1234567890_1234567890_1234567890(nn.Conv2d):
    """One of many."""


class Deep(nn.Module):
    """Thirty levels and one."""

    receptive_field = 63

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        widths = [in_channels, *[8] * 30, 1]
        layer = TheConvolutionWithALongName_1234567890_1234567890_1234567890
        self.layers = nn.Sequential(*(layer(a, b, 3) for a, b in pairwise(widths)))

    def forward(self, images):
        return self.layers(images)


class Curious(nn.Module):
    """A denoiser that asks for values."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, 1)

    def forward(self, latents, conditioning):
        return self.layer(latents) if latents.sum().item() else latents


ODD = {
    "autoencoder": AnAutoencoderWithAClassNameThatIsMuchTooLongForAnyBoxOfAnyPictureInAnyPaper,
    "discriminator": Deep,
    "denoiser": Curious,
}


def test_long_names_many_levels_and_the_untraceable_can_be_read():
    own = Registry()
    own.load_plugins()
    data = Recipe.load(SMOKE).to_dict() | {"dataset": {"use": "synthetic", "size": 4096, "channels": 3}}
    for kind, target in ODD.items():
        name = "a_component_named_so_that_it_fits_no_line_" * 2 + kind
        own.register(Component(kind, name, target))
        data[kind] = {"use": name}
    data["stages"]["a_sixth_stage_with_a_very_long_name"] = {"use": "evaluate"}
    found, figure = drawn(Recipe.from_dict(data, "a recipe of $x$ " + "and_a_name_without_end" * 6), own)
    assert legible(figure) == [] and sums(found) == set()
    assert [len(one.part("encoder").levels) for one in found if one.latents] == [12]
    assert "notmeasurable" in words(figure) and "15morelevels" in words(figure)


def test_a_word_is_cut_only_where_it_is_wider_than_a_line():
    style = Style(8)
    with settings():
        assert wrapped("two words", 1000, style) == ["two words"]
        assert wrapped("two words", 30, style) == ["two", "words"]
        assert wrapped("discriminator_optimizer", 70, style) == ["discriminator_", "optimizer"]
        assert "".join(wrapped("x" * 100, 30, style)) == "x" * 100
        assert wrapped("", 30, style) == []
