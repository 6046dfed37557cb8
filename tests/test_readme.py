"""The README does what it says: its Python runs, the recipe is right, the commands exist."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from uldm_core import check
from uldm_core.cli.main import cli
from uldm_core.recipe import Recipe
from uldm_core.toml_text.parse import parse_toml

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("index", range(len(blocks("python"))))
def test_python_blocks_run(index, monkeypatch, tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[index], f"README.md, python block {index}", "exec"), {})


def test_the_recipe_it_shows_is_right():
    recipe = next(block for block in blocks("toml") if "[stages.first]" in block)
    assert check(Recipe.from_dict(parse_toml(recipe))) == []


def test_the_recipes_it_names_exist():
    named = set(re.findall(r"recipes/(\w+)\.toml", README)) - {"mine"}
    assert named == {path.stem for path in (ROOT / "recipes").glob("*.toml")}


def test_the_mistakes_it_shows_are_printed_so(tmp_path, monkeypatch):
    command, *shown = next(block for block in blocks("text") if "codebok_size" in block).splitlines()
    recipe = next(block for block in blocks("toml") if "[stages.first]" in block)
    for right, wrong in [
        ("codebook_size", "codebok_size"),
        ('"unet"', '"unte"'),
        ("steps = 900", 'steps = "900"'),
    ]:
        assert right in recipe
        recipe = recipe.replace(right, wrong)
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(recipe)
    result = CliRunner().invoke(cli, command.split()[2:])
    printed = result.stderr.replace(f"{tmp_path}/", "").splitlines()
    assert result.exit_code == 2 and len(printed) == len(shown)
    for actual, line in zip(printed, shown):
        assert actual == line or (line.endswith(" ...") and actual.startswith(line[: -len("...")]))
