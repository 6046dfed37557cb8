"""The resolved recipe is the experiment: it says all, repeats the run, and is its own resolved form."""

from pathlib import Path
from typing import Annotated

import pytest
import torch
from attrs import evolve
from core.conftest import COMPONENTS, RECIPE
from hypothesis import given, settings
from hypothesis import strategies as st

from uldm_core import Component, Excludes, MistakeError, Registry
from uldm_core.engine.run import run
from uldm_core.recipe import Recipe
from uldm_core.run_folder.files import read_tensors
from uldm_core.run_folder.folder import RunFolder
from uldm_core.toml_text.parse import parse_toml


class _Smooth:
    """Averages by a decay, or else by a width."""

    trains, makes, needs = (), (), ()

    def __init__(self, decay: float = 0.9, std: Annotated[float, Excludes("decay")] | None = None) -> None:
        self.decay, self.std = decay, std

    def run(self, context):
        return {}


def registry_of(version="1.0"):
    own = Registry()
    for component in COMPONENTS:
        own.register(evolve(component, plugin="fake", distribution="fake-dist", version=version))
    return own


WIDTHS = st.integers(1, 4)
CHANGES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 9),
        "denoiser": st.fixed_dictionaries(
            {"use": st.just("net"), "width": WIDTHS, "mode": st.sampled_from(["fast", "slow"])}
        ),
        "run": st.fixed_dictionaries({}, optional={"threads": WIDTHS, "precision": st.just("float32")}),
        "vars": st.fixed_dictionaries({"w": WIDTHS}),
        "small_denoiser": st.sampled_from([{"use": "net", "width": "${vars.w}"}, "net"]),
    },
)


@settings(max_examples=40)
@given(CHANGES, st.sampled_from(["autoencoder", "autoencoder.quantizer"]), st.booleans())
def test_saving_and_loading_a_resolved_recipe_changes_nothing(tmp_path_factory, changes, key, short):
    registry, folder = registry_of(), tmp_path_factory.mktemp("resolved")
    (folder / "r.toml").write_text(RECIPE, "utf-8")
    data = {**Recipe.load(folder / "r.toml").to_dict(), **changes}
    data["stages"]["second"]["denoiser"] = {"ref": "small_denoiser"}
    if short:
        data["autoencoder"] = "coder"
    resolved = Recipe.from_dict(data).resolve(registry)
    resolved.save(folder / "resolved.toml")
    again = Recipe.load(folder / "resolved.toml").resolve(registry)
    again.save(folder / "again.toml")
    assert (folder / "again.toml").read_bytes() == (folder / "resolved.toml").read_bytes()
    assert again.to_dict() == resolved.to_dict()


def test_every_default_and_every_components_version_is_written(write):
    data = Recipe.load(write()).resolve(registry_of()).to_dict()
    assert data["denoiser"] == {"kind": "denoiser", "use": "net", "width": 2, "mode": "fast"}
    assert data["stages"]["first"]["optimizer"] == {"use": "sgd", "lr": 0.1}
    assert data["stages"]["first"]["autoencoder"] == {"ref": "autoencoder"}
    assert data["versions"]["quantizer/codes"] == "fake-dist 1.0" and len(data["versions"]) == len(COMPONENTS)


def test_the_resolved_recipe_repeats_the_run_bit_for_bit(registry, write, tmp_path):
    first = run(Recipe.load(write(), ["denoiser.width=3"]).resolve(registry), out=tmp_path / "one")
    second = run(Recipe.load(first / "recipe.toml").resolve(registry), out=tmp_path / "two")
    weights = [
        read_tensors(RunFolder(path).stage("first").weights("autoencoder")) for path in (first, second)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    keys = [
        RunFolder(path).stage(name).record().key
        for path in (first, second)
        for name in ("first", "second", "third")
    ]
    assert keys[:3] == keys[3:]
    assert (first / "recipe.toml").read_bytes() == (second / "recipe.toml").read_bytes()


def test_a_run_is_called_by_its_folder(registry, write, tmp_path):
    folder = run(Recipe.load(write()).resolve(registry), out=tmp_path / "digits")
    assert Recipe.load(folder).name == Recipe.load(folder / "recipe.toml").name == "digits"


def test_another_version_is_said_and_stops_nothing(write, tmp_path):
    Recipe.load(write()).resolve(registry_of()).save(tmp_path / "old.toml")
    newer = registry_of("2.0")
    plan = Recipe.load(tmp_path / "old.toml").resolve(newer)
    assert len(plan.warnings) == len(COMPONENTS)
    problem = next(p for p in plan.warnings if p.where.key == ("versions", "quantizer/codes"))
    assert (
        problem.what
        == "quantizer/codes was of fake-dist 1.0 when this was written, and is of fake-dist 2.0 now"
    )
    line = Path(tmp_path / "old.toml").read_text().splitlines()[problem.where.line - 1]
    assert line == '"quantizer/codes" = "fake-dist 1.0"'
    assert Recipe.load(tmp_path / "old.toml").resolve(registry_of()).warnings == []


def test_what_is_wrong_cannot_be_resolved(registry, write):
    with pytest.raises(MistakeError, match=r"16: stages.first.steps: expected an integer >= 1, got 0"):
        Recipe.load(write(("steps = 6", "steps = 0"))).resolve(registry)


def test_an_option_that_another_takes_the_place_of_is_not_written():
    text = RECIPE.replace("[stages.second]", '[stages.smooth]\nuse = "smooth"\nstd = 0.1\n\n[stages.second]')
    own = registry_of()
    own.register(Component("stage", "smooth", _Smooth))
    resolved = Recipe.from_dict(parse_toml(text)).resolve(own)
    assert resolved.to_dict()["stages"]["smooth"] == {"use": "smooth", "std": 0.1}
    assert Recipe.from_dict(resolved.to_dict()).resolve(own).to_dict() == resolved.to_dict()
