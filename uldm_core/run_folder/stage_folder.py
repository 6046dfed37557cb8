"""One stage's folder: its record, log, images, checkpoints, weights and artifacts."""

from __future__ import annotations

import filecmp
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from attrs import Factory, asdict, evolve, field, frozen

from uldm_core.errors import MistakeError, Problem
from uldm_core.paths import inside, listed, sync, writing
from uldm_core.run_folder.checkpoint import Checkpoints
from uldm_core.run_folder.files import damaged, digest, read_record, write_record
from uldm_core.run_folder.record import StageRecord, record_of

R = TypeVar("R")
_DIGITS = re.compile(r"[0-9]+")
_RECORDS = ("stage.json", "stage_copy.json")


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
        return self.read_record(record_of)

    def read_record(self, make: Callable[[dict[str, Any]], R]) -> R | None:
        """Read the record as ``record`` does, and return what ``make`` makes of its content."""
        problem = None
        for name in _RECORDS:
            try:
                if (found := read_record(self.inside(name), make)) is not None:
                    return found
            except MistakeError as error:
                if is_later(error):
                    raise
                problem = problem or error
        if problem:
            raise problem
        return None

    def record_damage(self, make: Callable[[dict[str, Any]], object] = record_of) -> list[Problem]:
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
        return has_format(own) and not is_copy(own, copy_of_it)

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

    def is_recorded(self, record: StageRecord, path: Path) -> bool:
        """Whether a record has a file among those of its result; one that lists none may have any."""
        return not record.files or self._name(path) in record.files

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


def is_later(error: MistakeError) -> bool:
    """Whether a record could not be read since a later version of uldm wrote it."""
    return error.problems[0].code == "unsupported-format"


def has_format(path: Path) -> bool:
    """Whether a file is a record that says its format: of format 2 or later."""
    return path.is_file() and b'"format": ' in path.read_bytes()[:30]


def is_copy(path: Path, artifact: Path) -> bool:
    """Whether two files are there and hold the same."""
    return path.is_file() and artifact.is_file() and filecmp.cmp(path, artifact, shallow=False)
