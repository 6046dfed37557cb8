"""Doing a stage outside a recipe, on components built by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from uldm_core.engine.context import Context
from uldm_core.engine.device import choose_device
from uldm_core.engine.loop import do_stage
from uldm_core.engine.progress import Reporter, Silent
from uldm_core.engine.signals import Stop
from uldm_core.errors import MistakeError
from uldm_core.paths import inside, listed, make_folder, remove
from uldm_core.protocols import HasOptionalNeeds, OneShotStage, Trainer
from uldm_core.recipe import RunOptions
from uldm_core.run_folder.folder import RunFolder
from uldm_core.spec.structure import path_of


def run_stage(
    stage: Trainer | OneShotStage,
    out: str | Path,
    *,
    name: str = "",
    seed: int = 0,
    options: RunOptions | None = None,
    reporter: Reporter | None = None,
    stop: Stop | None = None,
) -> Mapping[str, float]:
    """Do one stage from its beginning, and return its summary; what it trains is trained in place.

    It is done as ``run`` does it, with the same loop, logs and artifacts, in ``out/stages/NAME``; what lies
    there is replaced. What it needs of an earlier stage (samples, say) is taken from those done in ``out``.

    Args:
        stage: as ``registry.build("stage", ...)`` makes it.
        out: the folder.
        name: the stage's; by default its class's.
        seed: of its randomness, together with the name.
        options: device, precision and so on, as in a recipe's ``[run]`` table.
        reporter: shows progress; by default none does.
        stop: asked after every step whether to stop.

    Raises:
        MistakeError: ``out`` is the folder of a recipe's run, or lacks what the stage needs.
        Interrupted: it was asked to stop.
        RunError: a metric or the state of the training is not finite, or the dataset failed.
    """
    out = path_of(out)
    if (out / "recipe.toml").exists():
        raise MistakeError(
            f"{out} is the folder of a recipe's run", hint="choose another: it would be damaged"
        )
    optional = stage.optional_needs if isinstance(stage, HasOptionalNeeds) else ()
    products = dict(_needed(stage.needs, out, optional))
    device = choose_device(options or RunOptions())
    device.place(stage)
    name = name or type(stage).__name__
    folder = RunFolder(out).stage(name)
    remove(folder.path)
    make_folder(folder.path)
    shown, options = reporter or Silent(), options or RunOptions()
    context = Context(name, seed, device, folder, products, shown, stop or Stop(), options=options)
    return do_stage(stage, context)


def _needed(names: Iterable[str], out: Path, optional: Iterable[str]) -> Iterable[tuple[str, Path]]:
    """Yield the newest artifact of each name; those that are optional where there is one."""
    for name in (*names, *optional):
        stages = [stage.name for stage in listed(inside(out, "stages"))]
        made = [RunFolder(out).stage(stage).artifact(name) for stage in stages]
        found = sorted(filter(Path.is_file, made), key=lambda path: path.stat().st_mtime_ns)
        if found:
            yield name, found[-1]
        elif name not in optional:
            raise MistakeError(f"{out} has no {name} yet", hint="do the stage that makes it first")
