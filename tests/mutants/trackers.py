"""Broken and sound trackers."""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import sqlite3
import threading
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mutants.catalogue import mutant, sound


@sound("tracker")
class Deaf:
    """Hears everything and does nothing."""

    def begin(self, run):
        pass

    def stage(self, name, step, total):
        pass

    def scalars(self, stage, step, values):
        pass

    def images(self, stage, step, name, images):
        pass

    def stage_done(self, stage, seconds, summary):
        pass

    def end(self, state):
        pass


@sound("tracker")
class Keeps(Deaf):
    """Keeps everything in memory, and writes it when the run ends."""

    def begin(self, run):
        self.folder, self.values, self.recipe = run.folder, {}, dict(run.recipe)

    def stage(self, name, step, total):
        kept = self.values.get(name, {})
        self.values[name] = {at: values for at, values in kept.items() if at <= step}

    def scalars(self, stage, step, values):
        self.values[stage][step] = dict(values)

    def end(self, state):
        (self.folder / "kept.json").write_text(json.dumps({"state": state, "values": self.values}))


@sound("tracker")
class Pictures(Deaf):
    """Writes each image as a file of its own."""

    def begin(self, run):
        self.folder = run.folder / "pictures"

    def images(self, stage, step, name, images):
        self.folder.mkdir(exist_ok=True)
        for index, image in enumerate(images.permute(0, 2, 3, 1).squeeze(-1).numpy()):
            Image.fromarray(image).save(self.folder / f"{stage}_{name}_{step}_{index}.png")


@sound("tracker")
class Lines(Deaf):
    """Adds a line of JSON for each step, and drops those behind a checkpoint."""

    def begin(self, run):
        self.path = run.folder / "lines.jsonl"

    def write(self, record):
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def stage(self, name, step, total):
        if self.path.exists():
            lines = self.path.read_text("utf-8").splitlines()
            kept = [line for line in lines if not self.void(json.loads(line), name, step)]
            self.path.write_text("".join(f"{line}\n" for line in kept), "utf-8")

    def void(self, record, stage, step):
        return record["stage"] == stage and record["step"] > step

    def scalars(self, stage, step, values):
        self.write({"stage": stage, "step": step, **values})


@sound("tracker")
class Events(Lines):
    """Adds a line of JSON for whatever it is told, also that a stage goes on: readers see what is void."""

    def stage(self, name, step, total):
        self.write({"event": "stage", "name": name, "step": step, "total": total})


@sound("tracker")
class Table(Keeps):
    """Writes the whole table of losses anew with each step."""

    def begin(self, run):
        super().begin(run)
        self.path = run.folder / "table.csv"
        if self.path.exists():
            rows = [line.split(";") for line in self.path.read_text("utf-8").splitlines()]
            for stage, step, loss in rows:
                self.values.setdefault(stage, {})[int(step)] = {"loss": float(loss)}

    def scalars(self, stage, step, values):
        super().scalars(stage, step, values)
        rows = [
            f"{stage};{at};{kept['loss']}\n"
            for stage, steps in self.values.items()
            for at, kept in steps.items()
            if "loss" in kept
        ]
        self.path.write_text("".join(rows), "utf-8")

    def end(self, state):
        pass


@sound("tracker")
class EveryTenth(Lines):
    """Writes one step in ten."""

    def scalars(self, stage, step, values):
        if step % 10 == 1:
            super().scalars(stage, step, values)


@sound("tracker")
class Newest(Deaf):
    """Keeps the newest values only, for whoever looks."""

    def begin(self, run):
        self.path = run.folder / "newest.json"

    def scalars(self, stage, step, values):
        self.path.write_text(json.dumps({"step": step, **values}))


@sound("tracker")
class Database(Deaf):
    """Keeps values in SQLite, by a thread of its own that is done with at the end."""

    def begin(self, run):
        self.queue = queue.Queue()
        self.worker = threading.Thread(target=self.work, args=(run.folder / "values.db",))
        self.worker.start()

    def work(self, path):
        database = sqlite3.connect(path)
        database.execute("pragma synchronous = off")
        database.execute("create table if not exists told (stage, step, name, value)")
        while (one := self.queue.get()) is not None:
            database.executemany(*one)
            database.commit()
        database.close()

    def stage(self, name, step, total):
        self.queue.put(("delete from told where stage = ? and step > ?", [(name, step)]))

    def scalars(self, stage, step, values):
        rows = [(stage, step, name, value) for name, value in values.items()]
        self.queue.put(("insert into told values (?, ?, ?, ?)", rows))

    def end(self, state):
        self.queue.put(None)
        self.worker.join()


@mutant("tracker", killed_by="keeps_stages_apart")
class VoidInAllStages(Lines):
    """Where a stage begins, the steps behind it are dropped of every stage."""

    def void(self, record, stage, step):
        return record["step"] > step


@mutant("tracker", killed_by="resumes")
class BeginsAnew(Lines):
    """The file is opened for writing in each part of a run: what the first part wrote is gone."""

    def begin(self, run):
        super().begin(run)
        self.path.write_text("")


@sound("tracker")
class AddsAlways(Lines):
    """Steps that come again after a checkpoint are added to those that are void: readers take the later."""

    def stage(self, name, step, total):
        pass


@mutant("tracker", killed_by="newer_values_kept")
class FirstCounts(AddsAlways):
    """A step that is in the file already is taken for a duplicate, and left out."""

    def scalars(self, stage, step, values):
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        if not any((one["stage"], one["step"]) == (stage, step) for one in map(json.loads, lines)):
            super().scalars(stage, step, values)


@mutant("tracker", killed_by="keeps_the_last")
class WritesInTens(Lines):
    """Lines are written ten at a time, and the last ones never."""

    def begin(self, run):
        super().begin(run)
        self.waiting = []

    def write(self, record):
        self.waiting.append(record)
        if len(self.waiting) == 10:
            for one in self.waiting:
                super().write(one)
            self.waiting.clear()


@mutant("tracker", killed_by="keeps_the_last")
class KeepsWhatIsDone(Lines):
    """Lines are written in the end, if the run is done: what was stopped, or failed, leaves nothing."""

    def begin(self, run):
        super().begin(run)
        self.waiting = []

    def write(self, record):
        self.waiting.append(record)

    def end(self, state):
        for one in self.waiting if state == "done" else ():
            super().write(one)


@mutant("tracker", killed_by="keeps_the_last")
class NeverCloses(Deaf):
    """The file is left open, so that its last lines are written when Python thinks of it."""

    def begin(self, run):
        self.file = (run.folder / "log.txt").open("a", encoding="utf-8")

    def scalars(self, stage, step, values):
        self.file.write(f"{step} {values}\n")


@mutant("tracker", killed_by="takes_any_name")
class InAscii(Lines):
    """The file holds ASCII only."""

    def scalars(self, stage, step, values):
        " ".join(values).encode("ascii")
        super().scalars(stage, step, values)


@mutant("tracker", killed_by="takes_any_name")
class FolderAsAFormat(Deaf):
    """The path is made by a format that the folder's name may have a say in."""

    def begin(self, run):
        self.path = f"{run.folder}/%08d.txt"

    def scalars(self, stage, step, values):
        return self.path % step


@mutant("tracker", killed_by="takes_any_images")
class SquareOnly(Deaf):
    """Images are taken for as high as wide."""

    def images(self, stage, step, name, images):
        return images.reshape(len(images), -1, images.shape[-1], images.shape[-1])


@mutant("tracker", killed_by="takes_any_images")
class OneBlockOfMemory(Deaf):
    """Images are looked at as if they lay in memory as their shape says."""

    def images(self, stage, step, name, images):
        return images.view(-1)


@mutant("tracker", killed_by="instances_independent")
class RowsOfAll(Deaf):
    """Rows are kept in the class: the next run's file holds those of this one as well."""

    rows: list = []

    def begin(self, run):
        self.path = run.folder / "rows.json"

    def scalars(self, stage, step, values):
        self.rows.append(list(values.values()))

    def end(self, state):
        self.path.write_text(json.dumps(self.rows))


@mutant("tracker", killed_by="leaves_the_process_alone")
class HeartKeepsBeating(Deaf):
    """A thread that says that the run is alive is still there when it is not."""

    def begin(self, run):
        self.ended = threading.Event()
        threading.Thread(target=self.ended.wait, args=(5,), daemon=True).start()


@mutant("tracker", killed_by="handles_a_whole_run")
class KnowsTwoEnds(Deaf):
    """How a run ends is looked up among the ways that came to mind."""

    def end(self, state):
        return {"done": 0, "stopped": 130}[state]


@mutant("tracker", killed_by="handles_a_whole_run")
class SharesTheSteps(Deaf):
    """How far a stage is, is a share of its steps, of which some stages have none."""

    def stage(self, name, step, total):
        self.share = step / total


@mutant("tracker", killed_by="handles_nothing_to_do")
class SumsUpTheLastStage(Deaf):
    """The end speaks of the last stage, as if there always were one."""

    def stage(self, name, step, total):
        self.last = name

    def end(self, state):
        return f"{self.last} is the last"


@mutant("tracker", killed_by="resumes")
class FileMustBeNew(Deaf):
    """A run that goes on finds the file of the first half, and refuses."""

    def begin(self, run):
        (run.folder / "log.txt").open("x").close()


@mutant("tracker", killed_by="resumes")
class StepsMustGrow(Deaf):
    """The last step is kept on disk, and one that comes again is an error."""

    def begin(self, run):
        self.path = run.folder / "last_step"

    def scalars(self, stage, step, values):
        last = int(self.path.read_text()) if self.path.exists() else 0
        assert step > last
        self.path.write_text(str(step))


@mutant("tracker", killed_by="takes_any_number")
class StrictJson(Deaf):
    """What is no number is no JSON, and raises."""

    def scalars(self, stage, step, values):
        json.dumps(values, allow_nan=False)


@mutant("tracker", killed_by="takes_any_number")
class FixedColumns(Deaf):
    """The first line decides which columns there are."""

    columns = None

    def scalars(self, stage, step, values):
        self.columns = self.columns or list(values)
        return [values[name] for name in self.columns]


@mutant("tracker", killed_by="takes_any_images")
class ColourOnly(Deaf):
    """Images are taken for RGB, whatever they are."""

    def images(self, stage, step, name, images):
        for image in images.permute(0, 2, 3, 1).numpy():
            Image.fromarray(image, "RGB" if image.shape[-1] == 3 else None)


@mutant("tracker", killed_by="takes_any_images")
class FourAlways(Deaf):
    """A grid has two rows of two."""

    def images(self, stage, step, name, images):
        return images[:4].view(2, 2, *images.shape[1:])


@mutant("tracker", killed_by="changes_nothing_it_is_given")
class InvertsInPlace(Deaf):
    """Dark on white looks better, and is made so in the run's own images."""

    def images(self, stage, step, name, images):
        images.neg_().sub_(1)


@mutant("tracker", killed_by="changes_nothing_it_is_given")
class AddsAValue(Deaf):
    """The step is added to the values that others are told as well."""

    def scalars(self, stage, step, values):
        values["step"] = step


@mutant("tracker", killed_by="changes_nothing_it_is_given")
class FlattensTheRecipe(Deaf):
    """Lists are made strings within the recipe, since some server wants it."""

    def begin(self, run):
        run.recipe["stages"]["first"]["losses"] = str(run.recipe["stages"]["first"]["losses"])


@mutant("tracker", killed_by="leaves_the_process_alone")
class SeedsEverything(Deaf):
    """For the sake of repeatable names, all generators are seeded."""

    def begin(self, run):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)


@mutant("tracker", killed_by="leaves_the_process_alone")
class DrawsAName(Deaf):
    """A run's identifier is drawn from Python's generator, on which data loaders rely."""

    def begin(self, run):
        self.id = random.getrandbits(64)


@mutant("tracker", killed_by="leaves_the_process_alone")
class TakesTheSignal(Deaf):
    """Ctrl-C is taken to finish an upload first; the run does not hear of it any more."""

    def begin(self, run):
        signal.signal(signal.SIGINT, lambda signum, frame: None)


@mutant("tracker", killed_by="leaves_the_process_alone")
class MovesThere(Deaf):
    """It moves into the run's folder to write."""

    def begin(self, run):
        os.chdir(run.folder)


@mutant("tracker", killed_by="writes_within_the_run")
class WritesWhereItStands(Deaf):
    """The log goes into the working folder."""

    def begin(self, run):
        Path("tracker.log").write_text(run.name)


@mutant("tracker", killed_by="writes_within_the_run")
class TakesTheRunsFile(Deaf):
    """Its state is kept in ``run.json``, which is the engine's."""

    def begin(self, run):
        (run.folder / "run.json").write_text("{}")


@mutant("tracker", killed_by="building_writes_nothing")
class OpensItsFileAtOnce(Deaf):
    """The log is opened when it is built, also for a recipe that is only checked, and moved later."""

    def __init__(self):
        Path("tracker.log").touch()

    def begin(self, run):
        if Path("tracker.log").exists():
            Path("tracker.log").replace(run.folder / "tracker.log")


@mutant("tracker", killed_by="leaves_the_process_alone")
class Prints(Deaf):
    """Values are printed where a command's data goes."""

    def scalars(self, stage, step, values):
        print(stage, step, values)
