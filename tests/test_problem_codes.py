"""Each code of a problem is documented, with an example that has it."""

import re
import shlex
from pathlib import Path

import pytest

from uldm_core import Component, MistakeError, Problem, Recipe, Registry, Where, check
from uldm_core.engine import requirements as needed
from uldm_core.errors import CODES
from uldm_core.preflight.preflight import preflight

PAGE = (Path(__file__).parent.parent / "docs/problems.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## ([a-z-]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def everything():
    """The installed plugins, and a component whose library is not installed."""
    found = Registry()
    found.load_plugins()
    found.register(Component("denoiser", "acme", "acme.nets:Net", requires="acme"))
    return found


def problems_of(arguments, registry):
    try:
        recipe = Recipe.load(arguments[0], arguments[1:])
        if problems := check(recipe, registry):
            return problems
        resolved = recipe.resolve(registry)
        found, device = preflight(resolved), needed.device_here(resolved.run)
        if found.problems:
            return found.problems
        data = needed.opened_data(resolved)
        return needed.requirements(resolved, found, resolved.stages, device, data).problems
    except MistakeError as error:
        return error.problems


def test_the_documented_codes_are_those_that_there_are():
    assert list(SECTIONS) == list(CODES)


def test_a_code_is_one_of_them():
    with pytest.raises(ValueError, match="code"):
        Problem(Where(), "is wrong", code="unheard-of")


@pytest.mark.parametrize("code", [code for code in CODES if code != "other"])
def test_a_documented_example_has_its_code_and_message(code, everything, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(needed, "memory_of", lambda device: 32 * 10**9)
    example, message = re.findall(r"^```\w+\n(.*?)^```", SECTIONS[code], re.MULTILINE | re.DOTALL)
    command = re.fullmatch(r"uldm validate (.*)\n", example)
    Path("mine.toml").write_text(example, "utf-8")
    problem = problems_of(shlex.split(command[1]) if command else ["mine.toml"], everything)[0]
    assert problem.code == code and f"{problem}\n".startswith(message)
