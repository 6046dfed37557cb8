"""What a run's folder holds, as far as it is there: absent, half-written and old files are no error."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import cattrs
import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from uldm_core.engine.consistency import stale_results
from uldm_core.engine.folder import Adjustment, RunFolder, StageFolder
from uldm_core.recipe.document import parse_toml
from uldm_plugins.report.curves import Curve, curves_of

T = TypeVar("T")
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    cattrs.BaseValidationError,
)
"""What reading a file can raise that is absent, cut short, or not what its name says."""


@frozen
class RunState:
    """``run.json``: how the run stands. An empty ``state`` means that nothing is known."""

    state: str = ""
    started: str = ""
    updated: str = ""
    command: str = ""
    error: str = ""


@frozen
class StageState:
    """``stage.json``, as far as a report tells of it."""

    done: bool = False
    seconds: float = 0.0
    summary: dict[str, float] = field(factory=dict)
    adjusted: list[Adjustment] = field(factory=list)


@frozen
class Codebook:
    """One codebook of ``codebook.json``: how often each of its ``size`` codes stands in the test set."""

    size: int
    counts: list[int]
    used: int
    perplexity: float


@frozen
class Codebooks:
    """``codebook.json``."""

    codebooks: list[Codebook]


@frozen
class Classes:
    """``classes.json``: the share of each class among samples and among real images."""

    labels: list[str]
    samples: list[float]
    real: list[float]


@frozen
class Measured:
    """``metrics.json``, or one of ``evaluations/*.json``: numbers, of how many images, by which means."""

    results: dict[str, dict[str, float]] = field(factory=dict)
    counts: dict[str, int] = field(factory=dict)
    reference: int = 0
    metrics: dict[str, dict[str, str]] = field(factory=dict)
    command: str = ""
    when: str = ""
    against: str = ""


@frozen(eq=False)
class StageFiles:
    """One stage: its options in the recipe, and what its folder holds.

    What a ``stale`` one holds was made with something else than the recipe says, and is not shown.
    """

    name: str
    options: Mapping[str, Any]
    folder: StageFolder
    state: StageState
    begun: bool
    curves: Mapping[str, Curve]
    stale: str = ""

    @property
    def use(self) -> str:
        """The component's name."""
        return str(self.options.get("use", ""))

    @property
    def steps(self) -> int:
        """How many steps it is to take; 0 for a stage without steps."""
        steps = self.options.get("steps", 0)
        return steps if isinstance(steps, int) else 0

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return max((int(curve.steps[-1]) for curve in self.curves.values() if len(curve.steps)), default=0)

    def shown(self, name: str) -> list[tuple[int, Path]]:
        """Return the pictures of one name that were kept while it trained, by their steps."""
        paths = [] if self.stale else (self.folder.path / "images" / name).glob("*.png")
        return sorted((int(path.stem), path) for path in paths if path.stem.isdigit())


@frozen(eq=False)
class RunFiles:
    """A run's folder, read."""

    folder: RunFolder
    state: RunState
    recipe: Mapping[str, Any]
    recipe_text: str
    environment: Mapping[str, Any]
    stages: list[StageFiles]
    evaluations: list[Measured]

    @property
    def name(self) -> str:
        """The folder's name, which is the run's."""
        return self.folder.path.resolve().name

    @property
    def running(self) -> bool:
        """Whether the run says that it goes on."""
        return self.state.state == "running"

    def stage_using(self, verb: str) -> StageFiles | None:
        """Return the last stage of a component, if there is one."""
        return next((stage for stage in reversed(self.stages) if stage.use == verb), None)

    def artifact(self, name: str) -> Path | None:
        """Return an artifact of the last stage that made it."""
        paths = (stage.folder.artifact(name) for stage in reversed(self.stages) if not stage.stale)
        return next((path for path in paths if path.is_file()), None)

    def record(self, name: str, kind: type[T]) -> T | None:
        """Return a JSON artifact as a record, or None if there is no such one."""
        path = self.artifact(name)
        return _read(path, lambda path: _json(path, kind), None) if path else None

    def arrays(self, name: str) -> Mapping[str, NDArray[Any]]:
        """Return an artifact's arrays by name, none if it cannot be read."""
        path = self.artifact(name)
        return _read(path, _arrays, {}) if path else {}

    def first_images(self, name: str, count: int) -> tuple[NDArray[np.uint8], int] | None:
        """Return the first of an artifact's ``images``, and how many there are, without reading the rest."""
        path = self.artifact(name)
        return _read(path, lambda path: _first_images(path, count), None) if path else None


def read_run(path: Path) -> RunFiles:
    """Read what is there of a run; no file has to be."""
    folder = RunFolder(path)
    text = _read(path / "recipe.toml", lambda path: path.read_text("utf-8"), "")
    recipe = _read(path / "recipe.toml", lambda _: parse_toml(text), {})
    stale = _read(path, stale_results, {})
    options = _stage_options(folder, recipe)
    evaluations = sorted((path / "evaluations").glob("*.json"))
    found = [_read(path, lambda path: _json(path, Measured), None) for path in evaluations]
    return RunFiles(
        folder=folder,
        state=_read(path / "run.json", lambda path: _json(path, RunState), RunState()),
        recipe=recipe,
        recipe_text=text,
        environment=_read(path / "environment.json", lambda path: _json(path, dict[str, Any]), {}),
        stages=[_stage(folder, name, own, stale.get(name, "")) for name, own in options.items()],
        evaluations=[measured for measured in found if measured],
    )


def _stage_options(folder: RunFolder, recipe: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the recipe's stages; without a recipe, what folders there are."""
    stages = recipe.get("stages")
    if isinstance(stages, dict) and stages:
        return {name: options if isinstance(options, dict) else {} for name, options in stages.items()}
    return {path.name: {} for path in sorted((folder.path / "stages").glob("*")) if path.is_dir()}


def _stage(folder: RunFolder, name: str, options: Mapping[str, Any], stale: str) -> StageFiles:
    stage = folder.stage(name)
    if stale:
        return StageFiles(name, options, stage, StageState(), False, {}, stale)
    record = stage.path / "stage.json"
    return StageFiles(
        name=name,
        options=options,
        folder=stage,
        state=_read(record, lambda path: _json(path, StageState), StageState()),
        begun=record.is_file(),
        curves=_read(stage.metrics, lambda path: curves_of(path.read_text("utf-8", "replace")), {}),
    )


def _read(path: Path, read: Callable[[Path], T], otherwise: T) -> T:
    """Return what ``read`` makes of a file, or ``otherwise`` where it cannot be read."""
    try:
        return read(path)
    except _UNREADABLE:
        return otherwise


def _json(path: Path, kind: type[T]) -> T:
    return cattrs.structure(json.loads(path.read_text("utf-8")), kind)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _first_images(path: Path, count: int) -> tuple[NDArray[np.uint8], int]:
    """Read the head of an ``.npz`` array: thousands of images need not be unpacked to show a hundred."""
    with zipfile.ZipFile(path) as archive, archive.open("images.npy") as file:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        (total, *shape), columns_first, dtype = read_header(file)
        if columns_first or dtype != np.uint8 or len(shape) != 3:
            raise ValueError(f"{path}: no uint8 images [N, H, W, C]")
        content = file.read(min(count, total) * int(np.prod(shape)))
    return np.frombuffer(content, np.uint8).reshape(-1, *shape), total
