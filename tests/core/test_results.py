"""What a run's results belong to: they are used only with what they were made of."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import pytest
import torch
from attrs import evolve
from core.conftest import forge
from torch import nn

from uldm_core import Component, Exists, MistakeError
from uldm_core.engine.components import RunComponents
from uldm_core.engine.device import choose_device
from uldm_core.engine.opened_run import TrainedRun
from uldm_core.engine.progress import Silent
from uldm_core.engine.run import run
from uldm_core.errors import RunWarning
from uldm_core.preflight.forecast import forecast
from uldm_core.protocols import Autoencoder, Dataset, Denoiser
from uldm_core.recipe import Recipe, RunOptions
from uldm_core.run_folder.consistency import stale_results, stale_stages
from uldm_core.run_folder.events import read_events
from uldm_core.run_folder.files import digest, read_record, read_tensors
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.keys import stage_keys


class Pictures:
    """A dataset of files: what a split holds is what its file says."""

    channels, size, splits = 1, (4, 4), ("train", "test")

    def __init__(
        self, root: Annotated[Path, Exists(folder=True)], subset: str = "train", quick: bool = True
    ) -> None:
        self.root, self.subset, self.quick = root, subset, quick
        try:
            self.fingerprint = (root / f"{subset}.txt").read_text()
        except OSError as error:
            raise ValueError(f"there are no images {error.filename}") from error
        self.left_out = {path.name: "no image" for path in root.glob("*.bad")}
        self.duplicates = SimpleNamespace(exact=0, near=len(self.left_out) // 2, compared=5)

    def __len__(self):
        return 10

    def images(self, indices):
        return torch.zeros(len(indices), 1, 4, 4, dtype=torch.uint8)

    def split(self, name):
        return Pictures(self.root, name, self.quick)


class Fit:
    """Trains the denoiser on the autoencoder, in steps."""

    trains, makes, needs, reads = ("denoiser",), (), (), ("train",)

    def __init__(
        self, dataset: Dataset, autoencoder: Autoencoder, denoiser: Denoiser, steps: int = 2
    ) -> None:
        self.dataset, self.autoencoder, self.denoiser, self.steps, self.batch_size = (
            dataset,
            autoencoder,
            denoiser,
            steps,
            2,
        )

    def prepare(self, context):
        pass

    def step(self, step, context):
        with torch.no_grad():
            self.denoiser.weight += self.autoencoder.weight[0] + step
        return {"loss": self.denoiser.weight.sum()}

    def stateful(self):
        return {"denoiser": self.denoiser}

    def finish(self, context):
        return {}


class Paint:
    """Makes a picture with what is trained, and shows it at the top."""

    trains, makes, needs, reads = (), ("picture.txt",), (), ()

    def __init__(
        self, dataset: Dataset, autoencoder: Autoencoder, denoiser: Denoiser, text: str = "a"
    ) -> None:
        self.autoencoder, self.denoiser, self.text, self.size = autoencoder, denoiser, text, dataset.size

    def run(self, context):
        weights = [*self.autoencoder.weight.tolist(), *self.denoiser.weight.tolist()]
        context.artifact("picture.txt").write_text(f"{self.text} {weights} {self.size}")
        context.publish("picture.txt")
        return {}


class Score:
    """Measures the picture against the test images."""

    trains, makes, needs, reads = (), (), ("picture.txt",), ("train", "test")

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def run(self, context):
        context.artifact("judged.txt").write_text(self.dataset.split("test").fingerprint)
        context.publish("judged.txt")
        return {}


class Loaded(nn.Module):
    """A denoiser that starts from a file."""

    def __init__(self, channels: int, weights: Path | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2) + (len(weights.read_text()) if weights else 0))

    def forward(self, latents, conditioning):
        return latents


RECIPE = """\
uldm = 1

[dataset]
use = "pictures"
root = "images"

[autoencoder]
use = "coder"

[denoiser]
use = "net"

[stages.first]
use = "train"
steps = 3

[stages.second]
use = "fit"

[stages.third]
use = "paint"

[stages.fourth]
use = "score"
"""
COMPONENTS = [
    Component("dataset", "pictures", Pictures),
    Component("denoiser", "loaded", Loaded),
    *(Component("stage", verb.__name__.lower(), verb) for verb in (Fit, Paint, Score)),
]


class Notes(Silent):
    def __init__(self):
        self.lines, self.done = [], []

    def message(self, text):
        self.lines.append(text)

    def finished(self, stage, seconds, summary):
        self.done.append(stage)


class Place:
    """A folder with images and a recipe, to run and to open."""

    def __init__(self, path, registry, monkeypatch):
        self.path, self.registry = path, registry
        for component in COMPONENTS:
            registry.register(component)
        (path / "images").mkdir()
        self.draw(train="one", test="two")
        self.write(RECIPE)
        (path / "elsewhere").mkdir()
        monkeypatch.chdir(path / "elsewhere")
        self.out = path / "runs" / "x"

    def draw(self, **splits):
        for split, text in splits.items():
            (self.path / "images" / f"{split}.txt").write_text(text)

    def write(self, text, name="r.toml"):
        (self.path / name).write_text(text)

    def resolve(self, *overrides, name="r.toml", **more):
        return Recipe.load(self.path / name, overrides).resolve(self.registry, **more)

    def run(self, *overrides, name="r.toml", out=None, **more):
        """Run it, and return the stages that were done, with what was said."""
        notes = Notes()
        run(self.resolve(*overrides, name=name), out=out or self.out, reporter=notes, **more)
        return notes

    def open(self, *overrides):
        return TrainedRun.open(self.out, overrides=overrides, registry=self.registry)

    def top(self, name="picture.txt"):
        path = self.out / name
        return path.read_text() if path.exists() else None

    def keys(self, *overrides, name="r.toml"):
        resolved = self.resolve(*overrides, name=name)
        builder = RunComponents.of(resolved, choose_device(RunOptions(device="cpu")))
        return {stage: key.content for stage, key in stage_keys(resolved, builder).items()}

    def changed(self, before, *overrides, name="r.toml"):
        after = self.keys(*overrides, name=name)
        return [stage for stage in before if before[stage] != after[stage]]


@pytest.fixture
def place(tmp_path, registry, monkeypatch):
    return Place(tmp_path, registry, monkeypatch)


ALL = ["first", "second", "third", "fourth"]


def test_what_was_built_on_something_else_is_archived_before_that_is_made_anew(place):
    assert place.run().done == ALL
    first, top = read_tensors(place.out / "stages/second/weights/denoiser.safetensors"), place.top()
    notes = place.run("autoencoder.quantizer.decay=0.9", until="first")
    assert notes.done == ["first"]
    assert any(line.endswith("recipe has now: second, third, fourth") for line in notes.lines)
    with pytest.raises(MistakeError, match="denoiser is not trained yet"):
        place.open().require_trained("autoencoder", "denoiser")
    with pytest.raises(MistakeError, match=r"has no picture\.txt yet"):
        place.open().artifact("picture.txt")
    place.open().require_trained("autoencoder")
    assert place.top() is None and place.top("judged.txt") is None
    assert place.run().done == [], "what was set aside is taken back"
    assert torch.equal(place.open().component("denoiser").weight, first["weight"])
    assert place.top() == top and place.top("judged.txt") == "two"


def test_a_copy_that_is_damaged_or_missing_is_made_anew_and_said(place):
    made = place.run()
    top = {name: place.top(name) for name in ("picture.txt", "judged.txt")}
    (place.out / "picture.txt").write_text("damaged")
    (place.out / "judged.txt").unlink()
    notes = place.run()
    said = [line for line in notes.lines if "it is copied anew from" in line]
    assert notes.done == [] and top == {name: place.top(name) for name in top}
    assert [line.split(":")[0] for line in said] == [
        f"{place.out / 'picture.txt'} has changed since it was copied",
        f"{place.out / 'judged.txt'} is missing",
    ]
    for again in (place.run("stages.third.text=b"), place.run()):
        assert again.lines and not [line for line in (*made.lines, *again.lines) if "copied anew" in line]


def test_stages_that_are_not_to_be_done_keep_fewer_steps_of_the_same(place):
    place.run()
    place.run("stages.second.steps=5", until="first")
    with pytest.raises(MistakeError, match="denoiser was trained for 2 steps, the recipe says 5"):
        place.open().component("denoiser")
    assert place.run().done == [], "the result of 2 steps is still there"


def stay(place, name):
    """Do what makes results stale in a folder of an earlier version: nothing is set aside."""
    kept = place.path / "kept"
    shutil.copytree(place.out / "stages" / name, kept)
    return lambda: (
        shutil.rmtree(place.out / "stages" / name, ignore_errors=True),
        kept.rename(place.out / "stages" / name),
    )


def test_weights_of_an_earlier_version_that_were_trained_on_others_are_refused(place):
    place.run()
    back = stay(place, "second")
    place.run("stages.first.batch_size=4", until="first")
    back()
    opened = place.open()
    said = "x: denoiser was trained with another autoencoder than the run has now"
    for ask in (
        lambda: opened.component("denoiser"),
        lambda: opened.require_trained("denoiser"),
        lambda: opened.stage("paint"),
    ):
        with pytest.raises(MistakeError, match=said) as caught:
            ask()
        assert caught.value.problems[0].hint == f"resume it: uldm run {place.out} --out {place.out}"
    opened.component("autoencoder")
    assert place.run("stages.first.batch_size=4").done == ["second", "third", "fourth"]
    place.open().stage("paint")


@pytest.mark.parametrize(
    ("override", "refused", "said"),
    [
        ("denoiser.width=3", ["denoiser", "picture.txt"], "denoiser.width: 2 -> 3"),
        (
            "autoencoder.quantizer.decay=0.9",
            ["autoencoder", "denoiser", "picture.txt"],
            "quantizer.decay: 0.5 -> 0.9",
        ),
        ("seed=1", ["autoencoder", "denoiser", "picture.txt"], "seed: 0 -> 1"),
        ("stages.third.text=b", ["picture.txt"], 'stages.third.text: "a" -> "b"'),
        (
            "stages.first.batch_size=4",
            ["autoencoder", "denoiser", "picture.txt"],
            "stages.first.batch_size: 2 -> 4",
        ),
        ("run.threads=1", [], ""),
        ("dataset.root=/nowhere", [], ""),
    ],
)
def test_an_option_that_is_not_what_was_trained_is_refused_where_it_matters(place, override, refused, said):
    place.run()
    opened = place.open(override)
    assert sorted(opened.refused) == sorted(refused)
    if refused:
        assert said in opened.refused[refused[0]]
        with pytest.raises(MistakeError, match=refused[-1]):
            opened.artifact("picture.txt")


def test_a_stage_put_before_another_makes_that_stale(place):
    place.run()
    again = RECIPE.replace("[stages.second]", '[stages.more]\nuse = "train"\nsteps = 1\n\n[stages.second]')
    place.write(again)
    resolved, folder = place.resolve(), RunFolder(place.out)
    stale = stale_stages(resolved, folder, {})
    assert stale["second"].startswith("with another autoencoder") and "first" not in stale


def test_records_of_earlier_versions_open(place):
    place.run()
    for path in place.out.glob("stages/*/stage.json"):
        record = json.loads(path.read_text())
        record = {name: record[name] for name in ("key", "done", "seconds", "summary")}
        made_of = record["key"]["made_of"]
        made_of["files"] = []
        made_of["data"] = ["two"]
        made_of["nouns"].get("dataset", {})["root"] = "images"
        forge(path, record)
    opened = place.open()
    opened.require_trained("autoencoder", "denoiser")
    assert opened.refused == {} and opened.artifact("picture.txt").is_file()
    for path in place.out.glob("stages/*/stage.json"):
        record = json.loads(path.read_text())
        forge(path, {**record, "key": {**record["key"], "content": "0"}})
    assert str(forecast(place.resolve(), place.out)[0]) == "first: redo, its record is of an earlier version"
    for path in place.out.glob("stages/*/stage.json"):
        record = json.loads(path.read_text())
        forge(path, {**record, "key": {"content": record["key"]["content"], "steps": record["key"]["steps"]}})
    assert place.open().refused == {}
    assert {line.does for line in forecast(place.resolve(), place.out)} == {"redo"}
    assert place.run().done == ALL


@pytest.mark.parametrize(
    "part",
    [
        {"from": 3},
        {"weights": ["a"]},
        {"sources": {"a": 1}},
        {"stage": []},
        {"nouns": 1},
        {"from": {"a": {}}},
    ],
)
def test_a_record_of_odd_parts_is_said_by_its_file(place, part):
    place.run(until="first")
    path = place.out / "stages/first/stage.json"
    record = json.loads(path.read_text())
    forge(path, {**record, "key": {**record["key"], "made_of": {**record["key"]["made_of"], **part}}})
    for look in (place.open, place.run, lambda: forecast(place.resolve(), place.out)):
        with pytest.raises(MistakeError, match=f"{path}: not what uldm writes there: made_of"):
            look()


@pytest.mark.parametrize(
    "data", [3, {"dataset": 3}, {"dataset": {"channels": "x", "size": -1}}, {"dataset": []}]
)
def test_a_record_of_odd_data_is_of_other_data(place, monkeypatch, data):
    place.run()
    monkeypatch.delattr(Pictures, "channels")
    monkeypatch.setattr(Pictures, "channels", property(lambda self: 1), raising=False)
    for path in place.out.glob("stages/*/stage.json"):
        record = json.loads(path.read_text())
        forge(
            path, {**record, "key": {**record["key"], "made_of": {**record["key"]["made_of"], "data": data}}}
        )
    assert place.open().refused == {}
    assert forecast(place.resolve(), place.out)[0].does == "reuse"


def test_changed_code_is_no_refusal_but_a_warning(place):
    place.run()
    folder = RunFolder(place.out).stage("first")
    record = folder.record()
    (file,) = [path for path in record.key.code if path.endswith("conftest.py")][:1]
    made_of = {**record.key.made_of, "code": {**record.key.code, file: "older"}}
    folder.write_record(evolve(record, key=evolve(record.key, made_of=made_of)))
    with pytest.warns(RunWarning, match=r"x: the code of .*conftest\.py has changed since it was trained"):
        place.open().require_trained("denoiser")


def test_what_lies_at_the_top_is_of_the_stages_that_are_there(place):
    place.run()
    place.run("stages.third.text=b")
    assert place.top().startswith("b")
    (place.out / "picture.txt").unlink()
    (place.out / "mine.txt").write_text("a person's own")
    place.run()
    assert place.top().startswith("a") and place.top("mine.txt")
    place.write(RECIPE[: RECIPE.index("[stages.fourth]")])
    place.run()
    assert place.top() and place.top("judged.txt") is None, "no stage makes it any more"


def test_what_an_earlier_version_left_at_the_top_is_put_right(place):
    place.run()
    path = place.out / "stages/third/stage.json"
    record = json.loads(path.read_text())
    forge(path, {name: record[name] for name in ("key", "done", "seconds", "summary")})
    (place.out / "picture.txt").write_text("of other options")
    place.run()
    assert place.top().startswith("a")


@pytest.mark.parametrize(
    ("split", "stages"),
    [("train", ALL), ("test", ["first", "second", "third", "fourth"])],
    ids=["train", "test"],
)
def test_a_stage_that_says_nothing_depends_on_every_split(place, split, stages):
    before = place.keys()
    place.draw(**{split: "other"})
    assert place.changed(before) == stages


def test_a_stage_depends_on_the_splits_that_it_reads(place, monkeypatch):
    monkeypatch.setattr(place.registry.get("stage", "train").target, "reads", ("train",), raising=False)
    before = place.keys()
    place.draw(test="other")
    assert place.changed(before) == ["fourth"]
    place.draw(test="two", train="other")
    assert place.changed(before) == ALL
    monkeypatch.setattr(place.registry.get("stage", "train").target, "reads", ())
    before = place.keys()
    place.draw(train="yet another")
    assert place.changed(before) == ["second", "third", "fourth"]


def test_images_count_by_what_they_are_not_by_where_they_lie(place):
    before = place.keys()
    shutil.copytree(place.path / "images", place.path / "elsewhere" / "copies")
    assert place.changed(before, "dataset.root=copies", "dataset.quick=false") == []
    place.run()
    assert place.run("dataset.root=copies", "dataset.quick=false", until="first").done == []
    assert place.open().refused == {}, "an option that changes no image is no other option"
    (place.path / "elsewhere" / "copies" / "train.txt").write_text("other")
    assert place.changed(before, "dataset.root=copies") == ALL


def noted(place, event="data_accepted"):
    events = read_events(place.out / "events.jsonl")[0]
    return [each.stage for each in events if each.name == event]


def test_results_of_other_images_are_kept_where_that_is_accepted(place):
    place.run()
    place.draw(train="other")
    would = {each.stage: each for each in forecast(place.resolve(), place.out)}
    assert would["first"].does == "redo" and "(--accept-data keeps it as it is)" in str(would["first"])
    assert "(--accept-data keeps it as it is)" in would["first"].announcement
    assert "--accept-data" not in str(would["third"])  # it reads no images, and is made anew
    assert {each.does for each in forecast(place.resolve(), place.out, accept_data=True)} == {"reuse"}
    assert noted(place) == [], "nothing is noted that was only asked"
    kept = place.run(accept_data=True)
    assert kept.done == [] and "stages.first is kept: its images have changed since" in "".join(kept.lines)
    assert noted(place) == ["first", "second", "fourth"]
    assert read_record(place.out / "run.json", dict)["accepted_data"] == ["first", "second", "fourth"]
    assert place.run().done == [] and noted(place) == ["first", "second", "fourth"]
    assert place.open().refused == {}
    place.draw(train="yet another")
    assert place.run().done == ALL, "what was accepted was other images"
    assert "accepted_data" not in read_record(place.out / "run.json", dict)


def test_images_that_are_not_square_are_accepted_as_well(place, monkeypatch):
    monkeypatch.setattr(Pictures, "size", (4, 6))
    place.run(until="first")
    place.draw(train="other")
    (would, *_) = forecast(place.resolve(), place.out)
    assert would.why == "the dataset has changed (--accept-data keeps it as it is)"
    assert place.run(until="first", accept_data=True).done == []


def test_what_is_done_later_is_done_with_the_images_as_they_are(place):
    place.run(until="first")
    place.draw(train="other", test="other")
    assert place.run(accept_data=True).done == ["second", "third", "fourth"]
    assert place.top("judged.txt") == "other" and noted(place) == ["first"]
    assert place.run().done == []


def test_only_images_are_accepted_and_only_of_the_same_shape(place, monkeypatch):
    place.run()
    place.draw(train="other")
    assert place.run("stages.third.text=b", accept_data=True).done == ["third", "fourth"]
    assert noted(place) == ["first", "second"]
    assert place.run("seed=7", accept_data=True).done == ALL, "with another seed all is to be done anyway"
    monkeypatch.setattr(Pictures, "size", (8, 8))
    assert "--accept-data" not in str(forecast(place.resolve(), place.out)[0])
    assert place.run(accept_data=True).done == ALL


def test_a_dataset_without_a_fingerprint_is_known_by_its_options_and_length(place, monkeypatch):
    plain = property(lambda self: "", lambda self, value: None)
    monkeypatch.setattr(Pictures, "fingerprint", plain, raising=False)
    before = place.keys()
    assert place.changed(before, "dataset.quick=false") == ["first", "second", "third", "fourth"]
    monkeypatch.setattr(Pictures, "__len__", lambda self: 11)
    assert place.changed(before) == ALL


def test_a_file_that_an_option_names_counts_by_its_content(place):
    place.write(RECIPE.replace('use = "net"', 'use = "loaded"\nweights = "w.txt"'))
    place.write("abc", "w.txt")
    before = place.keys()
    (place.path / "elsewhere" / "same.txt").write_text("abc")
    assert place.changed(before, "denoiser.weights=same.txt") == []
    place.write("abcd", "w.txt")
    assert place.changed(before) == ["second", "third", "fourth"]
    place.run()
    place.write("abcde", "w.txt")
    assert (
        str(forecast(place.resolve(), place.out)[1])
        == "second: redo, the file of denoiser.weights has changed"
    )


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "unreadable": lambda path: path.write_bytes(b"\xff" * path.stat().st_size),
    "changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_stage_whose_weights_are_not_whole_is_done_again_from_its_last_checkpoint(place, how):
    place.run()
    path = place.out / "stages/second/weights/denoiser.safetensors"
    before = digest(path)
    DAMAGE[how](path)
    with pytest.raises(MistakeError, match=f"{path} (is missing|has changed)"):
        place.open().require_trained("denoiser")
    assert str(forecast(place.resolve(), place.out)[1]).startswith(f"second: resume, {path}")
    notes = place.run()
    assert notes.done == ["second"] and digest(path) == before
    assert any("stages.second is done again, from its last checkpoint" in line for line in notes.lines)


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "changed"])
@pytest.mark.parametrize(("name", "stage"), [("picture.txt", "third"), ("judged.txt", "fourth")])
def test_a_stage_that_has_lost_an_artifact_is_done_again(place, how, name, stage):
    place.run()
    path = place.out / "stages" / stage / "artifacts" / name
    before = path.read_text()
    DAMAGE[how](path)
    (place.out / name).unlink()
    assert place.run().done == [stage] and path.read_text() == before == place.top(name)


def test_what_was_made_of_another_outcome_of_the_same_options_is_done_again(place, monkeypatch):
    place.run()
    second = place.out / "stages" / "second"
    before = place.top()
    for part in ("weights", "checkpoints"):
        shutil.rmtree(second / part)
    with monkeypatch.context() as patch:
        patch.setattr(Fit, "finish", lambda self, context: self.denoiser.weight.data.add_(1) is None or {})
        assert place.run(until="second").done == ["second"]
    assert place.top() is None and place.top("judged.txt") is None
    with pytest.raises(MistakeError, match=r"has no picture\.txt yet"):
        place.open().artifact("picture.txt")
    assert place.run().done == ["third", "fourth"] and place.top() != before
    assert place.run().done == []


@pytest.mark.parametrize("version", ["this", "earlier"])
def test_an_outcome_that_was_put_in_from_elsewhere_is_noticed(place, monkeypatch, version):
    place.run()
    before = place.top()
    monkeypatch.setattr(Fit, "finish", lambda self, context: self.denoiser.weight.data.add_(1) is None or {})
    other = place.path / "other"
    place.run(out=other)
    shutil.rmtree(place.out / "stages/second")
    shutil.copytree(other / "stages/second", place.out / "stages/second")
    if version == "earlier":
        path = place.out / "stages/third/stage.json"
        forge(path, {**json.loads(path.read_text()), "used": {}})
        assert place.run().done == [], "it does not say what it used"
        shutil.rmtree(place.out / "stages/second/weights")
    else:
        with pytest.raises(MistakeError, match="was made with another outcome of denoiser"):
            place.open().artifact("picture.txt")
    notes = place.run().done
    assert notes == (["second"] if version == "earlier" else []) + ["third", "fourth"]
    assert place.top() != before


def test_a_run_is_used_without_its_data(place, monkeypatch):
    place.run()
    shutil.move(place.path / "images", place.path / "gone")
    name, stage = place.open().stage("paint")
    assert (name, stage.size) == ("third", (4, 4)) and place.open().component("autoencoder").in_channels == 1
    dataset = place.open().component("dataset")
    with pytest.raises(MistakeError, match=r"recipe\.toml:\d+: dataset: there are no images"):
        dataset.images(torch.arange(2))
    with pytest.raises(MistakeError, match=r"recipe\.toml:\d+: dataset.root: there is no path"):
        Recipe.load(place.out).resolve(place.registry)
    shutil.move(place.path / "gone", place.path / "images")
    assert (
        len(dataset) == 10
        and dataset.split("test").fingerprint == "two"
        and dataset.splits == ("train", "test")
    )


def test_a_dataset_whose_class_does_not_say_its_shape_is_not_opened_either(place, monkeypatch):
    monkeypatch.setattr(Pictures, "size", property(lambda self: (4, 4)))
    place.run()
    shutil.rmtree(place.path / "images")
    assert place.open().stage("paint")[1].size == (4, 4)


def test_paths_are_relative_to_the_recipes_file_or_else_to_the_current_folder(place):
    images = place.path / "images"
    assert place.resolve().components["dataset"].options["root"] == images
    assert place.resolve("dataset.root=../images").components["dataset"].options["root"] == images
    place.write('extends = "../r.toml"\nseed = 1', "elsewhere/longer.toml")
    assert place.resolve(name="elsewhere/longer.toml").components["dataset"].options["root"] == images
    here = place.path / "elsewhere" / "near"
    here.mkdir()
    place.write(RECIPE.replace('"images"', '"near"'))
    assert place.resolve().components["dataset"].options["root"] == here
    (place.path / "near").mkdir()
    assert place.resolve().components["dataset"].options["root"] == place.path / "near"
    place.write(RECIPE.replace('"images"', '"no/where"'))
    with pytest.raises(MistakeError, match=r"no path 'no/where': looked for '.*no/where'"):
        place.resolve()


def test_the_resolved_recipe_means_the_same_places(place, monkeypatch):
    place.run()
    monkeypatch.chdir("/")
    assert (
        Recipe.load(place.out).resolve(place.registry).components["dataset"].options["root"]
        == place.path / "images"
    )
    notes = Notes()
    run(Recipe.load(place.out).resolve(place.registry), out=place.out, reporter=notes)
    assert notes.done == []


def taking(place):
    """Write a recipe that starts from the run, and have it run; return it with the run's folder."""
    place.run()
    text = RECIPE.replace('use = "coder"', 'from = "runs/x"').replace(
        '[stages.first]\nuse = "train"\nsteps = 3\n', ""
    )
    place.write(text, "taking.toml")
    place.run(name="taking.toml", out=place.path / "runs" / "y")
    place.out = place.path / "runs" / "y"
    return place.path / "runs" / "x"


def test_a_run_keeps_what_it_started_from(place):
    other = taking(place)
    before, top = place.open().component("autoencoder").weight, place.top()
    assert digest(place.out / "pretrained/autoencoder.safetensors") == digest(
        other / "stages/first/weights/autoencoder.safetensors"
    )
    place.run("seed=5", out=other)
    assert torch.equal(place.open().component("autoencoder").weight, before), "it is what it was"
    shutil.move(other, place.path / "gone")
    opened = place.open()
    assert torch.equal(opened.component("autoencoder").weight, before) and opened.refused == {}
    resolved, kept = (
        Recipe.load(place.out).resolve(place.registry),
        place.out / "pretrained/autoencoder.safetensors",
    )
    notes = Notes()
    run(resolved, out=place.out, reporter=notes)
    assert notes.done == [] and any(f"; the copy {kept} is used" in line for line in notes.lines)
    assert place.top() == top


def test_other_weights_of_the_run_that_one_starts_from_are_noticed_by_its_next_run(place):
    other = taking(place)
    before = place.top()
    place.run("seed=5", out=other)
    notes = place.run(name="taking.toml", out=place.out)
    assert notes.done == ["second", "third", "fourth"] and place.top() != before
    assert any(f"autoencoder: {other} has other weights now" in line for line in notes.lines)
    assert place.run(name="taking.toml", out=place.out).done == []


def test_a_runs_own_recipe_repeats_it_with_the_weights_that_it_started_from(place):
    other = taking(place)
    kept = digest(place.out / "pretrained/autoencoder.safetensors")
    place.run("seed=5", out=other)
    again = Notes()
    resolved = Recipe.load(place.out / "recipe.toml").resolve(place.registry)
    run(resolved, out=place.path / "again", reporter=again)
    assert digest(place.path / "again/pretrained/autoencoder.safetensors") == kept
    assert any("has other weights now; the copy" in line for line in again.lines)


def test_a_run_without_a_copy_opens_from_the_other_run_while_that_is_the_same(place):
    other = taking(place)
    shutil.rmtree(place.out / "pretrained")
    place.open().component("autoencoder")
    place.run("seed=5", out=other)
    with pytest.raises(MistakeError, match=r"autoencoder started from weights of .*x, which has others now"):
        place.open().component("autoencoder")
    shutil.rmtree(other / "stages")
    with pytest.raises(MistakeError, match="autoencoder starts from weights that are not there"):
        place.open().stage("paint")


def test_what_was_made_of_another_copy_is_refused(place):
    other = taking(place)
    place.run("seed=5", out=other)
    shutil.copyfile(
        other / "stages/first/weights/autoencoder.safetensors",
        place.out / "pretrained/autoencoder.safetensors",
    )
    with pytest.raises(MistakeError, match=r"autoencoder started from weights of .*x, which has"):
        place.open().stage("paint")
    assert place.open().artifact("picture.txt").is_file(), "which was made of the right ones"


def test_a_damaged_copy_is_taken_anew_or_named(place):
    other = taking(place)
    kept = place.out / "pretrained/autoencoder.safetensors"
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert place.open().component("autoencoder") and place.open().refused == {}
    notes = place.run(name="taking.toml", out=place.out)
    said = f"{kept} is not what the run started from; it is copied anew from {other}"
    assert notes.done == [] and any(said in line for line in notes.lines) and kept.read_bytes() == whole
    kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    shutil.rmtree(other / "stages")
    for look in (lambda: place.open().stage("paint"), lambda: place.run(name="taking.toml", out=place.out)):
        with pytest.raises(MistakeError, match=f"{kept} is not what the run started from"):
            look()


def test_what_was_trained_further_needs_no_copy(place):
    place.run()
    place.write(RECIPE.replace('use = "coder"', 'from = "runs/x"'), "taking.toml")
    place.run(name="taking.toml", out=place.path / "runs" / "y")
    place.out = place.path / "runs" / "y"
    shutil.rmtree(place.out / "pretrained")
    place.run("seed=5", out=place.path / "runs" / "x")
    assert place.open().refused == {}
    place.open().require_trained("autoencoder", "denoiser")


def test_images_that_are_left_out_are_listed(place):
    bad, path = [place.path / "images" / name for name in ("a.bad", "b.bad")], place.out / "left_out.txt"
    for count, said in ((1, "1 image is"), (2, "2 images are")):
        bad[count - 1].write_text("")
        assert f"{said} left out, listed in {path}" in place.run().lines
        found = read_record(place.out / "data.json", dict)["datasets"]["dataset"]
        twice = {"duplicates": {"exact": 0, "near": 1, "compared": 5}} if count == 2 else {}
        assert found == {"left_out": {"no image": count}, **twice}
    assert sorted(path.read_text().splitlines()) == ["a.bad: no image", "b.bad: no image"]
    for file in bad:
        file.unlink()
    place.run()
    assert not path.exists() and not (place.out / "data.json").exists()


def test_a_recipe_without_stages_is_refused(place):
    place.write(RECIPE[: RECIPE.index("[stages.first]")])
    for do in (lambda: place.run(), lambda: forecast(place.resolve(), place.out)):
        with pytest.raises(MistakeError, match=r"nothing to do: the recipe has no \[stages\.NAME\]"):
            do()
    assert not place.out.exists()


def test_a_report_leaves_out_what_is_stale(uldm, tmp_path):
    """Of a folder that an earlier version left, or whose recipe was changed by hand."""
    from uldm_plugins.report.run_reader import read_run

    text = RECIPE[: RECIPE.index("[dataset]")] + (
        '[dataset]\nuse = "synthetic"\ncount = 16\nsize = 8\n[autoencoder]\nuse = "identity"\n'
        '[denoiser]\nuse = "mlp"\n[noise_scheduler]\nuse = "flow"\n'
        '[stages.second]\nuse = "train_diffusion"\nsteps = 1\nbatch_size = 2\npreviews = 0\n'
        '[stages.third]\nuse = "sample"\ncount = 2\nsampler = { use = "euler", steps = 1 }\n'
    )
    (tmp_path / "r.toml").write_text(text)
    assert uldm("run", "r.toml")[0] == 0
    assert stale_results(Path("runs/r")) == {} and read_run(Path("runs/r")).artifact("samples.npz")
    recipe = Path("runs/r/recipe.toml")
    recipe.write_text(recipe.read_text().replace("seed = 0\n", "seed = 1\n", 1))
    read = read_run(Path("runs/r"))
    assert read.artifact("samples.npz") is None and {stage.name for stage in read.stages if stage.stale} == {
        "second",
        "third",
    }
    uldm("report", "runs/r")
    page = Path("runs/r/report.html").read_text()
    assert "Stage third is not shown: it was done with other options (seed: 0 -&gt; 1)" in page
    taking = text[: text.index("[stages.second]")].replace('use = "mlp"', 'from = "runs/r"')
    (tmp_path / "taking.toml").write_text(taking + text[text.index("[stages.third]") :])
    code, _, err = uldm("run", "taking.toml")
    assert code == 2 and "r was trained with other options (seed: 0 -> 1)" in err
    code, _, err = uldm("sample", "runs/r", "--out", "a.npz")
    assert code == 2 and "denoiser was trained with other options (seed: 0 -> 1)" in err


def test_a_component_of_a_file_is_asked_for_again(uldm, tmp_path):
    (tmp_path / "my_idea.py").write_text(
        "from uldm_core import Component, hookimpl\nfrom uldm_plugins.autoencoders.identity import Identity\n"
        "@hookimpl\ndef uldm_components():\n    return [Component('autoencoder', 'mine', Identity)]\n"
    )
    text = '[dataset]\nuse = "synthetic"\n[autoencoder]\nuse = "mine"\n[stages.s]\nuse = "evaluate"\n'
    (tmp_path / "r.toml").write_text(text + '[versions]\n"autoencoder/mine" = "my_idea.py"\n')
    code, _, err = uldm("validate", "r.toml")
    assert code == 2 and "my_idea.py brought it: install it, or name its file with --plugin" in err


def test_steps_that_were_raised_are_noted_since_schedules_depend_on_them(place):
    place.run(until="second")
    place.run("stages.second.steps=5", until="second")
    (noted,) = RunFolder(place.out).stage("second").record().adjusted
    assert (noted.step, noted.options) == (2, {"steps": (2, 5)})
    again = place.run("stages.second.steps=5", until="second")
    assert "stages.second: steps was 2 up to step 2, then 5" in again.lines


def test_a_second_run_with_nothing_to_do_leaves_what_is_said_of_it(place, monkeypatch):
    place.run()
    (place.out / "report.html").write_text("a page")
    kept = {name: (place.out / name).read_bytes() for name in ("run.json", "recipe.toml", "report.html")}
    monkeypatch.setattr("uldm_core.engine.run_log._now", lambda: "later")
    assert place.run().done == [] and place.run(until="first").done == []
    assert {name: (place.out / name).read_bytes() for name in kept} == kept
    (place.out / "run.json").write_text("{")
    place.run()
    assert '"later"' in (place.out / "run.json").read_text(), "what cannot be read is written anew"
    place.run("run.threads=1")
    assert "threads = 1" in (place.out / "recipe.toml").read_text()
