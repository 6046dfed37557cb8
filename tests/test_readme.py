"""README and docs do what they say: their Python runs, the recipe is right, the commands exist."""

import re
from pathlib import Path

import pytest

from uldm_core.recipe import Recipe
from uldm_core.recipe.document import parse_toml

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_python_of_the_docs_runs():
    text = (ROOT / "docs/components.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(compile(code, "docs/components.md", "exec"), {})


@pytest.mark.parametrize("index", range(len(blocks("python"))))
def test_python_blocks_run(index, monkeypatch, tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[index], f"README.md, python block {index}", "exec"), {})


def test_the_recipe_it_shows_is_right():
    recipe = next(block for block in blocks("toml") if "[stages.first]" in block)
    assert Recipe.from_dict(parse_toml(recipe)).check() == []


def test_the_recipes_it_names_exist():
    named = set(re.findall(r"recipes/(\w+)\.toml", README)) - {"mine"}
    assert named == {path.stem for path in (ROOT / "recipes").glob("*.toml")}


def test_the_mistake_it_shows_is_printed_so(tmp_path, monkeypatch):
    shown = next(block for block in blocks("text") if "codebok_size" in block)
    recipe = next(block for block in blocks("toml") if "[stages.first]" in block)
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()
    Path("recipes/mine.toml").write_text(recipe.replace("codebook_size", "codebok_size"))
    (problem,) = Recipe.load("recipes/mine.toml").check()
    line = next(n for n, text in enumerate(recipe.splitlines(), 1) if "quantizer" in text)
    assert str(problem).replace(f":{line}:", ":8:") == shown.rstrip()
