"""Running a recipe: every stage that is not done yet, in order, each from where it stopped."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from attrs import define, evolve, field

from uldm_core.engine.components import RunComponents
from uldm_core.engine.context import Context
from uldm_core.engine.device import Device, choose_device
from uldm_core.engine.environment import checkpoint_environments, differences, environment_of, of_bits
from uldm_core.engine.finite import not_finite
from uldm_core.engine.limits import is_out_of_memory, out_of_memory, require_space
from uldm_core.engine.loop import do_stage
from uldm_core.engine.progress import Recorded, Reporter, Silent, format_seconds
from uldm_core.engine.signals import Interrupted, Stop
from uldm_core.engine.trackers import RunStatus, Trackers
from uldm_core.errors import (
    DataError,
    MistakeError,
    Problem,
    RunError,
    UldmError,
    Where,
    did_you_mean,
    listing,
)
from uldm_core.paths import free_bytes, remove, sweep
from uldm_core.preflight.forecast import Forecast, describe_adjustments, forecast_of
from uldm_core.preflight.preflight import Preflight, checked
from uldm_core.protocols import RunStart, Stateful
from uldm_core.recipe import Recipe, ResolvedRecipe
from uldm_core.run_folder.data import Data
from uldm_core.run_folder.events import FILE as EVENTS
from uldm_core.run_folder.events import EventLog, describe_lost, read_events
from uldm_core.run_folder.files import read_record, require, write_record, write_tensors, write_text
from uldm_core.run_folder.folder import RunFolder, StageKey, StageRecord
from uldm_core.run_folder.keys import require_stages, result_files, results_of, stage_keys
from uldm_core.run_folder.lock import FolderLock, lock_folder
from uldm_core.run_folder.place import folder_of
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
    exact: bool = False,
    lock: FolderLock | None = None,
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
        exact: refuse to resume a training where its bits will differ: with another number of threads, say.
        lock: of the folder, if it is locked already.

    Raises:
        MistakeError: the recipe is wrong, the folder is in use, or its disk has not enough room.
        Interrupted: the run was asked to stop; its state is saved.
        RunError: something failed on the way, or a part of the log is lost.
    """
    resolved = recipe if isinstance(recipe, ResolvedRecipe) else recipe.resolve()
    require_stages(resolved)
    if until is not None and until not in resolved.stages:
        raise MistakeError(
            f"there is no stage {until!r}{did_you_mean(until, resolved.stages)}",
            hint=f"the stages are: {listing(list(resolved.stages))}",
        )
    reporter = reporter or Silent()
    stop, folder = stop or Stop(), RunFolder(lock.path if lock else folder_of(resolved, out))
    _refuse_own_weights(resolved, folder.path)
    with nullcontext(lock) if lock else lock_folder(folder.path, command) as lock:
        with stop.interrupting():
            found = checked(resolved, folder=folder)
        reporter.message("\n".join([found.table(), *(f"warning: {problem}" for problem in found.problems)]))
        device = choose_device(resolved.run)
        _Runner(resolved, folder, device, reporter, stop, command, found, lock).run(until, exact)
    return folder.path


def _refuse_own_weights(resolved: ResolvedRecipe, folder: Path) -> None:
    """Raise ``MistakeError`` if a component comes from the run that is to be made."""
    for name, spec in resolved.components.items():
        if spec.source and path_of(spec.source).resolve() == folder.resolve():
            what = f"{spec.source} is the folder of this run itself"
            problem = Problem(Where((name, "from")), what, "name another run, or give another folder: --out")
            raise resolved.located(MistakeError(problem))


@define
class _Runner:
    resolved: ResolvedRecipe
    folder: RunFolder
    device: Device
    reporter: Reporter
    stop: Stop
    command: str
    preflight: Preflight
    lock: FolderLock
    events: EventLog = field(init=False)
    status: RunStatus = field(init=False)
    trackers: Trackers = field(init=False)
    store: RunComponents = field(init=False)
    products: dict[str, Path] = field(factory=dict)
    digests: dict[str, str] = field(factory=dict)
    records: dict[str, StageRecord] = field(factory=dict)
    environment: Mapping[str, object] = field(factory=dict)
    watched: bool = False

    def __attrs_post_init__(self) -> None:
        self.store = RunComponents.of(self.resolved, self.device)
        self.events = EventLog(self.folder.file(EVENTS))
        self.status = RunStatus(self.folder.file("run.json"), self.command)
        self.environment = environment_of(self.resolved, self.device, self.command)
        self.reporter = Recorded(self.reporter, self._warned)
        self.trackers = Trackers.of(self.resolved, self.reporter.message, self.folder.path)

    def run(self, until: str | None, exact: bool) -> None:
        stages = list(self.resolved.stages)
        wanted = stages[: stages.index(until) + 1] if until else stages
        sweep(self.folder.path)
        for repaired in self.folder.repair():
            self.reporter.message(f"warning: {repaired}")
        keys = self._keys()
        found = forecast_of(self.folder, self.resolved, {name: keys[name] for name in wanted})
        self._announce(found, exact)
        require_space(self.folder.path, self.resolved, self.preflight, _not_reused(found))
        changed = not self._is_of(keys)
        started, worked = time.monotonic(), []
        with ExitStack() as watch:
            if changed or _not_reused(found):
                watch.enter_context(self._watching(found))
            self.records = self._settle(keys, wanted)
            if self.watched:
                self._begin()
            self.reporter.stages(wanted)
            for name in wanted:
                self.stop.check()
                if not self.watched and not all(self.records[name].done for name in wanted):
                    watch.enter_context(self._watching(found))
                    self._begin()
                worked.append(self._stage(name, self.records[name]))
        seconds = format_seconds(time.monotonic() - started)
        done = f"done in {seconds}" if any(worked) else "nothing to do: every stage is done"
        self.reporter.message(f"{self.folder.path}: {done}")

    def _announce(self, found: Sequence[Forecast], exact: bool) -> None:
        """Say what becomes of the stages before anything is archived, and where bits will differ."""
        lines = [forecast.announcement for forecast in found if forecast.announcement]
        past = read_events(self.folder.file(EVENTS))[0]
        made_in = checkpoint_environments(past)
        for stage in [forecast.stage for forecast in found if forecast.does == "resume"]:
            before = made_in.get(stage) or self._last_environment()
            if changed := differences(before, self.environment):
                what = f"stages.{stage} resumes where its bits will differ: {', '.join(changed)}"
                if exact:
                    raise MistakeError(what, hint="resume it as it was begun, or leave out --exact")
                lines.append(f"warning: {what}")
        lines += [f"warning: {text}" for text in describe_lost(past)]
        if lines:
            self.reporter.message("\n".join(lines))

    def _last_environment(self) -> Mapping[str, object]:
        with suppress(MistakeError):  # of a damaged one, which is said, nothing is known
            return read_record(self.folder.file("environment.json"), dict[str, object]) or {}
        return {}

    def _warned(self, text: str) -> None:
        """Keep a warning in the event log."""
        self.events.append("warning", text=text)

    def _is_of(self, keys: Mapping[str, StageKey]) -> bool:
        """Whether the folder is of a run that is done, of this very recipe, and holds nothing else."""
        if not (self.status.is_done() and self.folder.has_recipe(self.resolved.to_toml())):
            return False
        records = {name: self.folder.stage(name).record() for name in keys}
        return all(record is None or record.key.same(keys[name]) for name, record in records.items())

    @contextmanager
    def _watching(self, found: Sequence[Forecast]) -> Iterator[None]:
        """Write how the run begins and ends: to ``run.json``, the event log and the trackers."""
        begins = "resumed" if self.folder.file("run.json").is_file() else "started"
        self.status.write("running")
        self.watched = True
        self.events.append(
            begins,
            command=self.command,
            host=socket.gethostname(),
            pid=os.getpid(),
            stages={forecast.stage: forecast.does for forecast in found},
            environment=of_bits(self.environment),
        )
        try:
            yield
        except BaseException as error:
            if not self.lock.is_gone():
                with suppress(OSError, UldmError):  # what went wrong first is what is said
                    self._end(*_ending(error))
            raise
        if lost := self._end("done", {}):
            raise RunError(
                lost, hint="its results are whole, its curves and images are not; make room on the disk"
            )

    def _begin(self) -> None:
        """Write what the folder is of, and notify the trackers that the run begins."""
        self.folder.write_recipe(self.resolved.to_toml())
        write_record(self.folder.file("environment.json"), self.environment)
        path, stages = self.folder.path, list(self.resolved.stages)
        start = RunStart(path, path.resolve().name, self.resolved.to_dict(), stages, self.command)
        self.trackers.notify(lambda tracker: tracker.begin(start))

    def _end(self, state: str, values: Mapping[str, str]) -> str:
        """Write how the run ended; return what is lost of its log, empty if nothing is."""
        self.events.append(state, **values)
        self.status.write(state, values.get("error", ""))
        lost = self.trackers.end(state)
        for tracker, stages in lost.items():
            self.events.append("lost", tracker=tracker, stages=stages)
        if not lost and not self.events.waiting:
            return ""
        names = [*lost, *([EVENTS] if self.events.waiting else [])]
        return f"{self.folder.path}: {state}, but not all of the log could be written: {listing(names)}"

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
        folder = self.folder.stage(name)
        before = folder.record()
        record, known = self.folder.claim(name, key), folder.record()
        if before and not before.key.same(key) and self.folder.is_archived(name, before.key):
            self.events.append("archived", stage=name, key=str(before.key))
        if known is None or not known.key.same(key):
            return record
        files = result_files(self.resolved.stages[name], folder, record) if record.done else []
        damage = folder.damage(record, files)
        if damage:
            how = "from its last checkpoint" if folder.checkpoints.last() else "anew"
            self.reporter.message(f"warning: {damage}: stages.{name} is done again, {how}")
        elif record.done and (what := folder.damage(record, folder.logs(record))):
            self.reporter.message(f"warning: {what}: it is not made again")
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
                self.events.append("archived", stage=later, key=str(record.key))
                what = f"{listing(other)} came out otherwise than before"
                self.reporter.message(
                    f"stages.{later} has to be done again: {what}; its result is kept in {kept}"
                )
                self.records[later] = StageRecord(record.key)
                aside.add(str(record.key))

    def _work(self, name: str, record: StageRecord) -> None:
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
            self.events,
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
            with suppress(OSError, UldmError):  # what went wrong first is what is said
                folder.write_record(finished({}))
            explained = self._explained(name, error)
            if explained is error:
                raise
            raise explained from error
        for component, module in trained.items():
            write_tensors(folder.weights(component), module.state_dict())
        self.trackers.notify(lambda tracker: None, at_once=True)  # what still waits belongs into the log
        done = folder.done(evolve(finished(summary), published=context.published))
        folder.write_record(done)
        self.trackers.notify(lambda tracker: tracker.stage_done(name, done.seconds, done.summary))
        context.event("stage_done", seconds=done.seconds, summary=done.summary)
        self.reporter.finished(name, done.seconds, summary)
        self._show_adjustments(name, done)

    def _explained(self, name: str, error: BaseException) -> BaseException:
        """Return what is to be said of an error that has ended a stage."""
        if isinstance(error, MistakeError):  # of a component that its stage finishes
            return self.resolved.located(error)
        if isinstance(error, DataError):
            return RunError(f"stages.{name}: {error}")
        if is_out_of_memory(error):
            return out_of_memory(self.resolved.stages[name], self.device)
        if isinstance(error, OSError) and error.filename is None:
            room = f"{free_bytes(self.folder.path):,} bytes are free in {self.folder.path}"
            return RunError(f"stages.{name}: {error.strerror or error}; {room}")
        return error

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


def _not_reused(found: Iterable[Forecast]) -> list[str]:
    """Return the stages that are to be done, or done again."""
    return [forecast.stage for forecast in found if forecast.does != "reuse"]


def _ending(error: BaseException) -> tuple[str, dict[str, str]]:
    """Return the state of a run that an error has ended, and what the event log says of it."""
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        signum = getattr(error, "signum", signal.SIGINT)
        return "stopped", {"signal": signal.Signals(signum).name} if signum else {"reason": str(error)}
    return "failed", {"error": str(error) or repr(error)}
