"""``uldm new``: starting points to write one's own from."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from string import Template

import click

from uldm_core.cli.common import FilePath
from uldm_core.errors import MistakeError, did_you_mean, listing

SCAFFOLD = Path(__file__).parents[1] / "scaffold"
DEFAULTS = {
    "dataset": 'use = "mnist"\nlimit = 2000',
    "autoencoder": 'use = "vqvae_fast"\nquantizer = "vq_ema"',
    "denoiser": 'use = "mlp"\nwidth = 128\nhidden = 256',
    "discriminator": "patchgan",
    "noise_scheduler": "flow",
    "latent_scaling": "unit_variance",
    "loss": "l1",
    "backbone": "mnist_classifier",
    "adversarial_loss": "hinge",
    "optimizer": "adamw",
    "lr_schedule": "cosine",
    "coupling": "independent",
    "timestep_weighting": "uniform",
    "guidance": "none",
    "sampler": "euler",
    "metric": "frechet_mnist",
    "augmentation": "",
    "condition": "",
    "stage": "",
    "tracker": "",
}
"""What the recipe of a new plugin uses for everything but the plugin's own component."""


@click.group()
def new() -> None:
    """Write a starting point: a recipe, or a package of your own."""


def _size(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Return height and width of ``64``, a square, or of ``96x64``."""
    if text is None:
        return None
    height, x, width = text.partition("x")
    sides = height, width if x else height
    if not all(side.isdecimal() and 8 <= int(side) <= 4096 for side in sides):
        raise click.BadParameter(f"{text!r} is no size: 64, or 96x64 with the height first; 8 to 4096 each")
    return int(sides[0]), int(sides[1])


@new.command()
@click.argument("path", type=FilePath(), default="mine.toml")
@click.option("--images", type=FilePath(), help="Your images: the recipe is made for this folder.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="How long the run may take, with --images.",
)
@click.option("--size", callback=_size, help="Of the images to draw: 64, or 96x64 with the height first.")
@click.option("--channels", type=click.Choice(["1", "3", "4"]), help="Grey, RGB, or RGB with transparency.")
@click.option("--gpu", is_flag=True, help="For a computer with a GPU, even if this is none.")
def recipe(
    path: Path,
    images: Path | None,
    minutes: float,
    size: tuple[int, int] | None,
    channels: str | None,
    gpu: bool,
) -> None:
    """Write a recipe to PATH, by default mine.toml: a small one to start from, or one for your images.

    With --images it looks at the folder and measures this computer for a few seconds, so that the run takes
    about so many minutes; the recipe's comments say why it is as it is.
    """
    if path.exists():
        raise MistakeError(f"{path} exists already", hint="choose another PATH")
    if not path.parent.is_dir():
        raise MistakeError(f"there is no folder {path.parent}")
    given = {"--size": size, "--channels": channels, "--gpu": gpu}
    if images is None and any(given.values()):
        names = " and ".join(name for name, value in given.items() if value)
        raise click.UsageError(f"{names} of what? Give the folder of your images: --images FOLDER")
    text = (SCAFFOLD / "mine.toml.tmpl").read_text("utf-8")
    if images:
        from uldm_plugins.own_images.facts import Request
        from uldm_plugins.own_images.recipe import own_recipe

        request = Request(minutes, size, int(channels) if channels else None)
        text = own_recipe(path, images, request, gpu, click.echo)
    path.write_text(text, "utf-8")
    written, schema = (quote(str(file)) for file in (path, path.parent / "uldm.schema.json"))
    click.echo(f"wrote {path}. Next:")
    click.echo(f"  uldm schema > {schema}    # for help in the editor")
    click.echo(f"  uldm validate {written}")
    click.echo(f"  uldm run {written}")


@new.command()
@click.argument("name")
@click.option("--kind", required=True, help="The kind of component, such as quantizer or loss.")
@click.option("--out", type=FilePath(), help="Where to write it; default ./NAME.")
def plugin(name: str, kind: str, out: Path | None) -> None:
    """Write an installable package NAME with a working component, its contract test and a recipe."""
    folder = out or Path(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MistakeError(f"{folder} exists already", hint="choose another NAME or --out")
    for path, text in package(name, kind).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, "utf-8")
    click.echo(f"wrote {folder}: {kind} {name!r}. Next:")
    click.echo(f"  cd {quote(str(folder))} && pip install -e '.[test]' && pytest")
    click.echo(f"  uldm check {kind}/{name}")
    click.echo("  uldm run recipe.toml")


def package(name: str, kind: str) -> dict[str, str]:
    """Return the files of a new package, by their paths.

    Raises:
        MistakeError: the name cannot be a package's, or there is no starting point for the kind.
    """
    _check_name(name)
    kinds = sorted(path.name.partition(".")[0] for path in (SCAFFOLD / "kinds").iterdir())
    if kind not in kinds:
        raise MistakeError(
            f"there is no starting point for kind {kind!r}{did_you_mean(kind, kinds)}",
            hint=f"there is one for: {listing(kinds)}",
        )
    class_name = name if kind == "optimizer" else "".join(part.capitalize() for part in name.split("_"))
    values = {
        "name": name,
        "kind": kind,
        "cls": class_name,
        "distribution": name.replace("_", "-"),
        "summary": "a first try",
        **_components(name, kind),
    }
    layout = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "recipe.toml": "recipe.toml",
        "tests/test_contract.py": "test_contract.py",
        f"{name}/plugin.py": "plugin.py",
        f"{name}/{kind}.py": f"kinds/{kind}.py",
    }
    files = {path: Template((SCAFFOLD / f"{file}.tmpl").read_text("utf-8")) for path, file in layout.items()}
    title = f'"""A {kind} for uldm."""\n'
    return {f"{name}/__init__.py": title, **{path: text.substitute(values) for path, text in files.items()}}


def _components(name: str, kind: str) -> dict[str, str]:
    """Return what the recipe uses for each kind: the new component, and built-ins for the rest."""
    chosen = dict(DEFAULTS)
    if kind == "stage":
        chosen["stage"] = f'\n[stages.{name}]\nuse = "{name}"'
    elif kind in ("augmentation", "condition"):
        chosen[kind] = f'\n[{kind}]\nuse = "{name}"\n'
    elif kind == "tracker":
        chosen["tracker"] = f'\n\n[run]\ntrackers = ["{name}"]'
    elif kind in ("dataset", "autoencoder", "denoiser"):
        chosen[kind] = f'use = "{name}"'
    elif kind == "quantizer":
        chosen["autoencoder"] = f'use = "vqvae_fast"\nquantizer = "{name}"'
    else:
        chosen[kind] = name
    return chosen


def _check_name(name: str) -> None:
    if not name.isidentifier() or name != name.lower() or name.startswith("_"):
        raise MistakeError(
            f"{name!r} cannot be a package's name",
            hint="lower-case letters, digits and underscores, such as my_quantizer",
        )
    if find_spec(name) is not None:
        raise MistakeError(f"a module {name!r} is installed already", hint="choose another name")
    from uldm_core import registry

    for component in registry.default().components():
        if component.name == name:
            raise MistakeError(f"{component.path} is registered already", hint="choose another name")
