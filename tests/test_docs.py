"""What docs say is so: recipes are right, Python runs, commands are commands; the site is whole."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest
from click.testing import CliRunner

from uldm_core import check, registry
from uldm_core.cli.main import cli
from uldm_core.recipe import Recipe
from uldm_core.registry.component import Component
from uldm_core.testing.checks import module
from uldm_core.testing.contract import contract_of
from uldm_core.toml_text.parse import parse_toml

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
TEXTS = PAGES | {"README.md": (ROOT / "README.md").read_text("utf-8")}
SAMPLES = ROOT / "uldm_plugins/datasets/image_samples"
SMALL = """\
uldm = 1
extends = "mnist_smoke"
dataset.limit = 200
stages.first.steps = 2
stages.first.batch_size = 16
stages.second.steps = 2
stages.samples.count = 20
"""
WRONG = """\
uldm = 1
sead = 1

[vars]
width = 64.5

[dataset]
use = "mnist"

[autoencoder]
use = "vqvae_fast"
quantizer = { use = "vq_ema", codebok_size = 256 }

[latent_scaling]
use = "unit_variance"
[denoiser]
use = "unet"
time_emb_dim = "${vars.width}"

[noise_scheduler]
use = "diffusers.DDPMScheduler"

[stages.samples]
use = "sample"
count = 100


[stages.first]
steps = "800"
use = "train_autoencoder"
losses = ["l1"]

[stages.second]
use = "train_diffusion"
"""


def blocks(language: str, texts: dict[str, str] = PAGES) -> list:
    """Return the fenced blocks of a language, each named by its page and place."""
    return [
        pytest.param(code, id=f"{page}-{number}")
        for page, text in texts.items()
        for number, code in enumerate(
            re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        )
    ]


def commands_of(shell: str) -> Iterator[list[str]]:
    """Yield the calls of ``uldm`` in a block of shell, each as a list of words."""
    for line in re.split(r"\n|&&|\|", re.sub(r"(^|\s)#.*", "", shell)):
        words = shlex.split(line.partition(">")[0])
        if words[:1] == ["uldm"]:
            yield words[1:]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with the shipped recipes and some photos, to be in."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copytree(SAMPLES, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code, elsewhere):
    exec(compile(code, "docs", "exec"), {"__name__": "docs"})


@pytest.mark.parametrize("code", blocks("toml"))
def test_recipes_are_right(code, elsewhere):
    content = parse_toml(code)
    if "uldm" in content:  # the format's number, without which it is no recipe
        Path("mine.toml").write_text(code, "utf-8")
        assert check(Recipe.load("mine.toml")) == []


def test_the_mistakes_that_recipes_shows_are_printed_so(elsewhere):
    shown = next(
        code for code in re.findall(r"```text\n(.*?)```", PAGES["recipes.md"], re.DOTALL) if "sead" in code
    )
    Path("mine.toml").write_text(WRONG, "utf-8")
    result = CliRunner().invoke(cli, ["validate", "mine.toml"])
    printed = result.stderr.replace(f"{elsewhere}/", "").splitlines()
    assert printed.pop() == "mine.toml: 6 problems"
    for line, actual in zip(shown.splitlines(), printed, strict=True):
        assert line == actual or (line.endswith("...") and actual.startswith(line[: -len("...")]))


@pytest.mark.parametrize("shell", blocks("bash", TEXTS))
def test_commands_can_be_read(shell):
    for name, *arguments in commands_of(shell):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, name
        while isinstance(command, click.Group):
            command, arguments = command.commands[arguments[0]], arguments[1:]
        command.make_context(name, arguments)


@pytest.mark.parametrize("page", TEXTS)
def test_commands_components_and_tests_that_are_named_exist(page):
    commands = cli.list_commands(click.Context(cli))
    assert {name for name in re.findall(r"`uldm ([a-z]\w*)", TEXTS[page]) if name not in commands} == set()
    kinds = registry.default().kinds
    for kind, name in re.findall(r"`(\w+)/([\w/]+)`", TEXTS[page]):
        if kind in kinds:
            registry.default().get(kind, name)
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXTS[page]):
        assert not name or f"def {name}(" in (ROOT / path).read_text("utf-8"), f"{path}::{name}"


def test_the_tests_that_mathematics_names_by_their_last_file_exist():
    file = ""
    for path, name in re.findall(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`", PAGES["mathematics.md"]):
        file = path or file
        assert f"def {name}(" in (ROOT / file).read_text("utf-8"), f"{file}::{name}"


class Page(HTMLParser):
    """The anchors of a page of the site, and what it links to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.anchors.add(values.get("id") or "")
        self.links.update(value for name, value in attributes if name in ("href", "src") and value)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site's folder, and its pages by their paths in it."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "docs", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder, {path.relative_to(folder).as_posix(): Page(path) for path in folder.rglob("*.html")}


@pytest.mark.slow
def test_links_and_anchors_within_the_site_lead_somewhere(site):
    folder, pages = site
    dead = []
    for place, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (folder / place).parent / unquote(parts.path) if parts.path else folder / place
            name = target.resolve().relative_to(folder.resolve()).as_posix()
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in pages[name].anchors):
                dead.append(f"{place}: {link}")
    assert dead == []


@pytest.mark.slow
def test_pages_fetch_nothing_from_elsewhere(site):
    folder, pages = site
    for place in pages:
        text = (folder / place).read_text("utf-8")
        assert not re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"(?:https?:)?//", text), place


@pytest.mark.slow
def test_every_component_command_and_check_has_its_place(site):
    folder, pages = site
    own = [c for c in registry.default().components() if c.distribution == "uldm"]
    for component in own:
        name = registry.default().name_of(component)
        anchor = re.sub(r"[^a-z0-9]+", "-", f"{component.kind}-{name}")
        assert anchor in pages[f"reference/components/{component.kind}.html"].anchors, component.path
    assert "reference/components/loss.html#loss-lpips" in pages["mathematics.html"].links
    context = click.Context(cli)
    for name in cli.list_commands(context):
        assert f"uldm-{name}" in pages["commands.html"].anchors
        command = cli.get_command(context, name)
        for below in getattr(command, "commands", ()):
            assert f"uldm-{name}-{below}" in pages["commands.html"].anchors
    contracts = (folder / "contracts.html").read_text("utf-8")
    kinds = {component.kind for component in own}
    for contract in [module.contract, *(contract_of(registry.default().kind(kind)) for kind in kinds)]:
        assert [check.name for check in contract.checks if f">{check.name}<" not in contracts] == []


@pytest.mark.slow
def test_a_component_whose_library_is_absent_has_its_place_all_the_same(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs/_extensions")
    monkeypatch.setattr(Component, "installed", property(lambda component: not component.requires))
    pages = dict(import_module("generated_pages").generated_pages())
    section = pages["components/backbone.md"].partition("## features\n")[2].partition("\n## ")[0]
    assert "pip install timm" in section and "| `model` |" not in section


@pytest.mark.slow
def test_the_first_run_goes_as_its_page_says(elsewhere):
    """All of its commands, one after the other, on a recipe of a few steps."""
    Path("recipes/mnist_latent.toml").write_text(SMALL, "utf-8")
    photos = next(code for code in re.findall(r"```toml\n(.*?)```", PAGES["first_run.md"], re.DOTALL))
    Path("photos.toml").write_text(photos, "utf-8")
    for shell in re.findall(r"```bash\n(.*?)```", PAGES["first_run.md"], re.DOTALL):
        for arguments in commands_of(shell.replace("steps=4000", "steps=4")):
            if arguments == ["run", "photos.toml"]:  # hours, and weights from the network
                arguments.append("--dry-run")

            done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
            assert done.exit_code == 0, f"uldm {' '.join(arguments)}\n{done.output}"
    for path in re.findall(r"^    ([\w.]+\.\w+) ", PAGES["first_run.md"], re.MULTILINE):
        assert Path("runs/mnist_latent", path).is_file(), path
