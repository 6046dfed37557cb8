"""A run's folder: records and files of its stages, and archived results."""

from __future__ import annotations

import filecmp
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from annotated_types import Ge, Lt
from attrs import Factory, asdict, evolve, field, frozen

from uldm_core.errors import Key, MistakeError, Problem, Where, dotted, must_match
from uldm_core.paths import copy, inside, listed, move, names_in, remove, sync, writing
from uldm_core.recipe.compare import differences
from uldm_core.recipe.reader import KEPT
from uldm_core.run_folder.checkpoint import Checkpoints
from uldm_core.run_folder.files import damaged, digest, read_bytes, read_record, write_bytes, write_record
from uldm_core.spec.structure import structure

_DIGITS = re.compile(r"[0-9]+")

if TYPE_CHECKING:
    Number = float
else:
    Number = Real  # infinity and nan too
Steps = Annotated[int, Ge(0), Lt(1 << 53)]
R = TypeVar("R")

_RECORDS = ("stage.json", "stage_copy.json")
_STAMP = b"# changed since if this is not its checksum: %s\n"


@frozen
class StageKey:
    """What a stage's result depends on: a hash of everything but its number of steps, and that number.

    ``made_of`` is what was hashed, and the ``code``, to tell what has changed. ``adjustable`` are the stage's
    options whose numbers may change in mid-training.
    """

    content: str = field(validator=must_match(r"[0-9A-Za-z]{1,128}", like="0a1b2c3d4e5f6071"))
    steps: Steps = 0
    made_of: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)
    adjustable: Sequence[str] = field(default=(), eq=False, repr=False)

    def __str__(self) -> str:
        return f"{self.content}-{self.steps}" if self.steps else self.content

    @property
    def code(self) -> Mapping[str, str]:
        """Digests of the source files that the stage depends on; none in keys of earlier versions."""
        found: Mapping[str, str] = self.made_of.get("code", {})
        return found

    def same_work(self, other: StageKey) -> bool:
        """Whether results are the same but for the number of steps; code counts where both know theirs."""
        return self.content == other.content and (self.code == other.code or not (self.code and other.code))

    def same(self, other: StageKey) -> bool:
        """Whether the results are the same."""
        return self.steps == other.steps and self.same_work(other)

    def changes(self, earlier: StageKey) -> dict[Key, tuple[object, object]]:
        """Return what differs from an earlier key: old and new value; None for one that is not there."""
        found = {each.key: (each.left, each.right) for each in differences(earlier.made_of, self.made_of)}
        return {key: pair for key, pair in found.items() if earlier.code or key[:1] != ("code",)}

    def adjustments(self, earlier: StageKey) -> dict[Key, tuple[object, object]]:
        """Return what differs from an earlier key, if a training can go on with it; else nothing."""
        changes = self.changes(earlier)
        options = {("stage", option) for option in self.adjustable}
        may = (key[:2] in options and _numbers(*values) for key, values in changes.items())
        return changes if all(may) else {}


def _numbers(old: object, new: object) -> bool:
    """Whether both are numbers, or as many numbers: these leave an optimizer's state as it is."""
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_numbers, old, new))
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (old, new))


@frozen
class Adjustment:
    """Options of a stage that were changed after a step of its training: old and new value of each."""

    step: Steps
    options: dict[str, tuple[Any, Any]]


def adjusted_from(step: int, adjusted: Sequence[Adjustment]) -> list[Adjustment]:
    """Return the adjustments of a training that goes on from a step: what was later is from there on now."""
    kept = [each for each in adjusted if each.step <= step]
    options: dict[str, tuple[Any, Any]] = {}
    for each in adjusted[len(kept) :]:
        for option, (old, new) in each.options.items():
            options[option] = options.get(option, (old,))[0], new
    if not step:  # from its start, it is none
        return []
    return [*kept, Adjustment(step, options)] if options else kept


@frozen
class StageRecord:
    """The content of ``stage.json``.

    Args:
        key: what its result depends on.
        done: whether the result is there.
        seconds: the time that it took.
        summary: the numbers that the stage returned.
        files: the size in bytes of each file of the result, by its path in the folder.
        digests: of the content of each of these files, and of the log and the images beside them; none in
            records of earlier versions.
        used: the digest of each product of earlier stages that it was made of, by the product's name.
        published: the artifacts of which there are copies in the run's own folder.
    """

    key: StageKey
    done: bool = False
    seconds: Annotated[float, Ge(0)] = 0.0
    summary: dict[str, Number] = field(factory=dict)
    files: dict[str, int] = field(factory=dict)
    digests: dict[str, str] = field(factory=dict)
    used: dict[str, str] = field(factory=dict)
    published: list[str] | None = None
    adjusted: list[Adjustment] = field(factory=list)


_MADE_OF = {
    **dict.fromkeys(("stage", "nouns"), dict[str, object]),
    **dict.fromkeys(("from", "weights", "sources", "code"), dict[str, str]),
}


def _record(data: dict[str, Any]) -> StageRecord:
    """Return the record of a ``stage.json``; raises an error of ``MISREAD`` if it is none."""
    try:
        record: StageRecord = structure(data, StageRecord)
        for name, wanted in _MADE_OF.items():
            structure(record.key.made_of.get(name, {}), wanted, ("made_of", name))
    except MistakeError as error:
        raise ValueError(str(error)) from error
    return record


@frozen
class StageFolder:
    """One stage's folder: its record, metrics, checkpoints, weights and artifacts.

    Every path in it is checked when it is asked for: nothing leads out of the run's folder.

    Args:
        path: the folder.
        run: the run's folder, below which no link is followed.
    """

    path: Path
    run: Path = field(default=Factory(lambda self: self.path, takes_self=True))

    def inside(self, *names: str) -> Path:
        """Return a path in this folder; raises ``MistakeError`` if it would lead out of the run's folder."""
        return inside(self.run, *self.path.relative_to(self.run).parts, *names)

    @property
    def metrics(self) -> Path:
        """The log of metrics, a line of JSON each."""
        return self.inside("metrics.jsonl")

    @property
    def images(self) -> Path:
        """The folder of the images shown while it ran: a folder a name, a PNG a step."""
        return self.inside("images")

    def shown(self, name: str) -> list[tuple[int, Path]]:
        """Return the images of one name that were kept, by their steps."""
        paths = [path for path in listed(self.inside("images", name)) if path.suffix == ".png"]
        return sorted((int(path.stem), path) for path in paths if _DIGITS.fullmatch(path.stem))

    def weights(self, component: str) -> Path:
        """Return the path of the weights of a component that is trained here."""
        return self.inside("weights", f"{component}.safetensors")

    def artifact(self, name: str) -> Path:
        """Return the path of an artifact of this stage."""
        return self.inside("artifacts", *name.split("/"))

    def record(self) -> StageRecord | None:
        """Read the record, or where that is damaged or gone its copy; None without both.

        Raises:
            MistakeError: neither can be read.
        """
        return self.read_record(_record)

    def read_record(self, make: Callable[[dict[str, Any]], R]) -> R | None:
        """Read the record as ``record`` does, and return what ``make`` makes of its content."""
        problem = None
        for name in _RECORDS:
            try:
                if (found := read_record(self.inside(name), make)) is not None:
                    return found
            except MistakeError as error:
                if _is_later(error):
                    raise
                problem = problem or error
        if problem:
            raise problem
        return None

    def record_damage(self, make: Callable[[dict[str, Any]], object] = _record) -> list[Problem]:
        """Return what is wrong with the record and its copy; ``make`` converts them."""
        found: list[Problem] = []
        for name in _RECORDS:
            try:
                read_record(self.inside(name), make)
            except MistakeError as error:
                found += error.problems
        own, copy_of_it = (self.path / name for name in _RECORDS)
        if not found and own.exists() != copy_of_it.exists():
            missing, there = (copy_of_it, own) if own.exists() else (own, copy_of_it)
            if b'"format": ' in there.read_bytes()[:30]:  # those of format 1 have no copy
                found = [*damaged(missing, "missing").problems]
        return found

    def is_not_copied(self) -> bool:
        """Whether a crash came between the record and its copy; of format 1, there is none."""
        own, copy_of_it = map(self.inside, _RECORDS)
        return _has_format(own) and not _is_copy(own, copy_of_it)

    def done(self, record: StageRecord) -> StageRecord:
        """Return the record of a stage that is done now, with the hashes of its files: these are on disk."""
        result = self._files("weights", "artifacts")
        with writing(self.path):  # a stage of a plugin may write as it likes
            for path in {*result, *(path.parent for path in result)}:
                sync(path)
        return evolve(
            record,
            done=True,
            files={self._name(path): path.stat().st_size for path in result},
            digests={
                **{self._name(path): digest(path) for path in result},
                **{name: known for name, (_, known) in self.logged().items()},
            },
        )

    def logged(self) -> dict[str, tuple[int, str]]:
        """Return the length and the digest of the log and of each image so far; these are on disk then."""
        logs: list[Path] = []
        with suppress(MistakeError):  # whoever was to write there has said what is in the way
            logs += [*filter(Path.is_file, [self.metrics]), *self._files("images")]
        with writing(self.path):
            for path in {*logs, *(path.parent for path in logs)}:
                sync(path)
        sizes = {path: path.stat().st_size for path in logs}
        return {self._name(path): (size, digest(path, size)) for path, size in sizes.items()}

    def changed_logs(self, logged: Mapping[str, tuple[int, str]]) -> list[Path]:
        """Return which files are no longer as ``logged`` told; lines may have been added to them."""
        paths = {self.inside(*name.split("/")): then for name, then in logged.items()}
        return [
            path for path, then in paths.items() if not path.is_file() or digest(path, then[0]) != then[1]
        ]

    def logs(self, record: StageRecord) -> list[Path]:
        """Return the files of a stage that is done which are no result: its log, and images."""
        return [self.inside(*name.split("/")) for name in record.digests if name not in record.files]

    def _files(self, *folders: str) -> list[Path]:
        """Return the files in folders of this one."""
        below = (path for folder in folders for path in sorted(self.inside(folder).rglob("*")))
        return [path for path in below if path.is_file() and not path.is_symlink()]

    def handed_on(self, trained: Iterable[str], made: Iterable[str]) -> dict[str, Path]:
        """Return where the weights and the artifacts lie that later stages use, by their names."""
        return {
            **{component: self.weights(component) for component in trained},
            **{name: self.artifact(name) for name in made},
        }

    def digest(self, record: StageRecord | None, path: Path) -> str:
        """Return the digest of a file of a result that is whole: the recorded one, if there is any."""
        return self.recorded_digest(record, path) or digest(path)

    def recorded_digest(self, record: StageRecord | None, path: Path) -> str:
        """Return the digest of a file of a result as its record has it; empty if there is none."""
        return record.digests.get(self._name(path), "") if record else ""

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def damage(self, record: StageRecord, paths: Iterable[Path]) -> str:
        """Return which file of a stage that is done is missing or not whole; empty if none is.

        Args:
            record: has the files' digests, unless it is of an earlier version.
            paths: of the files.
        """
        for path in paths:
            if not path.is_file():
                return f"{path} is missing"
            if self.digest(record, path) != digest(path):
                return f"{path} has changed since it was written"
        return ""

    def write_record(self, record: StageRecord) -> None:
        """Write the record, and a copy of it: without one, the stage's training would be lost."""
        for name in _RECORDS:
            write_record(self.inside(name), asdict(record))

    @property
    def checkpoints(self) -> Checkpoints:
        """The states of its training."""
        return Checkpoints(self.inside("checkpoints"), self.run)


@frozen
class RunFolder:
    """``runs/<name>/``."""

    path: Path

    def stage(self, name: str) -> StageFolder:
        """Return the current folder of a stage."""
        return StageFolder(inside(self.path, "stages", name), self.path)

    def file(self, *names: str) -> Path:
        """Return a path in the folder; raises ``MistakeError`` if it would lead out of it."""
        return inside(self.path, *names)

    @property
    def recipe(self) -> Path:
        """The resolved recipe; raises ``MistakeError`` if there is none: this is no run."""
        path = self.file("recipe.toml")
        if not path.is_file():
            what = f"{self.path} is not a run: it has no recipe.toml"
            raise MistakeError(what, hint="make one with: uldm run RECIPE")
        self.require_known_format()
        return path

    def require_known_format(self) -> None:
        """Raise ``MistakeError`` if a later version of uldm wrote the run, in a format that is not known."""
        try:
            read_record(self.file("run.json"), dict)
        except MistakeError as error:
            if _is_later(error):
                raise

    def write_recipe(self, text: str) -> None:
        """Write the resolved recipe, with a checksum in its first line."""
        write_bytes(self.file("recipe.toml"), _stamped(text.encode("utf-8", "backslashreplace")))

    def has_recipe(self, text: str) -> bool:
        """Whether the resolved recipe is this one, as ``write_recipe`` wrote it."""
        path = self.file("recipe.toml")
        return path.is_file() and read_bytes(path) == _stamped(text.encode("utf-8", "backslashreplace"))

    def recipe_damage(self) -> list[Problem]:
        """Return whether the resolved recipe has changed since a run wrote it; unknown of format 1."""
        path = self.file("recipe.toml")
        content = read_bytes(path) if path.is_file() else b""
        if content == _stamped(content.partition(b"\n")[2]) or self.is_of_format_1():
            return []
        what = "it has changed since a run wrote it, by hand or by damage"
        return [Problem(Where((), str(path)), what, warning=True)]

    def is_of_format_1(self) -> bool:
        """Whether it is of a version that wrote no checksums, as far as one can tell."""
        stages = [f"stages/{name}/stage.json" for name in names_in(self.path / "stages")]
        records = [self.path / name for name in ("run.json", "environment.json", *stages)]
        return not any(map(_has_format, records))

    def damage(self, make: Callable[[dict[str, Any]], object] = _record) -> list[Problem]:
        """Return what is wrong with the recipe, the run's own records, and the stages' records; see there."""
        found = self.recipe_damage()
        for name in ("run.json", "environment.json"):
            try:
                read_record(self.file(name), dict)
            except MistakeError as error:
                found += error.problems
        for stage in listed(self.file("stages")):
            found += self.stage(stage.name).record_damage(make) if stage.is_dir() else []
        return found

    def repair(self) -> list[str]:
        """Write records that are damaged from their copies, and archive stages that have none; say what."""
        self.require_known_format()
        said = [f"{problem.where}: {problem.what}" for problem in self.damage()]
        for path in listed(self.file("stages")):
            stage = self.stage(path.name)
            record = stage.record()
            if record and (stage.record_damage() or stage.is_not_copied()):
                stage.write_record(record)
            elif record is None and any(map(names_in, map(stage.inside, ("checkpoints", "weights")))):
                kept = inside(self.path, "set_aside", f"{path.name}-unknown")
                remove(kept)
                move(path, kept)
                said.append(f"{path} has no record of its options: it is kept in {kept}, and done anew")
        return said

    def pretrained(self, component: str) -> Path:
        """Return the path of the copied weights of another run that a component starts from."""
        return self.file(KEPT, f"{component}.safetensors")

    def copies(self) -> set[str]:
        """Return the files in this folder that are copies of an artifact of some stage, archived or not."""
        stages = [stage for top in ("stages", "set_aside") for stage in listed(self.file(top))]
        artifacts = [path for stage in stages for path in listed(inside(stage, "artifacts"))]
        return {path.name for path in artifacts if _is_copy(self.file(path.name), path)}

    def published(self, name: str, record: StageRecord) -> dict[str, Path]:
        """Return the artifacts of a stage of which copies belong in this folder."""
        names = record.published
        if names is None:  # of an earlier version: those of which there are some
            artifacts = names_in(self.stage(name).inside("artifacts"))
            names = [artifact for artifact in artifacts if self.file(artifact).is_file()]
        return {artifact: self.stage(name).artifact(artifact) for artifact in names}

    def publish(self, copies: Mapping[str, Path], before: Collection[str]) -> list[str]:
        """Copy artifacts to this folder, by their names; say of which the copy was missing or damaged.

        Args:
            copies: where the artifacts lie.
            before: the names of copies so far; those of no artifact any more are removed.
        """
        for name in set(before) - set(copies):
            remove(self.file(name))
        said = []
        for name, path in copies.items():
            own = self.file(name)
            if path.is_file() and not _is_copy(own, path):
                if name not in before:
                    flaw = "has changed since it was copied" if own.exists() else "is missing"
                    said.append(f"{own} {flaw}: it is copied anew from {path}")
                copy(path, own)
        return said

    def claim(self, name: str, key: StageKey) -> StageRecord:
        """Prepare a stage's folder for ``key``, and return its record.

        A result of other options is archived under its key; an archived one of these options is restored. A
        training of fewer steps resumes in place, and so does one that is not done and whose options are
        adjusted.
        """
        folder = self.stage(name)
        record = folder.record()
        adjusted = self.adjustments(name, key)
        archived = self.is_archived(name, key)
        resumes = adjusted or (record and record.key.same_work(key) and record.key.steps < key.steps)
        if record and not record.key.same(key) and (archived or not resumes):
            self.archive(name, record.key)
            record = None
        if record is None and archived:
            remove(folder.path)
            move(self.archived(name, key), folder.path)
            record = folder.record()
        if record is None or record.key.same(key):
            return record or StageRecord(key)
        options = {dotted(option[1:]): values for option, values in adjusted.items()}
        step = folder.checkpoints.last() or 0
        if step and record.key.steps != key.steps:  # on which schedules depend
            options["steps"] = (record.key.steps, key.steps)
        more = [Adjustment(step, options)] if options else []
        return StageRecord(key, seconds=record.seconds, used=record.used, adjusted=[*record.adjusted, *more])

    def archive(self, name: str, key: StageKey) -> Path:
        """Archive a stage's folder under its key, replacing what was archived there."""
        archived = self.archived(name, key)
        remove(archived)
        return move(self.stage(name).path, archived)

    def adjustments(self, name: str, key: StageKey) -> dict[Key, tuple[object, object]]:
        """Return the options with whose new values a stage resumes from its checkpoint; mostly none."""
        record = self.stage(name).record()
        if record is None or record.done or record.key.steps > key.steps or self.is_archived(name, key):
            return {}
        step = self.stage(name).checkpoints.last() or 0
        return key.adjustments(record.key) if 0 < step < key.steps else {}

    def is_archived(self, name: str, key: StageKey) -> bool:
        """Whether there is an archived result of ``key``."""
        return self.archived(name, key).is_dir()

    def archived(self, name: str, key: StageKey) -> Path:
        """Return the folder of a stage's archived result of ``key``.

        An archived result of the same options and other code keeps its folder.
        """
        place = inside(self.path, "set_aside", f"{name}-{key}")
        there = StageFolder(place, self.path).record() if place.is_dir() else None
        if there is None or there.key.same(key):
            return place
        code = json.dumps(key.code, sort_keys=True).encode()
        return place.with_name(f"{place.name}-{hashlib.blake2b(code, digest_size=4).hexdigest()}")


def _is_later(error: MistakeError) -> bool:
    return error.problems[0].code == "unsupported-format"


def _stamped(recipe: bytes) -> bytes:
    return _STAMP % hashlib.blake2b(recipe, digest_size=8).hexdigest().encode() + recipe


def _has_format(path: Path) -> bool:
    return path.is_file() and b'"format": ' in path.read_bytes()[:30]


def _is_copy(path: Path, artifact: Path) -> bool:
    return path.is_file() and artifact.is_file() and filecmp.cmp(path, artifact, shallow=False)
