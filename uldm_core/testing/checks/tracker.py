"""The contract of trackers: each is told of whole runs, in a folder that is thrown away."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from attrs import frozen
from hypothesis import strategies as st
from torch import Tensor

from uldm_core.protocols import RunStart
from uldm_core.testing.case import Case
from uldm_core.testing.contract import Contract, expect

contract = Contract(exercise=lambda case, tracker: _exercise(tracker), remembers=True)
RECIPE: Mapping[str, Any] = {
    "uldm": 1,
    "seed": 0,
    "run": {"device": "auto", "threads": 0, "compile": False, "trackers": []},
    "dataset": {"kind": "dataset", "use": "mnist", "limit": 64},
    "stages": {"first": {"use": "train", "steps": 6, "losses": [{"use": "l1", "weight": 0.5}]}},
}
STEPS = 6
ODD_VALUES = (0.0, -1.5, 1e-300, -1e300, 1, float("nan"), float("inf"))


@frozen
class _Place:
    """A run's folder with files of the run's own, and an empty folder that the program stands in."""

    run: Path
    elsewhere: Path

    def start(self) -> RunStart:
        return RunStart(self.run, self.run.name, deepcopy(dict(RECIPE)), ["first", "second"], "uldm run it")


@contextmanager
def _place() -> Iterator[_Place]:
    here = Path.cwd()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        place = _Place(Path(folder).resolve() / "runs" / "checked", Path(folder).resolve() / "elsewhere")
        place.elsewhere.mkdir()
        for path in ("recipe.toml", "run.json", "stages/first/stage.json"):
            (place.run / path).parent.mkdir(parents=True, exist_ok=True)
            (place.run / path).write_text(f"the run's own {path}")
        os.chdir(place.elsewhere)
        try:
            yield place
        finally:
            os.chdir(here)


def _images(channels: int, count: int = 4, side: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def _train(tracker: Any, first: int = 0, last: int = STEPS) -> None:
    """Tell of a training stage, from one step to another."""
    tracker.stage("first", first, STEPS)
    for step in range(first + 1, last + 1):
        tracker.scalars("first", step, {"loss": 1 / step, "images_per_second": 100.0})
    tracker.images("first", last, "reconstructions", _images(channels=1))


def _whole_run(tracker: Any, place: _Place, state: str = "done") -> None:
    tracker.begin(place.start())
    _train(tracker)
    tracker.stage_done("first", 1.5, {})
    tracker.stage("second", 0, 0)
    tracker.stage_done("second", 0.5, {"frechet": 12.5})
    tracker.end(state)


def _exercise(tracker: Any) -> None:
    """Tell it of a whole run."""
    with _place() as place:
        _whole_run(tracker, place)
        expect(Path.cwd() == place.elsewhere, "the working folder changes, and is not its own")


@contract.check
def hears_a_whole_run(case: Case) -> None:
    """A run with a training and a stage without steps, ended in each way, raises nothing."""
    state = case.draw(st.sampled_from(("done", "stopped", "failed")), "state")
    with _place() as place:
        _whole_run(case.build(), place, state)


@contract.check
def hears_of_nothing_to_do(case: Case) -> None:
    """A run whose stages are done already begins and ends, and nothing is told in between."""
    with _place() as place:
        tracker = case.build()
        tracker.begin(place.start())
        tracker.end("done")


@contract.check
def goes_on(case: Case) -> None:
    """A run that was stopped goes on from its checkpoint: a new tracker is told the same steps again."""
    with _place() as place:
        stopped, tracker = case.build(), case.build()
        stopped.begin(place.start())
        _train(stopped, last=5)
        stopped.end("stopped")
        tracker.begin(place.start())
        _train(tracker, first=3)
        tracker.end("done")


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
        tracker.end("failed")


@contract.check
def takes_any_images(case: Case) -> None:
    """Images are grey or coloured, one or many, under several names and before any step."""
    channels = case.draw(st.sampled_from((1, 3)), "channels")
    count = case.draw(st.sampled_from((1, 23)), "count")
    with _place() as place:
        tracker = case.build()
        tracker.begin(place.start())
        tracker.stage("first", 0, STEPS)
        for step, name in ((0, "samples"), (3, "samples"), (3, "reconstructions")):
            tracker.images("first", step, name, _images(channels, count))
        tracker.end("done")


@contract.check
def changes_nothing_it_is_given(case: Case) -> None:
    """Images, scalars and the recipe are the run's: other trackers are told them too."""
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


@contract.check
def prints_nothing(case: Case) -> None:
    """Nothing is printed to standard output: that is for data."""
    with _place() as place, redirect_stdout(io.StringIO()) as printed:
        _whole_run(case.build(), place)
    expect(not printed.getvalue(), f"it prints {printed.getvalue()[:60]!r}")
