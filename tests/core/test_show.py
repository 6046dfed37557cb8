"""What is shown of a component is true: its examples build, and its options are those it takes."""

import json

import pytest
from click.testing import CliRunner

from uldm_core import registry
from uldm_core.cli.main import cli
from uldm_core.errors import is_unavailable
from uldm_core.toml_text.parse import parse_toml

COMPONENTS = registry.default().components()


def shown(path):
    result = CliRunner().invoke(cli, ["show", path, "--json"], catch_exceptions=False)
    return json.loads(result.output)


def built_from(page):
    import torch

    autoencoder = registry.build("autoencoder", "vqvae_fast", in_channels=1)
    noted = {"registry": registry, "parameters": [torch.nn.Parameter(torch.zeros(2, 2))], "steps": 10}
    noted["autoencoder"] = autoencoder
    return eval(page["in_python"], noted)


@pytest.mark.parametrize("component", COMPONENTS, ids=registry.default().name_of)
def test_the_python_example_builds(component):
    page = shown(f"{component.kind}/{registry.default().name_of(component)}")
    assert parse_toml(page["in_a_recipe"])
    if component.kind == "stage":
        assert page["in_python"] is None
        return
    try:
        built = built_from(page)
    except Exception as error:
        if is_unavailable(error):
            pytest.skip(str(error))
        raise
    assert isinstance(built, registry.default().kind(component.kind).load_protocol())


def test_options_are_shown_with_type_default_and_help():
    options = {row["name"]: row for row in shown("denoiser/unet_2d")["options"]}
    assert options["channels"]["filled_from"] == "autoencoder.latent_channels"
    assert options["layers_per_block"]["default"] == 1
    assert options["layers_per_block"]["type"] == "an integer >= 1"
    assert options["norm_num_groups"]["help"] == "groups of each group norm."


def test_components_are_shown_by_their_kind():
    options = {row["name"]: row for row in shown("stage/train_autoencoder")["options"]}
    assert options["optimizer"]["type"] == "any optimizer"
    assert options["losses"]["type"] == "a list of (any loss with weight and start)"
    assert options["discriminator"]["type"] == "any discriminator or nothing"


def test_the_page_shows_what_the_json_has():
    page = shown("loss/lpips")
    text = CliRunner().invoke(cli, ["show", "loss/lpips"]).output
    assert text.startswith("loss/lpips (uldm ") and "arXiv 1801.03924" in text and "Args:" not in text
    assert page["in_python"] in text and page["in_a_recipe"] in text
    assert all(row["name"] in text and row["type"] in text for row in page["options"])
