"""The JSON Schema of recipes: good recipes pass it, what is wrong in structure fails it."""

import json
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from uldm_core import registry
from uldm_core.cli.main import cli
from uldm_core.errors import MistakeError
from uldm_core.toml_text.parse import parse_toml
from uldm_plugins.commands.json_schema import schema_of

ROOT = Path(__file__).parents[2]
GOOD = sorted((ROOT / "recipes").glob("*.toml"))
BAD = sorted((ROOT / "tests" / "bad_recipes").glob("*.toml"))
BASE = (ROOT / "recipes" / "mnist_smoke.toml").read_text("utf-8")


@cache
def made():
    schema = schema_of(registry.default())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.fixture
def validator():
    return made()


def test_the_command_prints_it_and_it_is_small():
    output = CliRunner().invoke(cli, ["schema"]).output
    assert json.loads(output) == schema_of(registry.default())
    assert len(output) < 600_000


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_shipped_recipes_pass(path, validator):
    assert [error.message for error in validator.iter_errors(parse_toml(path.read_text("utf-8")))] == []


def test_the_readmes_recipe_passes(validator):
    text = (ROOT / "README.md").read_text("utf-8")
    validator.validate(parse_toml(text.split("```toml\n")[1].split("```")[0]))


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_what_is_wrong_in_structure_fails(path, validator):
    text = path.read_bytes().decode("utf-8-sig")
    try:
        data = parse_toml(text)
    except MistakeError:
        assert "# structure: wrong" in text
        return
    if "# structure: wrong" in text:
        assert not validator.is_valid(data)


CHANGES = {
    "a resolved kind": ("[denoiser]\n", '[denoiser]\nkind = "denoiser"\n'),
    "another name": ("[stages.first]", '[tiny]\nkind = "denoiser"\nuse = "mlp"\n\n[stages.first]'),
    "the longest ending counts": ("[stages.first]", '[my_adversarial_loss]\nuse = "hinge"\n\n[stages.first]'),
    "a name by its ending": ("[stages.first]", '[small_denoiser]\nuse = "mlp"\nwidth = 3\n\n[stages.first]'),
    "a reference": ("count = 100", 'count = 100\ndenoiser = { ref = "small" }'),
    "a variable": ("count = 100", 'count = "${vars.n}"'),
    "a variable in a list": ('use = "patchgan"', 'use = "patchgan"\nchannels = [32, "${vars.n}"]'),
    "a bare name": ('quantizer = { use = "vq_ema" }', 'quantizer = "vq_ema"'),
    "a plugin's name": ('quantizer = { use = "vq_ema" }', 'quantizer = "uldm/vq_ema"'),
    "options of a default": ("count = 100", 'count = 100\nlatent_scaling = { use = "unit_variance" }'),
    "options of a default optimizer": (
        'use = "train_diffusion"',
        'use = "train_diffusion"\noptimizer = { lr = 0.1 }',
    ),
    "another run's": ('use = "mlp"', 'from = "runs/other"'),
    "another run's weights": ('use = "mlp"', 'use = "mlp"\nwidth = 3\nfrom = "runs/other"'),
    "one of two that exclude each other": (
        'use = "train_diffusion"',
        'use = "train_diffusion"\nema_std = 0.1',
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_can_be_written_passes(change, validator):
    old, new = CHANGES[change]
    assert old in BASE
    validator.validate(parse_toml(BASE.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('use = "mlp"', 'use = "mlp"\nwdith = 3'),
        ('use = "mlp"', 'use = "mlp"\nwidth = 0'),
        ('use = "mlp"', 'use = "mlp"\nkind = "autoencoder"'),
        ("[stages.first]", '[tiny]\nuse = "mlp"\n\n[stages.first]'),
        ("count = 100", 'count = 100\ndenoiser = { ref = "small", width = 3 }'),
        ('use = "train_diffusion"', 'use = "train_diffusion"\nema_std = 0.1\nema_decay = 0.5'),
        ('use = "train_diffusion"', 'use = "train_diffusion"\nema = "post_hoc"\nema_std = 0.1'),
        ('{ use = "l1" }', '{ use = "l1", weight = -1 }'),
        ('{ use = "l1" }', '{ use = "l1", start = 1.5 }'),
        ('{ use = "vq_ema" }', '{ use = "vq_ema", weight = 1.0 }'),
        ('use = "mlp"', 'ref = "other_denoiser"'),
        ("uldm = 1", "uldm = 2"),
    ],
)
def test_what_cannot_be_written_fails(old, new, validator):
    assert old in BASE and not validator.is_valid(parse_toml(BASE.replace(old, new, 1)))


def test_a_recipe_that_extends_another_may_say_a_part(validator):
    part = {"denoiser": {"width": 3}, "stages": {"first": {"steps": 3}}}
    assert validator.is_valid({"extends": "other.toml", **part}) and not validator.is_valid(part)
    assert not validator.is_valid({"extends": "other.toml", "denoiser": {"use": "mlp", "wdith": 3}})


COMPONENTS = [component for component in registry.default().components() if component.installed]


@settings(max_examples=30)
@given(st.sampled_from(COMPONENTS))
def test_every_components_example_passes_and_an_unknown_option_does_not(component):
    validator = made()
    name = registry.default().name_of(component)
    kind = registry.default().kind(component.kind)
    table = {"use": name, **component.example}

    def recipe(table):
        if kind.listed:
            return {"run": {f"{kind.name}s": [table]}}
        return {"stages": {"a": table}} if kind.stage else {f"some_{component.kind}": table}

    assert validator.is_valid(recipe(table)) or _lacks_a_required_option(component)
    assert not validator.is_valid(recipe({**table, "no_such_option": 1}))


def _lacks_a_required_option(component):
    options = registry.describe(component.kind, f"{component.plugin}/{component.name}").options
    return any(option.required and option.name not in component.example for option in options)
