"""The layers: which package may import which, and that nothing imports in a circle."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

CORE = (
    {"errors"},
    {"kinds", "paths", "shapes"},
    {"protocols"},
    {"registry"},
    {"spec"},
    {"toml_text"},
    {"recipe"},
    {"run_folder"},
    {"preflight"},
    {"engine"},
    {"cli", "testing"},
    {"__main__"},
)
"""Packages and modules of ``uldm_core``, lowest first: each may import those of lower rows, and itself.

The package ``registry`` itself, not its modules, is the public entry point: it calls ``spec`` to build.
"""

PLUGINS = {
    "shared": set(),
    "nn": {"shared"},
    "pictures": {"nn", "shared"},
    "diagram": set(),
    "report": {"pictures", "shared"},
    "stages": {"nn", "pictures", "shared"},
    "own_images": {"datasets", "shared"},
    "commands": {"diagram", "nn", "own_images", "pictures", "report", "shared", "stages"},
    "adapters": {"nn", "shared"},
    "manifest": set(),
    "trackers": {"report", "shared"},
}
"""Packages of ``uldm_plugins`` with the others that each may import; a kind's own: ``nn`` and ``shared``."""


@cache
def modules():
    """Return every module of both packages by its name."""
    found = {}
    for path in [*(ROOT / "uldm_core").rglob("*.py"), *(ROOT / "uldm_plugins").rglob("*.py")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def graph():
    """Return what each module imports of both packages: type-only and late imports too."""
    return {name: set(imports(name)) - {name} for name in modules()}


def imports(name):
    for node in ast.walk(ast.parse(modules()[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (module if module in modules() else node.module for module in inner)


def package(module):
    return module.split(".")[1] if "." in module else ""


def test_nothing_imports_in_a_circle():
    done, waiting = set(), []

    def visit(name):
        assert name not in waiting, " imports ".join([*waiting[waiting.index(name) :], name])
        if name in done:
            return
        waiting.append(name)
        for other in sorted(graph().get(name, ())):
            if other in modules():
                visit(other)
        done.add(waiting.pop())

    for name in sorted(modules()):
        visit(name)


def layer(name):
    return next(number for number, packages in enumerate(CORE) if name in packages)


PUBLIC = {"uldm_core", "uldm_core.registry"}


@pytest.mark.parametrize("name", sorted(name for name in modules() if name.startswith("uldm_core.")))
def test_the_core_imports_lower_layers_only(name):
    others = [module for module in graph()[name] if module.startswith("uldm_core.")]
    assert not [module for module in graph()[name] if module.startswith("uldm_plugins")]
    if name not in PUBLIC:
        above = [module for module in others if layer(package(module)) > layer(package(name))]
        assert not above, f"{name} imports {above}"


@pytest.mark.parametrize("name", sorted(name for name in modules() if name.startswith("uldm_plugins.")))
def test_a_package_of_plugins_imports_those_of_its_row_only(name):
    own = package(name)
    others = {package(module) for module in graph()[name] if module.startswith("uldm_plugins.")}
    assert others <= {own} | PLUGINS.get(own, {"nn", "shared"}), name
