"""Trackers in a run: what they are told, that they cost nothing but a warning, and ``run.json``."""

import json

import pytest
import torch

from uldm_core import Component, MistakeError, RunError, check
from uldm_core.engine import loop, run_log, trackers
from uldm_core.engine.components import RunComponents
from uldm_core.engine.context import Context
from uldm_core.engine.device import choose_device
from uldm_core.engine.progress import Silent
from uldm_core.engine.run import run
from uldm_core.engine.run_log import RunStatus
from uldm_core.engine.signals import Interrupted, Stop
from uldm_core.protocols import RunStart
from uldm_core.recipe import Recipe, RunOptions
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.keys import stage_keys
from uldm_plugins.trackers.jsonl import Jsonl


class Notes:
    """Notes down what it is told, on the class, since a run builds its own."""

    told = []

    def __init__(self, fail_in: str = "", objects: bool = False) -> None:
        if objects:
            raise ValueError("it objects")
        self.fail_in = fail_in
        type(self).told = []

    def note(self, event, *args):
        self.told.append((event, *args))
        if event == self.fail_in:
            raise OSError("no space left")

    def begin(self, run):
        self.note("begin", run)

    def stage(self, name, step, total):
        self.note("stage", name, step, total)

    def scalars(self, stage, step, values):
        self.note("scalars", stage, step, dict(values))

    def images(self, stage, step, name, images):
        self.note("images", stage, step, name, images)

    def stage_done(self, stage, seconds, summary):
        self.note("stage_done", stage, seconds, dict(summary))

    def end(self, state):
        self.note("end", state)


class Messages(Silent):
    def __init__(self, stop=None, at=0):
        self.said, self.stop, self.at = [], stop, at

    def message(self, text):
        self.said.append(text)

    def advanced(self, done, metrics, rate):
        if self.stop and done >= self.at:
            self.stop.signum = 2


@pytest.fixture
def plan_of(registry, write, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 2)
    registry.register(Component("tracker", "notes", Notes))

    def plan_of(listed="[]", *overrides, changes=()):
        return Recipe.load(write(*changes), [f"run.trackers={listed}", *overrides]).resolve(registry)

    return plan_of


def events(*names):
    return [told for told in Notes.told if told[0] in names]


def test_a_tracker_is_notified_of_everything_in_order(plan_of, tmp_path):
    resolved = plan_of('["notes"]')
    run(resolved, out=tmp_path / "out", command="uldm run it")
    kinds = [event[0] for event in Notes.told]
    first = ["stage", *["scalars"] * 3, "stage_done"]
    assert kinds == ["begin", *first, *["stage", "stage_done"] * 2, "end"]
    start = Notes.told[0][1]
    assert (start.folder, start.name) == (tmp_path / "out", "out")
    assert start.recipe == resolved.to_dict() and start.command == "uldm run it"
    assert list(start.stages) == ["first", "second", "third"]
    assert events("stage") == [("stage", "first", 0, 6), ("stage", "second", 0, 0), ("stage", "third", 0, 0)]
    assert [told[1:3] for told in events("scalars")] == [("first", 2), ("first", 4), ("first", 6)]
    assert events("scalars")[0][3].keys() == {"loss", "images_per_second"}
    assert events("stage_done")[0][3].keys() == {"weight"} and events("end") == [("end", "done")]


def test_of_what_is_done_already_only_begin_and_end_are_notified(plan_of, tmp_path):
    run(plan_of(), out=tmp_path / "out")
    run(plan_of('["notes"]'), out=tmp_path / "out")
    assert [event[0] for event in Notes.told] == ["begin", "end"]


def test_a_run_that_resumes_tells_from_which_step(plan_of, tmp_path):
    stop = Stop()
    with pytest.raises(Interrupted):
        run(plan_of('["notes"]'), out=tmp_path / "out", reporter=Messages(stop, 4), stop=stop)
    assert events("end") == [("end", "stopped")]
    run(plan_of('["notes"]'), out=tmp_path / "out")
    assert events("stage")[0] == ("stage", "first", 4, 6)


@pytest.mark.parametrize("event", ["begin", "stage", "scalars", "stage_done", "end"])
def test_a_tracker_that_fails_is_left_out_with_one_warning_and_another_in_the_end(plan_of, tmp_path, event):
    messages = Messages()
    run(plan_of(f'[{{ use = "notes", fail_in = "{event}" }}]'), out=tmp_path / "out", reporter=messages)
    warning, *again = [text for text in messages.said if text.startswith("warning: ")]
    said = [
        text.startswith("warning: tracker/notes was left out, its log is not whole: OSE") for text in again
    ]
    assert said == [True] * (event != "end")
    assert warning.startswith(
        "warning: tracker/notes failed, the run continues without it: OSError: no space"
    )
    assert "test_trackers.py" in warning
    assert Notes.told[-1][0] == event and len(events(event)) == 1
    assert (tmp_path / "out/stages/first/metrics.jsonl").is_file(), "the other tracker is still told"
    assert json.loads((tmp_path / "out/run.json").read_text())["state"] == "done"


def test_a_run_that_fails_before_it_begins_notifies_no_tracker(plan_of, tmp_path, monkeypatch):
    def full(self, text):
        raise RunError("recipe.toml: No space left on device")

    monkeypatch.setattr(RunFolder, "write_recipe", full)
    messages = Messages()
    with pytest.raises(RunError, match="No space left"):
        run(plan_of('["notes"]'), out=tmp_path / "out", reporter=messages)
    assert Notes.told == [] and not [text for text in messages.said if "tracker" in text]


def test_a_listed_trackers_error_is_a_mistake_in_the_recipe(plan_of, registry, write, tmp_path):
    listed = 'run.trackers = ["jsonl", { use = "notes", objects = true }]'
    recipe = Recipe.load(write(("seed = 3", f"seed = 3\n{listed}")))
    said = f"{tmp_path / 'r.toml'}:3: run.trackers[1]: it objects"
    assert [str(problem).splitlines()[0] for problem in check(recipe, registry)] == [said]
    with pytest.raises(MistakeError) as caught:
        run(recipe.resolve(registry), out=tmp_path / "out")
    assert str(caught.value).splitlines()[0] == said


def test_one_that_is_always_notified_is_left_out_where_it_cannot_be_built(plan_of, registry, tmp_path):
    registry.register(Component("tracker", "sick", "no_such_module:Sick", always=True))
    messages = Messages()
    run(plan_of(), out=tmp_path / "out", reporter=messages)
    warning, _ = [text for text in messages.said if text.startswith("warning: ")]
    assert warning.startswith(
        "warning: tracker/sick failed, the run continues without it: tracker/sick cannot be"
    )


def test_one_that_is_always_notified_takes_the_options_that_a_recipe_lists(plan_of, registry):
    registry.register(Component("tracker", "notes", Notes, always=True))
    paths = [spec.component.path for spec in plan_of().trackers]
    assert sorted(paths) == ["tracker/jsonl", "tracker/notes"]
    listed = plan_of('[{ use = "notes", fail_in = "end" }]').trackers
    assert [spec.component.path for spec in listed] == ["tracker/jsonl", "tracker/notes"]
    assert listed[1].options["fail_in"] == "end"


def test_trackers_are_written_out_and_are_no_part_of_any_key(plan_of, registry):
    resolved, other = plan_of('["notes"]'), plan_of()
    written = resolved.to_dict()["run"]["trackers"]
    assert written == [{"use": "notes", "fail_in": "", "objects": False}]
    again = Recipe.from_dict(resolved.to_dict()).resolve(registry)
    assert again.to_dict() == resolved.to_dict()
    machine = choose_device(RunOptions(device="cpu"))
    keys = [stage_keys(p, RunComponents.of(p, machine)) for p in (resolved, other)]
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ('"notes"', "run.trackers: expected a list of (any tracker), got 'notes'"),
        ('["ntoes"]', "run.trackers[0].use: unknown tracker 'ntoes' (did you mean 'notes'?)"),
        ('["distance"]', "run.trackers[0].use: unknown tracker 'distance'"),
        ('["notes", "notes"]', "run.trackers[1]: a duplicate of trackers[0]"),
        ('["notes", { use = "notes", fail_in = "end" }]', "run.trackers[1]: tracker/notes is listed twice"),
        ('[{ use = "notes", fial_in = "" }]', "unknown option 'fial_in' (did you mean 'fail_in'?)"),
        ("[3]", "run.trackers[0]: expected a tracker (a name or a table), got 3"),
        ('[{ ref = "notes" }]', "there is no [notes] in the recipe"),
    ],
)
def test_mistakes_in_the_list_are_reported(plan_of, listed, said):
    with pytest.raises(MistakeError) as caught:
        plan_of(listed)
    assert said in str(caught.value) and len(caught.value.problems) == 1


def test_a_table_of_a_tracker_is_reported_where_it_belongs(plan_of):
    with pytest.raises(
        MistakeError, match=r"tracker: unknown table 'tracker': 'notes' is a tracker\n.*run\.trackers"
    ):
        plan_of("[]", "tracker.use=notes")


def status(folder):
    return json.loads((folder / "run.json").read_text())


def test_run_json_says_how_a_run_is_and_was_started(plan_of, registry, tmp_path, monkeypatch):
    seen = []

    class Looks(Notes):
        def scalars(self, stage, step, values):
            seen.append(status(tmp_path / "out"))

    registry.register(Component("tracker", "looks", Looks))
    run(plan_of('["looks"]'), out=tmp_path / "out", command="uldm run r.toml")
    assert {entry["state"] for entry in seen} == {"running"}
    done = status(tmp_path / "out")
    assert done["state"] == "done" and done["command"] == "uldm run r.toml" and done["error"] == ""
    assert done["started"] <= done["updated"]
    assert not list((tmp_path / "out").glob("*.part"))


def test_run_json_says_why_a_run_ended(plan_of, registry, tmp_path, monkeypatch):
    stop = Stop()
    with pytest.raises(Interrupted):
        run(plan_of(), out=tmp_path / "out", reporter=Messages(stop, 2), stop=stop)
    assert (status(tmp_path / "out")["state"], status(tmp_path / "out")["error"]) == ("stopped", "")
    monkeypatch.setattr(registry.get("stage", "train").target, "fail_at", 5)
    with pytest.raises(RunError):
        run(plan_of('["notes"]'), out=tmp_path / "out")
    assert status(tmp_path / "out")["state"] == "failed" and events("end") == [("end", "failed")]
    assert status(tmp_path / "out")["error"].startswith("stages.first: loss is nan at step 6")


def test_a_living_run_is_noted_now_and_then(tmp_path, monkeypatch):
    file = tmp_path / "run.json"
    alive = RunStatus(file)
    alive.write("running")
    file.unlink()
    alive.beat()
    assert not file.exists()
    monkeypatch.setattr(run_log, "BEAT_EVERY_SECONDS", 0.0)
    alive.beat()
    assert json.loads(file.read_text())["state"] == "running"


def test_images_are_handed_on_to_trackers_and_progress_is_a_sign_of_life(tmp_path):
    told, beats = trackers.Trackers(by_path={"notes": Notes()}), []
    context = Context(
        "s",
        0,
        choose_device(RunOptions(device="cpu")),
        RunFolder(tmp_path).stage("s"),
        trackers=told,
        beat=lambda: beats.append(1),
    )
    context.log(1, {})
    context.advance(1)
    assert len(beats) == 2
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    context.show("samples", images, 7)
    ((_, stage, step, name, shown),) = events("images")
    assert (stage, step, name) == ("s", 7, "samples") and torch.equal(shown, images)


@pytest.fixture
def log(tmp_path):
    log = Jsonl()
    log.begin(RunStart(tmp_path, "run", {}, ["s"]))
    return log


def test_the_log_drops_what_is_behind_the_step_it_resumes_from(log, tmp_path):
    folder = tmp_path / "stages" / "s"
    log.stage("s", 0, 9)
    for step in (1, 2, 3):
        log.scalars("s", step, {"loss": 1 / step, "odd": float("nan")})
        log.images("s", step, "samples", torch.full((3, 1, 8, 8), 9, dtype=torch.uint8))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    (folder / "images" / "samples" / "mine.png").write_bytes(b"a person's")
    log.stage("s", 2, 9)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    names = [path.name for path in sorted((folder / "images/samples").iterdir())]
    assert names == ["00000001.png", "00000002.png", "mine.png"]
    log.stage("s", 0, 9)
    assert (folder / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize(("count", "channels", "side"), [(1, 1, 28), (3, 3, 32), (23, 1, 8), (2, 3, 256)])
def test_the_log_draws_grids_of_ten_a_row(log, tmp_path, count, channels, side):
    import numpy as np
    from PIL import Image

    images = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8)
    log.images("s", 12, "samples", images)
    picture = np.asarray(Image.open(tmp_path / "stages/s/images/samples/00000012.png"))
    scale = max(1, 64 // side)
    columns, rows = min(count, 10), -(-count // 10)
    assert picture.shape[:2] == (scale * (rows * (side + 2) + 2), scale * (columns * (side + 2) + 2))
    shown = picture[2 * scale : (2 + side) * scale : scale, 2 * scale : (2 + side) * scale : scale]
    assert np.array_equal(shown[..., :-1], images[0].permute(1, 2, 0).numpy())
    assert (shown[..., -1] == 255).all() and not picture[: 2 * scale, :, -1].any()  # what is between is clear
