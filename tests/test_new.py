"""``uldm new plugin``: what it writes works as written."""

import json
import os
import subprocess
import sys
from importlib import import_module, invalidate_caches
from pathlib import Path

import pytest

from uldm_core import MistakeError, check, registry
from uldm_core.recipe import Recipe
from uldm_core.registry.plugins import collect
from uldm_core.testing import Profile, check_component
from uldm_plugins.commands.new import SCAFFOLD, package

ROOT = Path(__file__).parents[1]
KINDS = sorted(path.name.partition(".")[0] for path in (SCAFFOLD / "kinds").iterdir())
QUICK = Profile(examples=2, seconds=0.05)


def write(folder, name, kind):
    for path, text in package(name, kind).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, "utf-8")


def test_there_is_a_starting_point_for_every_kind():
    assert set(KINDS) == set(registry.default().kinds)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_component_keeps_its_contract_and_its_recipe_is_right(kind, tmp_path, monkeypatch):
    name = f"fresh_{kind}"
    write(tmp_path, name, kind)
    monkeypatch.syspath_prepend(str(tmp_path))
    invalidate_caches()
    plugin = collect(import_module(f"{name}.plugin"), name)
    (component,) = plugin.components
    check_component(kind, component.load(), profile=QUICK).raise_for_failures()
    own = registry.Registry()
    own.load_plugins()
    own.add_plugin(plugin)
    recipe = Recipe.load(tmp_path / "recipe.toml")
    assert check(recipe, own) == []
    assert name in recipe.resolve(own).to_toml()


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("My-Thing", "loss", "cannot be a package's name"),
        ("torch", "loss", "installed already"),
        ("vq_ema", "quantizer", "registered already"),
        ("mine", "quantiser", "did you mean 'quantizer'"),
    ],
)
def test_what_cannot_be_written_is_refused(name, kind, message):
    with pytest.raises(MistakeError, match=message):
        package(name, kind)


def run(*command, folder, env=None):
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_new_user_scaffolds_installs_lists_checks_tests_and_runs(tmp_path):
    uldm = [sys.executable, "-m", "uldm_core.cli.main"]
    run(*uldm, "new", "plugin", "my_quantizer", "--kind", "quantizer", folder=tmp_path)
    folder, site = tmp_path / "my_quantizer", tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", site, ".", folder=folder)
    env = {**os.environ, "PYTHONPATH": str(site)}
    rows = json.loads(run(*uldm, "ls", "quantizer", "--json", folder=tmp_path, env=env))
    assert ("my_quantizer", "my-quantizer") in {(row["name"], row["distribution"]) for row in rows}
    assert "0 failed" in run(*uldm, "check", "quantizer/my_quantizer", folder=tmp_path, env=env)
    run(sys.executable, "-m", "pytest", "-q", folder=folder, env=env)
    run(*uldm, "run", "recipe.toml", folder=folder, env=env)
    assert (folder / "runs" / "recipe" / "samples.png").is_file()


def test_a_folder_is_not_written_over(tmp_path):
    command = [sys.executable, "-m", "uldm_core.cli.main", "new", "plugin", "fresh", "--kind", "loss"]
    run(*command, folder=tmp_path)
    (tmp_path / "fresh" / "README.md").write_text("mine", "utf-8")
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert (tmp_path / "fresh" / "README.md").read_text("utf-8") == "mine"
