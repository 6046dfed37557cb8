"""The contract of trackers: each is notified of whole runs, in a folder that is thrown away."""

from __future__ import annotations

import gc
import os
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from uldm_core.protocols import RunStart, Tracker
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import expect

contract = Contract(exercise=lambda case, tracker: _exercise(tracker), remembers=True)
RECIPE: Mapping[str, Any] = {
    "uldm": 1,
    "seed": 0,
    "run": {"device": "auto", "threads": 0, "compile": False, "trackers": []},
    "dataset": {"kind": "dataset", "use": "mnist", "limit": 64},
    "stages": {"first": {"use": "train", "steps": 6, "losses": [{"use": "l1", "weight": 0.5}]}},
}
STEPS = 6
ODD_VALUES = (0.0, -1.5, 1e-300, -1e300, 1, float("nan"), float("inf"), -float("inf"), np.float64(0.5))
MANY = 101
PATIENCE = 0.5
"""Seconds that another process may take to write what it received."""
DATA_FILES = (".csv", ".json", ".jsonl", ".tsv")


@frozen
class _Place:
    """A run's folder with files of the run's own, and an empty folder that the program stands in."""

    run: Path
    elsewhere: Path

    def start(self) -> RunStart:
        return RunStart(self.run, self.run.name, deepcopy(dict(RECIPE)), ["first", "second"], "uldm run it")

    def files(self) -> dict[str, bytes]:
        """Return the content of every file in the run's folder, by its path there."""
        paths = [path for path in sorted(self.run.rglob("*")) if path.is_file()]
        return {path.relative_to(self.run).as_posix(): path.read_bytes() for path in paths}


@contextmanager
def _place(name: str = "checked") -> Iterator[_Place]:
    here = Path.cwd()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        place = _Place(Path(folder).resolve() / "runs" / name, Path(folder).resolve() / "elsewhere")
        place.elsewhere.mkdir()
        for path in ("recipe.toml", "run.json", "stages/first/stage.json"):
            (place.run / path).parent.mkdir(parents=True, exist_ok=True)
            (place.run / path).write_text(f"the run's own {path}")
        os.chdir(place.elsewhere)
        try:
            yield place
        finally:
            os.chdir(here)


def _images(channels: int, count: int = 4, height: int = 8, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def _value(number: int) -> float:
    """Return a number that is found again wherever it is written: 0.10007, 0.10617, and so on."""
    return round((1000 + 61 * number) / 10_000 + 7e-5, 5)


def _text(number: int) -> str:
    return f"{_value(number):.5f}"


def _holds(files: Mapping[str, bytes], number: int) -> bool:
    """Whether any file holds ``_value(number)``, as text or as a number in a binary format."""
    value = _value(number)
    forms = [_text(number).encode(), *(struct.pack(form, value) for form in ("<f", ">f", "<d", ">d"))]
    return any(form in content for content in files.values() for form in forms)


def _train(tracker: Tracker, first: int = 0, last: int = STEPS) -> None:
    """Log a training stage, from one step to another."""
    tracker.stage("first", first, STEPS)
    for step in range(first + 1, last + 1):
        tracker.scalars("first", step, {"loss": 1 / step, "images_per_second": 100.0})
    tracker.images("first", last, "reconstructions", _images(channels=1))


def _whole_run(tracker: Tracker, place: _Place, state: str = "done") -> None:
    tracker.begin(place.start())
    _train(tracker)
    tracker.stage_done("first", 1.5, {})
    tracker.stage("second", 0, 0)
    tracker.stage_done("second", 0.5, {"frechet": 12.5})
    tracker.end(state)


def _exercise(tracker: Tracker) -> list[int]:
    """Log a whole run to it; return how often its data files hold the values."""
    with _place() as place:
        tracker.begin(place.start())
        _log(tracker, 0, STEPS)
        tracker.images("first", STEPS, "reconstructions", _images(channels=1))
        tracker.stage_done("first", 1.5, {})
        tracker.end("done")
        texts = [content.decode("utf-8", "replace") for content in _data_files(place.files()).values()]
        expect(Path.cwd() == place.elsewhere, "the working folder changes, and is not its own")
        return [sum(text.count(_text(step)) for text in texts) for step in range(1, STEPS + 1)]


def _log(
    tracker: Tracker, first: int, last: int, total: int = STEPS, salt: int = 0, stage: str = "first"
) -> None:
    """Log a training stage from one step to another, with values that can be found again."""
    tracker.stage(stage, first, total)
    for step in range(first + 1, last + 1):
        tracker.scalars(stage, step, {"loss": _value(step + salt)})


def _data_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return those files that other programs read as tables or records; they are written at once."""
    return {path: content for path, content in files.items() if path.endswith(DATA_FILES)}


@contract.check
def handles_a_whole_run(case: Case) -> None:
    """A run with a training and a stage without steps, ended in each way and done again, raises nothing."""
    with _place() as place:
        for state in ("stopped", "failed", "done"):
            _whole_run(case.build(), place, state)


@contract.check
def handles_nothing_to_do(case: Case) -> None:
    """A run whose stages are done already begins and ends, with no call in between."""
    with _place() as place:
        tracker = case.build()
        tracker.begin(place.start())
        tracker.end("done")


@contract.check
def resumes(case: Case) -> None:
    """A run that resumes from a checkpoint logs the steps behind it again; those before it are kept."""
    with _place() as place:
        stopped, tracker = case.build(), case.build()
        stopped.begin(place.start())
        _log(stopped, 0, 5)
        stopped.images("first", 5, "samples", _images(channels=1))
        stopped.end("stopped")
        kept = [step for step in (1, 2) if _holds(place.files(), step)]
        tracker.begin(place.start())
        _log(tracker, 3, 5, salt=10)
        files = place.files()
        tracker.images("first", 5, "samples", _images(channels=1))
        tracker.end("done")
    if kept == [1, 2]:
        lost = [step for step in kept if not _holds(files, step)]
        expect(not lost, "what it had kept of the steps before the checkpoint is lost")


@contract.check
def newer_values_kept(case: Case) -> None:
    """Steps that a run logs again after a checkpoint are kept as they are now, beside the old or instead."""
    with _place() as place:
        stopped, tracker = case.build(), case.build()
        stopped.begin(place.start())
        _log(stopped, 0, 5)
        stopped.end("stopped")
        tracker.begin(place.start())
        _log(tracker, 3, STEPS, salt=10)
        tracker.end("done")
        files = place.files()
    lost = [step for step in (4, 5) if not _holds(files, step + 10)]
    for path, content in _data_files(files).items():
        stale = lost and all(_holds({path: content}, step) for step in (4, 5))
        expect(
            not stale, f"of steps {lost}, logged again after a checkpoint, {path} has the void values only"
        )


@contract.check
def keeps_stages_apart(case: Case) -> None:
    """Each stage counts its own steps: what is kept of one does not take the place of another's."""
    with _place() as place:
        tracker = case.build()
        tracker.begin(place.start())
        for salt, stage in ((0, "first"), (20, "second")):
            _log(tracker, 0, 3, 3, salt, stage)
            tracker.stage_done(stage, 1.5, {})
        tracker.end("done")
        kept = _steps_in(place.files())
    if {21, 22} <= set(kept):
        expect({1, 2} <= set(kept), "what it kept of the first stage is gone after the second")


@contract.check
def keeps_the_last(case: Case) -> None:
    """After ``end`` all is on disk, however the run ended: nothing waits in a buffer, or is written later."""
    done = _kept(case, "done")
    if done[:2] != [1, 2]:  # it is no log of steps
        return
    expect(done[-1] == MANY, f"of {MANY} steps it keeps those up to {done[-1]}: the rest is lost")
    expect(_kept(case, "failed") == done, "of a run that failed it keeps less than of one that is done")


def _kept(case: Case, state: str) -> list[int]:
    """Return the steps whose values are on disk after a run that ended so."""
    with _place() as place:
        tracker, before = case.build(), place.files()
        tracker.begin(place.start())
        _log(tracker, 0, MANY, MANY)
        tracker.end(state)
        until = time.monotonic() + (PATIENCE if place.files() != before else 0)
        while MANY not in (kept := _steps_in(files := place.files())) and time.monotonic() < until:
            time.sleep(0.05)
        del tracker
        gc.collect()
        later = place.files()
        same = later == files or _steps_in(later) == kept  # looking for many values takes a while
        expect(same, "it writes when it is thrown away: close its files at the end")
        return kept


def _steps_in(files: Mapping[str, bytes]) -> list[int]:
    """Return the steps whose values are in files."""
    return [step for step in range(1, MANY + 1) if _holds(files, step)]


@contract.check
def takes_any_number(case: Case) -> None:
    """Scalars are any numbers, NaN and infinity too, under names that come and go; there may be none."""
    with _place() as place:
        tracker = case.build()
        tracker.begin(place.start())
        tracker.stage("first", 0, STEPS)
        for step, value in enumerate(ODD_VALUES, 1):
            tracker.scalars("first", step, {"loss": value, f"term_{step}": value})
        tracker.scalars("first", len(ODD_VALUES) + 1, {})
        tracker.end("done")


@contract.check
def takes_any_name(case: Case) -> None:
    """Metrics are called what their stages call them, with slashes and in any script, and so are folders."""
    with _place("zwölf Läufe (neu) 1%") as place:
        tracker = case.build()
        tracker.begin(place.start())
        tracker.stage("first", 0, STEPS)
        tracker.scalars("first", 1, {"losses/l1": 0.5, "größe": 1.5, "損失": 2.5, "psnr 1": 3.5})
        tracker.images("first", 1, "of 1", _images(channels=1))
        tracker.stage_done("first", 0.5, {"fréchet/train": 12.5})
        tracker.end("done")


@contract.check
def takes_any_images(case: Case) -> None:
    """Images are grey or coloured, one or many, of any sides, under several names and before any step."""
    shapes = ((1, 1, 8, 8), (3, 23, 8, 8), (1, 4, 6, 10), (3, 2, 9, 5), (3, 11, 1, 1))
    with _place() as place:
        tracker = case.build()
        tracker.begin(place.start())
        tracker.stage("first", 0, STEPS)
        for step, (channels, *shape) in enumerate(shapes):
            images = _images(channels, *shape)
            tracker.images("first", step, "samples", images)
            tracker.images(
                "first", step, f"{channels}", images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
            )
        tracker.end("done")


@contract.check
def changes_nothing_it_is_given(case: Case) -> None:
    """Images, scalars and the recipe are the run's: other trackers receive them too."""
    with _place() as place:
        tracker, start, images = case.build(), place.start(), _images(channels=3)
        values = {"loss": 0.5, "images_per_second": 10.0}
        tracker.begin(start)
        tracker.stage("first", 0, STEPS)
        tracker.scalars("first", 1, values)
        tracker.images("first", 1, "samples", images)
        tracker.end("done")
    expect(torch.equal(images, _images(channels=3)), "the images are changed")
    expect(values == {"loss": 0.5, "images_per_second": 10.0}, "the scalars are changed")
    expect(start.recipe == RECIPE, "the recipe is changed")


@contract.check
def writes_within_the_run(case: Case) -> None:
    """What it writes lies in the run's folder, beside the run's own files, which stay as they were."""
    with _place() as place:
        files = {path: path.read_text() for path in place.run.rglob("*") if path.is_file()}
        _whole_run(case.build(), place)
        strays = [path.name for path in place.elsewhere.iterdir()]
        expect(not strays, f"it writes {', '.join(strays)} into the working folder")
        for path, text in files.items():
            kept = path.is_file() and path.read_text() == text
            expect(kept, f"it changes the run's {path.relative_to(place.run)}")


@contract.check
def building_writes_nothing(case: Case) -> None:
    """Building it leaves no file: recipes are checked by building what they list."""
    with _place() as place:
        before = set(place.run.parent.parent.rglob("*"))
        case.build()
        new = sorted(path.name for path in set(place.run.parent.parent.rglob("*")) - before)
        expect(not new, f"it writes {', '.join(new)} before any run begins")
