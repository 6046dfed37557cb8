"""``uldm doctor``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from uldm_core.cli.common import FilePath, completing, json_option, runs

LIBRARIES = ("uldm", "torch", "torchvision", "safetensors", "numpy")
Row = dict[str, Any]


@click.command()
@click.argument("run", required=False, type=FilePath(), shell_complete=completing(runs))
@json_option
def doctor(run: Path | None, as_json: bool) -> None:
    """Show versions, devices, plugins, cached weights, and what is missing and how to get it.

    A broken plugin is shown with its traceback and the fix.

    With RUN, a run's folder, check each of its files by its checksum, and exit with 1 unless all are whole.
    """
    if run is not None:
        sys.exit(_check(run, as_json))
    from uldm_core.recipe.shipped import names

    report: Row = {
        "versions": _versions(),
        "optional": _optional(),
        "machine": _device(),
        "weights": _weights(),
        "recipes": names(),
        "plugins": _plugins(),
    }
    click.echo(json.dumps(report, indent=2) if as_json else "\n".join(_lines(report)))


def _check(run: Path, as_json: bool) -> int:
    """Show which files of a run are whole; return the exit code."""
    from itertools import groupby

    from attrs import asdict

    from uldm_core.run_folder.files import command_for
    from uldm_plugins.commands.run_files import DAMAGED, WHOLE, check_run

    files = check_run(run)
    damaged = sum(each.state == DAMAGED for each in files)
    if as_json:
        click.echo(json.dumps({"whole": not damaged, "files": [asdict(each) for each in files]}, indent=2))
        return int(bool(damaged))
    for stage, group in groupby(files, lambda each: each.stage):
        of_stage = list(group)
        whole = sum(each.state == WHOLE for each in of_stage)
        click.echo(f"{stage or run}: {whole} of {len(of_stage)} files are whole")
        for each in of_stage:
            if each.state != WHOLE:
                click.echo(f"    {each.file}: {each.state}: {each.what}")
    if damaged:
        click.echo(f"not whole; what can be is made again by: {command_for(run)}")
    return int(bool(damaged))


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    system = {"python": platform.python_version(), "platform": platform.platform()}
    return {**system, **{library: version(library) for library in LIBRARIES}}


def _optional() -> dict[str, dict[str, str]]:
    """Return the libraries that components need and uldm does not: each with its version or how to get it."""
    from importlib.metadata import packages_distributions, version

    from uldm_core import registry

    owners, found = packages_distributions(), {}
    for component in registry.default().components():
        if component.requires:
            owner = owners.get(component.requires.partition(".")[0])
            found[component.requires] = {
                "version": version(owner[0]) if component.installed and owner else "",
                "install": "" if component.installed else f"pip install {component.requires}",
            }
    return found


def _device() -> Row:
    import torch

    from uldm_core.engine.device import choose_device, multiplies_bfloat16
    from uldm_core.recipe import RunOptions

    chosen = choose_device(RunOptions())
    return {
        "chosen": str(chosen),
        "threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "mps": torch.backends.mps.is_available(),
        "bfloat16_in_hardware": multiplies_bfloat16(chosen.device),
    }


def _weights() -> Row:
    """Return what is in the folder where published weights are kept."""
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    files = {path.name: path.stat().st_size for path in sorted(folder.glob("*")) if path.is_file()}
    return {"folder": str(folder), "files": files}


def _plugins() -> list[Row]:
    from uldm_core import registry

    return [
        {
            "name": str(plugin),
            "skipped": bool(plugin.error),
            "components": len(plugin.components),
            "commands": len(plugin.commands),
            "seconds": round(plugin.seconds, 3),
            "error": plugin.traceback or plugin.error,
            "fix": plugin.fix,
        }
        for plugin in registry.default().plugins.values()
    ]


def _lines(report: Row) -> Iterator[str]:
    yield from (f"{name} {version}" for name, version in report["versions"].items())
    for name, row in report["optional"].items():
        yield f"{name} {row['version'] or 'is not installed: ' + row['install']}"
    device, weights = report["machine"], report["weights"]
    yield f"device: {device['chosen']}"
    yield (
        f"CUDA devices: {', '.join(device['cuda']) or 'none'}; MPS: {'yes' if device['mps'] else 'no'}; "
        f"bfloat16 is {'' if device['bfloat16_in_hardware'] else 'not '}multiplied in hardware"
    )
    yield f"published weights in {weights['folder']}: {', '.join(weights['files']) or 'none yet'}"
    yield "    one that is missing is fetched when it is first used; without a network, put the file there"
    yield f"shipped recipes: {', '.join(report['recipes'])}"
    for plugin in report["plugins"]:
        brings = f"{plugin['components']} components, {plugin['commands']} commands"
        state = "skipped" if plugin["skipped"] else brings
        yield f"{plugin['name']}: {state}, imported in {plugin['seconds']:.2f} s"
        if plugin["error"]:
            yield from (f"    {line}" for line in plugin["error"].splitlines())
            yield f"    fix: {plugin['fix']}"
