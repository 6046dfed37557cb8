"""Running a recipe: every stage that is not done yet, in order, each from where it stopped."""

from __future__ import annotations

import platform
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import torch
from attrs import define, evolve, field
from filelock import FileLock, Timeout

from uldm_core.engine.components import RunComponents
from uldm_core.engine.context import Context
from uldm_core.engine.device import Device, choose_device
from uldm_core.engine.finite import not_finite
from uldm_core.engine.loop import do_stage
from uldm_core.engine.progress import Reporter, Silent, format_seconds
from uldm_core.engine.signals import Stop
from uldm_core.engine.trackers import RunStatus, Trackers
from uldm_core.errors import DataError, MistakeError, Problem, RunError, Where, did_you_mean, listing
from uldm_core.paths import inside, refused, remove
from uldm_core.preflight.forecast import describe_adjustments, forecast_of
from uldm_core.preflight.preflight import checked
from uldm_core.protocols import RunStart, Stateful
from uldm_core.recipe import Recipe, ResolvedRecipe
from uldm_core.recipe.document import Document
from uldm_core.run_folder.data import Data
from uldm_core.run_folder.events import EventLog
from uldm_core.run_folder.files import require, write_record, write_tensors, write_text
from uldm_core.run_folder.folder import RunFolder, StageKey, StageRecord
from uldm_core.run_folder.keys import require_stages, result_files, results_of, stage_keys
from uldm_core.run_folder.pretrained import keep_pretrained
from uldm_core.spec.structure import path_of


def run(
    recipe: Recipe | ResolvedRecipe,
    *,
    out: str | Path | None = None,
    until: str | None = None,
    reporter: Reporter | None = None,
    stop: Stop | None = None,
    command: str = "",
) -> Path:
    """Run a recipe and return its folder.

    Stages whose results are there already are not done again; an unfinished one resumes from its last
    checkpoint.

    Args:
        recipe: the recipe, resolved or not.
        out: the run's folder; by default the recipe's ``[run] out``, else ``runs/<name>``.
        until: the last stage to do.
        reporter: shows progress; by default none does.
        stop: asked after every step whether to stop: ``Stop.after(minutes)``, or one whose ``request`` is
            called.
        command: what a person typed, for whoever looks at the run.

    Raises:
        MistakeError: the recipe is wrong, or the folder is in use.
        Interrupted: the run was asked to stop; its state is saved.
    """
    resolved = recipe if isinstance(recipe, ResolvedRecipe) else recipe.resolve()
    require_stages(resolved)
    if until is not None and until not in resolved.stages:
        raise MistakeError(
            f"there is no stage {until!r}{did_you_mean(until, resolved.stages)}",
            hint=f"the stages are: {listing(list(resolved.stages))}",
        )
    reporter = reporter or Silent()
    folder = RunFolder(folder_of(resolved, out))
    _refuse_own_weights(resolved, folder.path)
    with (stop := stop or Stop()).interrupting():
        found = checked(resolved, folder=folder)
    reporter.message("\n".join([found.table(), *(f"warning: {problem}" for problem in found.problems)]))
    with _lock(folder.path):
        runner = _Runner(resolved, folder, choose_device(resolved.run), reporter, stop, command)
        runner.run(until)
    return folder.path


def folder_of(resolved: ResolvedRecipe, out: str | Path | None = None) -> Path:
    """Return a run's folder: ``out``; the recipe's, if it was named by a run's folder; else by the recipe.

    The recipe's word is ``[run] out``, or else ``runs/<name>``.

    Raises:
        MistakeError: ``out`` is empty, or a folder with a recipe that somebody wrote by hand.
    """
    if out is not None and not str(out):
        raise MistakeError("out is empty", hint="name the run's folder, or leave it out for runs/NAME")
    folder = path_of(out or resolved.recipe.run or resolved.run.out or Path("runs") / resolved.recipe.name)
    written = inside(folder, "recipe.toml")
    others = any((folder / name).exists() for name in ("run.json", "stages"))
    if written.is_file() and not others and "versions" not in Document.read(written).data:
        what = f"{written} is not of a run: a run would overwrite it"
        raise MistakeError(what, hint="give another folder: --out")
    return folder


def _refuse_own_weights(resolved: ResolvedRecipe, folder: Path) -> None:
    """Raise ``MistakeError`` if a component comes from the run that is to be made."""
    for name, spec in resolved.components.items():
        if spec.source and path_of(spec.source).resolve() == folder.resolve():
            what = f"{spec.source} is the folder of this run itself"
            problem = Problem(Where((name, "from")), what, "name another run, or give another folder: --out")
            raise resolved.located(MistakeError(problem))


def _lock(path: Path) -> AbstractContextManager[object]:
    """Keep a second run out of the folder, until the context ends."""
    path.mkdir(parents=True, exist_ok=True)
    lock = inside(path, ".lock")
    if lock.is_dir():
        raise refused(lock, "a folder where a file belongs", "remove it")
    try:
        return FileLock(lock, timeout=0).acquire()
    except Timeout as error:
        raise MistakeError(
            f"{path}: another run is using this folder", hint="wait for it, or give --out"
        ) from error


@define
class _Runner:
    resolved: ResolvedRecipe
    folder: RunFolder
    device: Device
    reporter: Reporter
    stop: Stop
    command: str
    status: RunStatus = field(init=False)
    trackers: Trackers = field(init=False)
    store: RunComponents = field(init=False)
    products: dict[str, Path] = field(factory=dict)
    digests: dict[str, str] = field(factory=dict)
    records: dict[str, StageRecord] = field(factory=dict)
    watched: bool = False

    def __attrs_post_init__(self) -> None:
        self.store = RunComponents.of(self.resolved, self.device)
        self.status = RunStatus(self.folder.file("run.json"), self.command)
        self.trackers = Trackers.of(self.resolved, self.reporter.message)

    def run(self, until: str | None) -> None:
        stages = list(self.resolved.stages)
        wanted = stages[: stages.index(until) + 1] if until else stages
        for repaired in self.folder.repair():
            self.reporter.message(f"warning: {repaired}")
        keys = self._keys()
        found = forecast_of(self.folder, self.resolved, {name: keys[name] for name in wanted})
        if lines := [forecast.announcement for forecast in found if forecast.announcement]:
            self.reporter.message("\n".join(lines))  # before anything is archived
        changed = not self._is_of(keys)
        self.records = self._settle(keys, wanted)
        self.folder.write_recipe(self.resolved.to_toml())
        write_record(self.folder.file("environment.json"), _environment(self.resolved, self.device))
        started, worked = time.monotonic(), []
        self.reporter.stages(wanted)
        with ExitStack() as watch:
            for name in wanted:
                if not self.watched and (changed or not all(self.records[name].done for name in wanted)):
                    watch.enter_context(self._watching())
                worked.append(self._stage(name, self.records[name]))
        seconds = format_seconds(time.monotonic() - started)
        done = f"done in {seconds}" if any(worked) else "nothing to do: every stage is done"
        self.reporter.message(f"{self.folder.path}: {done}")

    def _is_of(self, keys: Mapping[str, StageKey]) -> bool:
        """Whether the folder is of a run that is done, of this very recipe, and holds nothing else."""
        if not (self.status.is_done() and self.folder.has_recipe(self.resolved.to_toml())):
            return False
        records = {name: self.folder.stage(name).record() for name in keys}
        return all(record is None or record.key.same(keys[name]) for name, record in records.items())

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Write ``run.json`` and notify trackers of the run's beginning and end."""
        path, stages = self.folder.path, list(self.resolved.stages)
        start = RunStart(path, path.resolve().name, self.resolved.to_dict(), stages, self.command)
        with self.status.watching(lambda state: self.trackers.notify(lambda tracker: tracker.end(state))):
            self.trackers.notify(lambda tracker: tracker.begin(start))
            self.watched = True
            yield

    def _keys(self) -> dict[str, StageKey]:
        """Return the stages' keys; keep the weights of other runs, and note what datasets leave out."""
        data = Data(self.store)
        brought = keep_pretrained(self.resolved, self.folder, self.reporter.message)
        self.store.weights.update(brought)
        try:
            keys = stage_keys(self.resolved, self.store, brought=brought, data=data)
        except MistakeError as error:
            raise self.resolved.located(error) from error
        self._note_left_out(data.left_out())
        return keys

    def _note_left_out(self, images: Mapping[str, str]) -> None:
        path = self.folder.file("left_out.txt")
        if images:
            write_text(path, "".join(f"{name}: {why}\n" for name, why in images.items()))
            count = "1 image is" if len(images) == 1 else f"{len(images)} images are"
            self.reporter.message(f"{count} left out, listed in {path}")
        else:
            remove(path)

    def _settle(self, keys: Mapping[str, StageKey], wanted: Collection[str]) -> dict[str, StageRecord]:
        """Leave nothing in the folder but what belongs to the recipe; return the record of each stage.

        Results of other options are archived, also those of stages that are not to be done now: they would
        be used together with what is made anew before them.
        """
        before = self.folder.copies()
        there = [name for name in keys if name not in wanted and self.folder.stage(name).record()]
        records = {name: self._claimed(name, key) for name, key in keys.items()}
        if gone := [name for name in there if not self.folder.stage(name).path.exists()]:
            message = f"archived, since they are of other options than the recipe has now: {listing(gone)}"
            self.reporter.message(message)
        copies = [self.folder.published(name, record) for name, record in records.items() if record.done]
        self.folder.publish({name: path for each in copies for name, path in each.items()}, before)
        return records

    def _claimed(self, name: str, key: StageKey) -> StageRecord:
        """Claim a stage's folder; a result of which a file is missing or cut short is not done."""
        record, folder = self.folder.claim(name, key), self.folder.stage(name)
        known = folder.record()
        if known is None or not known.key.same(key):
            return record
        files = result_files(self.resolved.stages[name], folder, record) if record.done else []
        damage = folder.damage(record, files)
        if damage:
            how = "from its last checkpoint" if folder.checkpoints.last() else "anew"
            self.reporter.message(f"warning: {damage}: stages.{name} is done again, {how}")
        record = evolve(record, key=key, done=record.done and not damage)
        if record != known or key.made_of != known.key.made_of:
            folder.write_record(record)
        return record

    def _stage(self, name: str, record: StageRecord) -> bool:
        """Do a stage unless it is done; return whether there was anything to do."""
        if record.done:
            self.reporter.reused(name, record.seconds, record.summary)
            self._show_adjustments(name, record)
        else:
            self._work(name, record)
        self._pass_on(name)
        self._archive_what_used(name, again=not record.done)
        return not record.done

    def _archive_what_used(self, name: str, again: bool) -> None:
        """Archive results of later stages that were made of another outcome of a stage.

        A stage that is done again with the same options may come out otherwise: its weights were lost, for
        example, and it was adjusted the first time, or done with another precision. Records of earlier
        versions do not know which outcome they used: it was another one if the stage is done ``again`` now.
        """
        mine, aside = str(self.records[name].key), set[str]()
        unknown = {} if again else self.digests
        for later in list(self.resolved.stages)[list(self.resolved.stages).index(name) + 1 :]:
            if (record := self.folder.stage(later).record()) is None:
                continue
            other = [
                what
                for what, key in record.key.made_of.get("from", {}).items()
                if key in aside
                or (key == mine and record.used.get(what, unknown.get(what)) != self.digests[what])
            ]
            if other:
                self.folder.publish({}, self.folder.published(later, record))
                kept = self.folder.archive(later, record.key)
                what = f"{listing(other)} came out otherwise than before"
                self.reporter.message(
                    f"stages.{later} has to be done again: {what}; its result is kept in {kept}"
                )
                self.records[later] = StageRecord(record.key)
                aside.add(str(record.key))

    def _work(self, name: str, record: StageRecord) -> None:
        self.stop.check()
        folder = self.folder.stage(name)
        uses = record.key.made_of.get("from", {})
        adjusted = record.adjusted if folder.checkpoints.last() else []  # from its start, it is none
        record = evolve(record, used={what: self.digests[what] for what in uses}, adjusted=adjusted)
        folder.write_record(record)
        context = Context(
            name,
            self.resolved.seed,
            self.device,
            folder,
            self.products,
            self.reporter,
            self.stop,
            self.trackers,
            self.status.beat,
            EventLog(self.folder.file("events.jsonl")),
            self.resolved.run,
        )
        started = time.monotonic()

        def finished(summary: Mapping[str, float]) -> StageRecord:
            seconds = record.seconds + time.monotonic() - started
            return evolve(record, done=False, seconds=round(seconds, 2), summary=dict(summary))

        try:
            stage = self.store.build(self.resolved.stages[name])
            trained = {name: self.store.component(name) for name in results_of(self.resolved.stages[name])[0]}
            meant = _not_finite(trained)
            summary = do_stage(stage, context)
            if bad := [tensor for tensor in _not_finite(trained) if tensor not in meant]:
                raise RunError(f"stages.{name}: {bad[0]} is not finite when it is done; it is not saved")
        except BaseException as error:
            folder.write_record(finished({}))
            if isinstance(error, MistakeError):  # of a component that its stage finishes
                raise self.resolved.located(error) from error
            if isinstance(error, DataError):
                raise RunError(f"stages.{name}: {error}") from error
            raise
        for component, module in trained.items():
            write_tensors(folder.weights(component), module.state_dict())
        done = folder.done(evolve(finished(summary), published=context.published))
        folder.write_record(done)
        self.trackers.notify(lambda tracker: tracker.stage_done(name, done.seconds, done.summary))
        self.reporter.finished(name, done.seconds, summary)
        self._show_adjustments(name, done)

    def _show_adjustments(self, name: str, record: StageRecord) -> None:
        for line in describe_adjustments(record.adjusted):
            self.reporter.message(f"stages.{name}: {line}")

    def _pass_on(self, name: str) -> None:
        """Pass what a stage trained and made on to later ones."""
        folder, (trained, made) = self.folder.stage(name), results_of(self.resolved.stages[name])
        record = folder.record()
        for product, path in folder.handed_on(trained, made).items():
            if product in made:
                require(path)
                self.products[product] = path
            else:
                self.store.use_weights(product, path)
            self.digests[product] = folder.digest(record, path)


def _not_finite(components: Mapping[str, Stateful]) -> list[str]:
    return not_finite({name: component.state_dict() for name, component in components.items()})


def _environment(resolved: ResolvedRecipe, device: Device) -> dict[str, object]:
    components = [
        part.component for spec in (*resolved.specs(), *resolved.trackers) for part in spec.nested()
    ]
    plugins = {c.plugin: f"{c.distribution} {c.version}".strip() for c in components if c.plugin}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "machine": str(device),
        "plugins": plugins,
    }
