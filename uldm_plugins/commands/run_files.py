"""Whether the files of a run are whole, by their checksums; neither data nor components are needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from attrs import define, field, frozen

from uldm_core.errors import MistakeError
from uldm_core.paths import LEFT_OVER, inside, listed, refused
from uldm_core.recipe.document import Document
from uldm_core.run_folder.checkpoint import read_state
from uldm_core.run_folder.events import BEGINS, ENDS, read_events
from uldm_core.run_folder.events import FILE as EVENTS
from uldm_core.run_folder.files import digest, read_record, require
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.pretrained import started_from
from uldm_core.run_folder.record import StageRecord
from uldm_core.run_folder.stage_folder import StageFolder

T = TypeVar("T")
WHOLE, DAMAGED, UNCHECKED, LEFT_BEHIND = "whole", "damaged", "unchecked", "left behind"


@frozen
class FileState:
    """A file of a run.

    Args:
        file: its path below the run's folder.
        state: ``whole``; ``damaged``, or missing; ``unchecked`` where nothing says how it was; or ``left
            behind`` by a killed program.
        what: is wrong with it.
    """

    file: str
    state: str
    what: str = ""

    @property
    def stage(self) -> str:
        """The folder of the stage that it belongs to, ``stages/first`` say; empty for the run's own files."""
        top, *rest = self.file.split("/")
        return f"{top}/{rest[0]}" if rest and top in ("stages", "set_aside") else ""


def check_run(path: Path) -> list[FileState]:
    """Return the state of every file of a run that matters, read from its beginning to its end.

    Raises:
        MistakeError: it is no run.
    """
    if not ((path / "recipe.toml").exists() or (path / "stages").exists()):
        raise MistakeError(f"{path} is not a run: it has no recipe.toml")
    check = _Check(RunFolder(path))
    check.own_files()
    for top in ("stages", "set_aside"):
        for stage in check.listed(path / top):
            if stage.is_dir():
                check.stage(StageFolder(stage, path))
    for left in sorted(path.rglob("*")):
        if LEFT_OVER.fullmatch(left.name):
            check.note(left, LEFT_BEHIND, "by a killed program; the next run removes it")
    return sorted(check.found, key=lambda each: each.stage)


@define
class _Check:
    """Collects what is whole and what is not."""

    folder: RunFolder
    found: list[FileState] = field(factory=list)

    def note(self, path: Path, state: str = WHOLE, what: str = "") -> None:
        self.found.append(FileState(path.relative_to(self.folder.path).as_posix(), state, what))

    def read(self, path: Path, read: Callable[[], T]) -> T | None:
        """Read a file, and note whether that can be done."""
        try:
            listed(self.inside(path))  # no part of a checkpoint is a link either
            content = read()
        except MistakeError as error:
            self.note(Path(error.problems[0].where.source or path), DAMAGED, error.problems[0].what)
            return None
        except OSError as error:
            self.note(path, DAMAGED, f"cannot be read: {error.strerror}")
            return None
        self.note(path)
        return content

    def listed(self, path: Path) -> list[Path]:
        """Return what lies in a folder; note what may not be there."""
        try:
            return listed(self.inside(path))
        except MistakeError as error:
            self.note(Path(error.problems[0].where.source or path), DAMAGED, error.problems[0].what)
        except OSError as error:
            self.note(path, DAMAGED, f"cannot be read: {error.strerror}")
        return []

    def inside(self, path: Path) -> Path:
        """Return a path of the run, if no link is on its way."""
        return inside(self.folder.path, *path.relative_to(self.folder.path).parts)

    def compare(self, path: Path, known: str) -> None:
        """Note whether a file has the digest that is known of it."""
        self.read(path, partial(_compare, path, known))

    def own_files(self) -> None:
        """Check the files of the run that belong to no stage."""
        recipe = self.folder.path / "recipe.toml"
        self.read(recipe, partial(_recipe, self.folder))
        of_format_1 = self.folder.is_of_format_1()
        for path in (self.folder.path / name for name in ("run.json", "environment.json")):
            if path.exists() or not of_format_1:
                self.read(path, partial(_record, path, not of_format_1))
        for path in self.listed(self.folder.path / "evaluations"):
            if path.suffix == ".json":
                self.read(path, partial(_record, path))
        if (self.folder.path / EVENTS).exists() or not of_format_1:
            self.read(self.folder.path / EVENTS, self.event_log)
        for path in self.listed(self.folder.path / "pretrained"):
            known = started_from(path.stem, self.folder)
            if known:
                self.compare(path, digest(path) if digest(path) in known else next(iter(known)))
            else:
                self.note(path, UNCHECKED, "no stage has begun with it")

    def event_log(self) -> None:
        """Raise ``MistakeError`` if lines of the event log are damaged, or its last ones are lost."""
        path = self.folder.file(EVENTS)
        require(path)
        events, bad, _ = read_events(path)
        if bad:
            raise refused(path, f"{bad} of its lines are not as they were written")
        try:  # which is written after the event of the same name, and before one of another beginning
            state = read_record(self.folder.file("run.json"), lambda found: str(found["state"]))
        except MistakeError:
            return
        last = [event.name for event in events if event.name in (*BEGINS, *ENDS)][-1:]
        if last != [state] if state in ENDS else not events:
            raise refused(path, f"it has been cut short: the run is {state}, and it does not say so")

    def stage(self, stage: StageFolder) -> None:
        """Check the files of a stage."""
        if problems := stage.record_damage():
            for problem in problems:
                self.note(Path(problem.where.source or stage.path), DAMAGED, problem.what)
        try:
            record = stage.record()
        except MistakeError:
            record = None
        if not problems and record:
            self.note(stage.path / "stage.json")
            if stage.is_not_copied():
                self.note(stage.path / "stage_copy.json", DAMAGED, "it is no copy of stage.json")
        self.result(stage, record)
        for path in self.listed(stage.path / "checkpoints"):
            if path.name.isdecimal():
                self.read(path, partial(read_state, path))
        if record and not record.done:
            self.logs(stage)

    def logs(self, stage: StageFolder) -> None:
        """Check what a training has logged up to its last checkpoint."""
        logged = stage.checkpoints.logged(stage.checkpoints.last() or 0)
        changed = stage.changed_logs(logged)
        for path in map(stage.path.joinpath, logged):
            if path in changed:
                self.note(path, DAMAGED, "it is missing, or has changed since the last checkpoint")
            else:
                self.note(path)

    def result(self, stage: StageFolder, record: StageRecord | None) -> None:
        """Check the files that a stage has left, if it is done."""
        known = record.digests if record and record.done else {}
        for name, then in known.items():
            self.compare(stage.path / name, then)
        for name in (record.published or ()) if known and record else ():
            self.compare(self.folder.path / name, known[f"artifacts/{name}"])
        for path in sorted(
            path for part in ("weights", "artifacts") for path in (stage.path / part).rglob("*")
        ):
            if path.is_file() and path.relative_to(stage.path).as_posix() not in known:
                self.note(path, UNCHECKED, "no record says how it was")


def _compare(path: Path, known: str) -> None:
    require(path)
    if digest(path) != known:
        raise refused(path, "it has changed since it was written: the checksum differs")


def _recipe(folder: RunFolder) -> None:
    require(folder.path / "recipe.toml")
    if problems := folder.recipe_damage():
        raise MistakeError(*problems)
    Document.read(folder.recipe)


def _record(path: Path, has_checksum: bool = False) -> None:
    require(path)
    read_record(path, dict)
    if has_checksum and "checksum" not in json.loads(path.read_bytes()):
        raise refused(path, "not what uldm writes there: it has no checksum")
