"""``uldm doctor``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from uldm_core.cli.common import json_option

if TYPE_CHECKING:
    from uldm_core.registry.plugins import Plugin

LIBRARIES = ("uldm", "torch", "torchvision", "safetensors", "numpy")


@click.command(short_help="Show versions, devices, plugins, weights, and what is missing.")
@json_option
def doctor(as_json: bool) -> None:
    """Show versions, devices, plugins, cached weights, and what is missing and how to get it.

    A broken plugin is shown with its traceback and the mend.
    """
    from uldm_core import registry

    plugins = list(registry.default().plugins.values())  # before torch is imported, to find who imports it
    report = {
        "versions": _versions(),
        "optional": _optional(),
        "machine": _machine(),
        "weights": _weights(),
        "recipes": _recipes(),
        "plugins": [_plugin(plugin) for plugin in plugins],
    }
    click.echo(json.dumps(report, indent=2) if as_json else "\n".join(_lines(report)))


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    system = {"python": platform.python_version(), "platform": platform.platform()}
    return {**system, **{library: version(library) for library in LIBRARIES}}


def _optional() -> dict[str, dict[str, str]]:
    """Return the libraries that components need and uldm does not: each with its version or how to get it."""
    from importlib.metadata import packages_distributions, version

    from uldm_core import registry
    from uldm_core.registry.component import how_to_install

    homes = packages_distributions()
    found = {}
    for component in registry.default().components():
        if component.requires:
            module = component.requires.partition(".")[0]
            here = version(homes[module][0]) if component.installed and homes.get(module) else ""
            get = "" if component.installed else how_to_install(component.requires, component.distribution)
            found[component.requires] = {"version": here, "install": get}
    return found


def _machine() -> dict[str, Any]:
    import torch

    from uldm_core.engine.device import choose_device, multiplies_bfloat16
    from uldm_core.recipe import RunOptions

    cuda = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    chosen = choose_device(RunOptions())
    return {
        "chosen": str(chosen),
        "threads": torch.get_num_threads(),
        "cuda": cuda,
        "mps": torch.backends.mps.is_available(),
        "bfloat16_in_hardware": multiplies_bfloat16(chosen.device),
    }


def _weights() -> dict[str, Any]:
    """Return what is in the folder where published weights are kept."""
    from pathlib import Path

    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    files = {path.name: path.stat().st_size for path in sorted(folder.glob("*")) if path.is_file()}
    return {"folder": str(folder), "files": files}


def _recipes() -> list[str]:
    from uldm_core.recipe.shipped import names

    return names()


def _plugin(plugin: Plugin) -> dict[str, Any]:
    return {
        "name": str(plugin),
        "skipped": plugin.skipped,
        "components": len(plugin.components),
        "commands": len(plugin.commands),
        "seconds": round(plugin.seconds, 3),
        "error": plugin.error,
        "mend": plugin.mend,
    }


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{name} {said}" for name, said in report["versions"].items()]
    lines += [
        f"{name} {row['version'] or 'is not installed: ' + row['install']}"
        for name, row in report["optional"].items()
    ]
    machine, weights = report["machine"], report["weights"]
    bfloat16 = "" if machine["bfloat16_in_hardware"] else "not "
    lines += [
        f"machine: {machine['chosen']}",
        f"CUDA devices: {', '.join(machine['cuda']) or 'none'}; MPS: {'yes' if machine['mps'] else 'no'}; "
        f"bfloat16 is {bfloat16}multiplied in hardware",
        f"published weights in {weights['folder']}: {', '.join(weights['files']) or 'none yet'}",
        "    one that is missing is fetched when it is first used; without a network, put the file there",
        f"shipped recipes: {', '.join(report['recipes'])}",
    ]
    for plugin in report["plugins"]:
        brings = f"{plugin['components']} components, {plugin['commands']} commands"
        state = "skipped" if plugin["skipped"] else brings
        lines.append(f"{plugin['name']}: {state}, imported in {plugin['seconds']:.2f} s")
        if plugin["error"]:
            lines += [f"    {line}" for line in plugin["error"].splitlines()]
            lines.append(f"    mend: {plugin['mend']}")
    return lines
