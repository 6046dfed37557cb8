"""What a run's folder holds, as far as it is there: a file that is absent or damaged is no error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import cattrs
import numpy as np
from attrs import field, frozen
from attrs.validators import and_, deep_iterable, ge, gt, le, lt, max_len
from numpy.typing import NDArray

from uldm_core.errors import MistakeError, Problem
from uldm_core.paths import listed, refused
from uldm_core.run_folder.consistency import stale_results
from uldm_core.run_folder.data import DATA_RECORD
from uldm_core.run_folder.events import FILE as EVENTS
from uldm_core.run_folder.events import Event, read_events
from uldm_core.run_folder.files import damaged, digest, read_bytes, read_record, read_tensors
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.record import Adjustment
from uldm_core.run_folder.stage_folder import StageFolder
from uldm_core.toml_text.parse import parse_toml
from uldm_plugins.report.curves import Curve, read_log
from uldm_plugins.report.pictures import Picture, file_picture
from uldm_plugins.shared.arrays import array_names, first_of, read_arrays

T = TypeVar("T")
U = TypeVar("U")
Arrays = Mapping[str, NDArray[Any]]
MOST_BYTES = 1 << 30
"""Of the arrays in one file, unpacked; those of which a page shows all are far smaller."""
MOST_CODES = 1 << 20
_MOST = 1 << 53
_count = and_(ge(0), lt(_MOST))
_amount = and_(ge(0.0), lt(inf))
_share = and_(ge(0), le(1))


@frozen
class Unreadable:
    """What of a folder cannot be read, each file once; the rest is read all the same."""

    problems: dict[str, Problem] = field(factory=dict)

    def read(self, read: Callable[[], T], otherwise: U) -> T | U:
        """Return what ``read`` does, or ``otherwise`` and note the error."""
        try:
            return read()
        except MistakeError as error:
            self.note(error)
            return otherwise

    def note(self, error: MistakeError) -> None:
        """Note what is wrong with a file."""
        self.problems.update({str(problem.where): problem for problem in error.problems})


@frozen
class RunState:
    """``run.json``: the state of the run. An empty ``state`` means that it is unknown."""

    state: str = ""
    started: str = ""
    updated: str = ""
    command: str = ""
    error: str = ""


@frozen
class StageState:
    """``stage.json``, as far as a report shows it."""

    done: bool = False
    seconds: float = field(default=0.0, validator=_amount)
    summary: dict[str, float] = field(factory=dict)
    adjusted: list[Adjustment] = field(factory=list)
    digests: dict[str, str] = field(factory=dict)
    key: dict[str, Any] = field(factory=dict)

    @property
    def class_names(self) -> dict[str, list[str]]:
        """The names of classes that are noted, by their dataset; none if they are not as they should be."""
        made_of = self.key.get("made_of")
        try:
            return cattrs.structure((made_of or {}).get("class_names", {}), dict[str, list[str]])
        except (AttributeError, cattrs.BaseValidationError):
            return {}


@frozen
class Duplicates:
    """How many test images are training images too, or look like one, of those that were compared."""

    exact: int = field(validator=_count)
    near: int = field(validator=_count)
    compared: int = field(validator=_count)


@frozen
class DataCounts:
    """What ``data.json`` says of a dataset: how many files are left out, by reason, and duplicates."""

    left_out: dict[str, int] = field(factory=dict)
    duplicates: Duplicates = Duplicates(0, 0, 0)


@frozen
class DataRecord:
    """``data.json``: the counts of each dataset; there is none where nothing was found."""

    datasets: dict[str, DataCounts] = field(factory=dict)


@frozen
class Codebook:
    """One codebook of ``codebook.json``: how often each of its ``size`` codes occurs in the test set."""

    size: int = field(validator=and_(gt(0), lt(_MOST)))
    counts: list[int] = field(validator=and_(max_len(MOST_CODES), deep_iterable(_count)))
    used: int = field(validator=_count)
    perplexity: float = field(validator=_amount)


@frozen
class Codebooks:
    """``codebook.json``."""

    codebooks: list[Codebook]


@frozen
class Classes:
    """``classes.json``: the share of each class among samples and among real images."""

    labels: list[str]
    samples: list[float] = field(validator=deep_iterable(_share))
    real: list[float] = field(validator=deep_iterable(_share))


@frozen
class Candidate:
    """One of ``candidates.json``: a way to draw samples, and how these measured.

    ``option`` is what differs from the best before; empty of the first.
    """

    option: str
    weight: float | None
    interval: tuple[float, float] | None
    average: str
    steps: int | None
    calls: float
    numbers: dict[str, float]
    seconds: float = field(validator=_amount)


@frozen
class Tuning:
    """``candidates.json``: what was tried to draw samples, and which was ``best``, by its place."""

    metric: str
    higher_is_better: bool
    count: int
    against: str
    planned: int
    worse: float
    best: int
    candidates: list[Candidate]


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

    What a ``stale`` one holds was made with other options than the recipe's, and is not shown. ``known`` are
    the digests of its files, or of their first bytes.
    """

    name: str
    options: Mapping[str, Any]
    folder: StageFolder
    state: StageState
    begun: bool
    curves: Mapping[str, Curve]
    unreadable: Unreadable = field(factory=Unreadable)
    stale: str = ""
    known: Mapping[str, tuple[int | None, str]] = field(factory=dict)

    @property
    def use(self) -> str:
        """The component's name."""
        return str(self.options.get("use", ""))

    @property
    def steps(self) -> int:
        """Its number of steps; 0 for a stage without steps."""
        steps = self.options.get("steps", 0)
        return steps if isinstance(steps, int) and 0 <= steps < _MOST else 0

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return max((int(curve.steps[-1]) for curve in self.curves.values() if len(curve.steps)), default=0)

    def shown(self, name: str) -> list[tuple[int, Path]]:
        """Return the pictures of one name that were kept while it trained, by their steps."""
        return [] if self.stale else self.unreadable.read(lambda: self.folder.shown(name), [])

    def picture(self, path: Path, alt: str) -> Picture | None:
        """Return one of them, or None if it is damaged."""
        self.unreadable.read(lambda: self.require_whole(path), None)
        return self.unreadable.read(lambda: _picture(path, alt), None)

    def artifact(self, name: str) -> Path | None:
        """Return where an artifact lies, or None if there is none; ``MistakeError`` if it is damaged."""
        path = self.folder.artifact(name)
        self.require_whole(path)
        return path if path.exists() else None

    def require_whole(self, path: Path) -> None:
        """Raise ``MistakeError`` if a file is not as it is known to have been."""
        size, known = self.known.get(path.relative_to(self.folder.path).as_posix(), (None, ""))
        if known and not path.exists():
            raise damaged(path, "missing")
        if known and path.is_file() and digest(path, size) != known:
            raise damaged(path, "it has changed since it was written: the checksum differs")


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
    events: list[Event] = field(factory=list)
    data: Mapping[str, DataCounts] = field(factory=dict)
    unreadable: Unreadable = field(factory=Unreadable)

    @property
    def name(self) -> str:
        """The folder's name, which is the run's."""
        return self.folder.path.resolve().name

    @property
    def running(self) -> bool:
        """Whether the run is recorded as running."""
        return self.state.state == "running"

    def stage_using(self, name: str) -> StageFiles | None:
        """Return the last stage of a component, if there is one."""
        return next((stage for stage in reversed(self.stages) if stage.use == name), None)

    def artifact(self, name: str) -> Path | None:
        """Return an artifact of the last stage that made it."""
        read = self.unreadable.read
        stages = [stage for stage in reversed(self.stages) if not stage.stale]
        return next(filter(None, (read(partial(stage.artifact, name), None) for stage in stages)), None)

    def record(self, name: str, kind: type[T]) -> T | None:
        """Return a JSON artifact as a record, or None if there is no such one."""
        path = self.artifact(name)
        return self.unreadable.read(lambda: _json(path, kind), None) if path else None

    def arrays(self, name: str, fit: Callable[[Arrays], bool]) -> Arrays:
        """Return an artifact's arrays by name; none if it cannot be read, or they do not ``fit``."""
        path = self.artifact(name)
        return self.unreadable.read(lambda: _arrays(path, fit), {}) if path else {}

    def first_images(self, name: str, count: int) -> tuple[NDArray[np.uint8], int] | None:
        """Return the first of an artifact's ``images``, and how many there are, without reading the rest."""
        path = self.artifact(name)
        return self.unreadable.read(lambda: _first_images(path, count), None) if path else None

    def drawn_classes(self) -> NDArray[np.int64] | None:
        """Return the classes of the samples [N], or None without a condition."""
        path = self.artifact("samples.npz")
        return self.unreadable.read(lambda: _drawn_classes(path), None) if path else None

    def training_classes(self) -> NDArray[np.int64] | None:
        """Return the classes of the training images [N], or None where the condition does not save them."""
        read = self.unreadable.read
        stages = [stage for stage in reversed(self.stages) if not stage.stale]
        found = (read(partial(_assigned, stage), None) for stage in stages)
        return next((classes for classes in found if classes is not None), None)

    def class_names(self) -> list[str]:
        """Return the names of the classes of a condition by labels; none if they have none."""
        condition = self.recipe.get("condition")
        if not isinstance(condition, dict) or condition.get("use") != "labels":
            return []
        own = condition.get("class_names")
        noted = (stage.state.class_names.get("dataset", []) for stage in self.stages)
        return [*map(str, own)] if isinstance(own, list) else next(filter(None, noted), [])


def read_run(path: Path) -> RunFiles:
    """Read what is there of a run; no file has to be."""
    folder, unreadable = RunFolder(path), Unreadable()
    read = unreadable.read
    text = read(lambda: _text(folder.file("recipe.toml")), "")
    recipe = read(lambda: _tables(folder.file("recipe.toml"), text), {})
    evaluations = [
        file for file in read(lambda: listed(folder.file("evaluations")), []) if file.suffix == ".json"
    ]
    found = [read(partial(_json, file, Measured), None) for file in evaluations]
    stale = read(lambda: stale_results(path), {})
    stages = read(lambda: _stage_options(folder, recipe), {})
    for problem in read(lambda: folder.damage(partial(_structured, kind=StageState)), []):
        unreadable.problems[str(problem.where)] = problem
    made = [
        read(partial(_stage, folder, name, stages[name], stale.get(name, ""), unreadable), None)
        for name in stages
    ]
    for file in read(lambda: [folder.file(name) for name in ("run.json", "environment.json")], []):
        if not file.exists() and not folder.is_of_format_1():
            unreadable.note(damaged(file, "missing"))
    environment: Mapping[str, Any] | None = read(
        lambda: _json(folder.file("environment.json"), dict[str, Any]), None
    )
    return RunFiles(
        folder=folder,
        state=read(lambda: _json(folder.file("run.json"), RunState), None) or RunState(),
        recipe=recipe,
        recipe_text=text,
        environment=environment or {},
        stages=[stage for stage in made if stage],
        evaluations=[measured for measured in found if measured],
        events=read(lambda: _events(folder, unreadable), []),
        data=(read(lambda: _json(folder.file(DATA_RECORD), DataRecord), None) or DataRecord()).datasets,
        unreadable=unreadable,
    )


def _events(folder: RunFolder, unreadable: Unreadable) -> list[Event]:
    """Read the event log, and note how many of its lines are damaged."""
    path = folder.file(EVENTS)
    try:
        events, bad, _ = read_events(path)
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror}") from error
    if bad:
        unreadable.note(
            refused(path, f"{bad} of its lines are not as they were written", "they are left out")
        )
    return events


def _stage_options(folder: RunFolder, recipe: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the recipe's stages; without a recipe, what folders there are."""
    stages = recipe.get("stages")
    if isinstance(stages, dict) and stages:
        return {name: options if isinstance(options, dict) else {} for name, options in stages.items()}
    return {path.name: {} for path in listed(folder.file("stages")) if path.is_dir()}


def _stage(
    folder: RunFolder, name: str, options: Mapping[str, Any], stale: str, unreadable: Unreadable
) -> StageFiles:
    stage, read = folder.stage(name), unreadable.read
    if stale:
        return StageFiles(name, options, stage, StageState(), False, {}, unreadable, stale)
    state = read(lambda: stage.read_record(partial(_structured, kind=StageState)), None)
    found = StageFiles(
        name=name,
        options=options,
        folder=stage,
        state=state or StageState(),
        begun=state is not None or read(lambda: stage.inside("stage.json").is_file(), False),
        curves=read(lambda: _curves(stage, unreadable), {}),
        unreadable=unreadable,
        known=read(lambda: _known(stage, state), {}),
    )
    read(lambda: found.require_whole(stage.metrics), None)
    return found


def _known(stage: StageFolder, state: StageState | None) -> Mapping[str, tuple[int | None, str]]:
    """Return the length and digest of each file that a stage left, or had logged at its last checkpoint."""
    if state and state.done:
        return {name: (None, known) for name, known in state.digests.items()}
    return dict(stage.checkpoints.logged(stage.checkpoints.last() or 0))


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8") if path.exists() else ""
    except UnicodeDecodeError as error:
        raise damaged(path, "not UTF-8") from error


def _tables(path: Path, text: str) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except MistakeError as error:
        raise damaged(path, error.problems[0].what) from error


def _curves(stage: StageFolder, unreadable: Unreadable) -> dict[str, Curve]:
    """Read a stage's log, and note lines of it that are none."""
    path = stage.metrics
    lines = read_bytes(path).decode("utf-8", "replace").splitlines() if path.exists() else []
    curves, odd = read_log(lines)
    if odd:
        unreadable.note(
            damaged(path, f"no numbers in {len(odd)} of {len(lines)} lines, such as line {odd[0]}")
        )
    return curves


def _json(path: Path, kind: type[T]) -> T | None:
    """Read JSON as a record, or return None if there is no such file."""

    return read_record(path, partial(_structured, kind=kind))


def _structured(value: object, kind: type[T]) -> T:
    try:
        return cattrs.structure(value, kind)
    except cattrs.BaseValidationError as error:
        raise ValueError("; ".join(cattrs.transform_error(error, path="")[:3])) from error


def _arrays(path: Path, fit: Callable[[Arrays], bool]) -> dict[str, NDArray[Any]]:
    try:
        arrays = read_arrays(path, most=MOST_BYTES)
    except ValueError as error:
        raise damaged(path, str(error)) from error
    if not fit(arrays):
        held = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in arrays.items())
        raise damaged(path, f"not the arrays that uldm writes there: {held or 'none'}")
    return arrays


def _first_images(path: Path, count: int) -> tuple[NDArray[np.uint8], int]:
    """Read the head of the ``images``: thousands of images need not be unpacked to show a hundred."""
    try:
        images, total = first_of(path, "images", count)
    except ValueError as error:
        raise damaged(path, str(error)) from error
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise damaged(
            path, f"images are {images.dtype} {[total, *images.shape[1:]]}; expected uint8 [N, H, W, C]"
        )
    return images, total


def _drawn_classes(path: Path) -> NDArray[np.int64] | None:
    try:
        if "classes" not in array_names(path):
            return None
        return _as_classes(read_arrays(path, ["classes"], most=MOST_BYTES)["classes"])
    except ValueError as error:
        raise damaged(path, str(error)) from error


def _assigned(stage: StageFiles) -> NDArray[np.int64] | None:
    """Return what a stage's weights of the condition hold as ``assigned``, if there is such."""
    path = stage.folder.weights("condition")
    stage.require_whole(path)
    assigned = read_tensors(path).get("assigned") if path.exists() else None
    try:
        return None if assigned is None else _as_classes(assigned.numpy())
    except ValueError as error:
        raise damaged(path, str(error)) from error


def _as_classes(found: NDArray[Any]) -> NDArray[np.int64]:
    if found.dtype != np.int64 or found.ndim != 1 or not len(found) or found.min() < 0:
        raise ValueError(
            f"classes are {found.dtype} {list(found.shape)}; expected int64 [N], each 0 at least"
        )
    return found


def _picture(path: Path, alt: str) -> Picture:
    found = file_picture(path, alt)
    if found is None:
        raise damaged(path, "no PNG that can be shown")
    return found
