"""A run's folder: its stages' folders, its own files, and archived results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from uldm_core.errors import Key, MistakeError, Problem, Where, dotted
from uldm_core.paths import copy, inside, listed, move, names_in, remove
from uldm_core.recipe.reader import KEPT
from uldm_core.run_folder.files import digest_of, read_bytes, read_record, write_bytes
from uldm_core.run_folder.record import Adjustment, StageKey, StageRecord, record_of
from uldm_core.run_folder.stage_folder import StageFolder, has_format, is_copy, is_later

_STAMP = b"# changed since if this is not its checksum: %s\n"


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
            if is_later(error):
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
        return not any(map(has_format, records))

    def damage(self, make: Callable[[dict[str, Any]], object] = record_of) -> list[Problem]:
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
        return {path.name for path in artifacts if is_copy(self.file(path.name), path)}

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
            if path.is_file() and not is_copy(own, path):
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

    def resumed_key(self, name: str, key: StageKey) -> StageKey:
        """Return the key under which what a stage of ``key`` resumes from was made."""
        record = self.stage(name).record()
        return record.key if record and not self.is_archived(name, key) else key

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


def _stamped(recipe: bytes) -> bytes:
    return _STAMP % digest_of(recipe).encode() + recipe
