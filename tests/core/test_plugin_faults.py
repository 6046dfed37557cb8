"""A stranger's fault is contained: real distributions, installed apart, and the real program."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PLUGIN = """
from uldm_core import Component, hookimpl

@hookimpl
def uldm_components():
    return {records}
"""
GOOD = 'Component("loss", "{name}_loss", "{name}_parts:Loss", summary="of a stranger")'
PARTS = """
class Loss:
    def __call__(self, prediction, target):
        return (prediction - target).square().mean()
"""


def records(text):
    return PLUGIN.replace("{records}", text)


FAULTS = {  # name: (code of the plugin's module, what the warning says, what the fix says)
    "raises": ("import json\njson.loads('{')", "was skipped: JSONDecodeError", "pip uninstall raises-dist"),
    "exits": ("import sys\nsys.exit(3)", "was skipped: SystemExit: 3", "--block exits"),
    "lacks": ("import no_such_library", "No module named 'no_such_library'", "pip install no_such_library"),
    "halves": (
        records(f"[{GOOD}, Component('loss', 'a/b', 'x:y')]"),
        "ValueError",
        "pip uninstall halves-dist",
    ),
    "strays": (
        records(f"[{GOOD}, 'loss']"),
        "must return a list of Component records, got 'loss'",
        "--block strays",
    ),
    "guesses": (
        records(f"[{GOOD}, Component('lose', 'b', 'x:y')]"),
        "did you mean 'loss'",
        "--block guesses",
    ),
    "vague": (records("None"), "must return a list of Component records, got None", "--block vague"),
    "single": (records(GOOD), "must return a list of Component records", "--block single"),
    "mistypes": (
        "from uldm_core import hookimpl\n@hookimpl\ndef uldm_component():\n    return []",
        "unknown hook 'uldm_component'",
        "--block mistypes",
    ),
    "usurps": (
        "from uldm_core import hookimpl\nfrom uldm_core.kinds import Kind\n@hookimpl\n"
        "def uldm_kinds():\n    return [Kind('loss', 'usurps_parts:Loss', '')]",
        "it brings a kind 'loss', which uldm has",
        "--block usurps",
    ),
    "misnames": (
        "from uldm_core import Command, hookimpl\n@hookimpl\n"
        "def uldm_commands():\n    return [Command('run it', 'x')]",
        "was skipped: ValueError",
        "--block misnames",
    ),
    "repeats": (
        records(f"[{GOOD}, {GOOD}]"),
        "it brings loss/repeats_loss more than once",
        "--block repeats",
    ),
    "commands": (
        "from uldm_core import Command, hookimpl\n@hookimpl\n"
        "def uldm_commands():\n    return [Command('run', 'x:y'), Command('sample', 'x:y')]",
        "it brings a command 'run', which uldm has",
        "--block commands",
    ),
    "silent": ("", "it announces nothing", "--block silent"),
    "absent": (None, "No module named 'absent_plugin'", "--block absent"),
    "hollow": ("", "has no attribute 'hooks'", "--block hollow"),
}
CLAIMS = records("[Component('quantizer', 'vq_ema', '{name}_parts:Loss')]")


def wheel(folder, name, code, entry=None, distribution=None):
    """Write a wheel with one plugin."""
    distribution = distribution or f"{name}-dist"
    info = f"{distribution.replace('-', '_')}-1.0.dist-info"
    files = {
        f"{name}_parts.py": PARTS,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[uldm.plugins]\n{name} = {entry or f'{name}_plugin'}\n",
    }
    if code is not None:
        files[f"{name}_plugin.py"] = code.replace("{name}", name)
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{distribution.replace('-', '_')}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def uldm(*arguments, site, **environment):
    env = {**os.environ, "PYTHONPATH": str(site), "ULDM_STRICT": "", "ULDM_BLOCK": "", **environment}
    command = [sys.executable, "-m", "uldm_core.cli.main", *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def warnings_of(result):
    return [line for line in result.stderr.splitlines() if line.startswith("warning: ")]


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """Every faulty distribution, installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheels")
    found = {}
    for name, code in {"claims": CLAIMS, **{name: code for name, (code, _, _) in FAULTS.items()}}.items():
        found[name] = tmp_path_factory.mktemp(name)
        path = wheel(folder, name, code, "hollow_plugin:hooks" if name == "hollow" else None)
        with zipfile.ZipFile(path) as archive:
            archive.extractall(found[name])
    return found


@pytest.fixture(scope="module")
def doctor(sites):
    """What ``uldm doctor`` says with all of them installed at once, by plugin."""
    result = uldm("doctor", site=os.pathsep.join(str(sites[name]) for name in FAULTS))
    assert result.returncode == 0, result.stderr
    assert len(warnings_of(result)) == len(FAULTS)
    parts = result.stdout.split("\nplugin '")
    return {part.partition("'")[0]: part for part in parts[1:]}


@pytest.mark.parametrize("name", FAULTS)
def test_everything_else_works_and_one_line_names_the_plugin(sites, name):
    result = uldm("ls", site=sites[name])
    assert result.returncode == 0
    assert "quantizer" in result.stdout and "vq_ema" in result.stdout
    (warning,) = warnings_of(result)
    assert result.stderr.strip() == warning
    assert f"plugin '{name}' of {name}-dist 1.0" in warning
    assert FAULTS[name][1] in warning
    assert f"{name}_loss" not in result.stdout and f"{name}-dist" not in result.stdout, "all or nothing"


@pytest.mark.parametrize("name", FAULTS)
def test_doctor_shows_the_place_and_the_fix(doctor, name):
    said = doctor[name]
    assert " of " + f"{name}-dist 1.0" in said
    assert f"fix: {FAULTS[name][2]}" in said or FAULTS[name][2] in said.partition("fix: ")[2]
    assert "imported in" in said
    if name in ("raises", "exits", "lacks"):
        assert f'{name}_plugin.py", line ' in said
    if name not in ("guesses", "usurps", "commands"):
        assert "Traceback" in said


@pytest.mark.parametrize("name", FAULTS)
def test_strict_makes_it_an_error(sites, name):
    result = uldm("ls", "--strict", site=sites[name])
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert f"error: plugin '{name}' of {name}-dist 1.0" in result.stderr
    assert FAULTS[name][1] in result.stderr


def test_strict_may_be_said_by_the_environment_and_stand_anywhere(sites):
    assert uldm("ls", site=sites["raises"], ULDM_STRICT="1").returncode == 2
    assert uldm("--strict", "ls", site=sites["raises"]).returncode == 2


@pytest.mark.parametrize("arguments", [["--block", "exits", "ls"], ["ls", "--block=exits"], ["ls"]])
def test_a_blocked_plugin_is_not_even_imported(sites, arguments):
    block = {} if len(arguments) > 1 else {"ULDM_BLOCK": "exits"}
    result = uldm(*arguments, site=sites["exits"], ULDM_STRICT="1", **block)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_name_that_nobody_has_cannot_be_blocked(sites):
    result = uldm("ls", "--block", "exitss", "--block", "exits", site=sites["exits"])
    assert warnings_of(result) == ["warning: no plugin 'exitss' to block (did you mean 'exits'?)"]


def test_a_recipe_without_the_plugin_runs(sites, tmp_path):
    recipe = Path(__file__).parents[2] / "recipes" / "mnist_smoke.toml"
    tiny = ["stages.first.steps=1", "dataset.limit=64", "stages.first.batch_size=4", "--threads", "1"]
    result = uldm("run", recipe, *tiny, "--until", "first", "--out", tmp_path / "run", site=sites["exits"])
    assert result.returncode == 0, result.stderr
    assert len(warnings_of(result)) == 1


def test_our_own_component_keeps_its_name_and_the_strangers_has_its_full_one(sites):
    assert uldm("ls", "--strict", site=sites["claims"]).returncode == 0
    result = uldm("check", "quantizer/claims/vq_ema", site=sites["claims"])
    assert result.returncode == 1 and "claims-dist 1.0" in result.stdout


def test_two_distributions_with_one_entry_point_are_both_named(tmp_path):
    for distribution in ("first-dist", "second-dist"):
        path = wheel(tmp_path, "twins", records(f"[{GOOD}]"), distribution=distribution)
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path / "site")
    result = uldm("ls", "loss", site=tmp_path / "site")
    (warning,) = warnings_of(result)
    assert "'twins' of second-dist 1.0 was skipped: first-dist has an entry point of that name" in warning
    assert "twins_loss" in result.stdout


def test_nobody_takes_the_place_of_uldms_own_plugin(tmp_path):
    code = records("[Component('quantizer', 'vq', 'x:y')]")
    with zipfile.ZipFile(wheel(tmp_path, "uldm", code, distribution="a")) as archive:
        archive.extractall(tmp_path / "site")
    result = uldm("ls", "quantizer", "--json", site=tmp_path / "site")
    (warning,) = warnings_of(result)
    assert "plugin 'uldm' of a 1.0 was skipped: uldm has an entry point of that name" in warning
    assert {row["plugin"] for row in json.loads(result.stdout) if row["name"] == "vq"} == {"uldm"}
    (tmp_path / "uldm.py").write_text(code)
    result = uldm("validate", "mnist_smoke", "--plugin", tmp_path / "uldm.py", site="")
    assert result.returncode == 2 and "uldm's own components have this name" in result.stderr


def test_a_distribution_installed_by_pip_is_contained_too(tmp_path):
    path = wheel(tmp_path, "raises", FAULTS["raises"][0])
    install = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path / "site"), str(path)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, timeout=120)
    result = uldm("ls", site=tmp_path / "site")
    assert result.returncode == 0
    assert "plugin 'raises' of raises-dist 1.0 was skipped" in result.stderr


BROKEN_PARTS = "import no_such_library\n"


def test_a_component_whose_module_fails_says_so_when_it_is_built(tmp_path, sites):
    with zipfile.ZipFile(wheel(tmp_path, "late", records(f"[{GOOD}]"))) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "site" / "late_parts.py").write_text(BROKEN_PARTS)
    assert uldm("ls", site=tmp_path / "site").stderr == ""
    result = uldm("check", "loss/late_loss", site=tmp_path / "site")
    assert result.returncode in (1, 2)
    said = result.stdout + result.stderr
    assert "loss/late_loss cannot be imported: ModuleNotFoundError: No module named 'no_such_library'" in said
    assert "late_parts.py:1" in said and "pip install no_such_library" in said
