"""Running a recipe: every stage that is not done yet, in order, each from where it stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path

from attrs import define, evolve, field

from uldm_core.engine.components import RunComponents
from uldm_core.engine.context import Context
from uldm_core.engine.device import Device, choose_device
from uldm_core.engine.environment import checkpoint_environments, differences, environment_of
from uldm_core.engine.finite import not_finite
from uldm_core.engine.limits import is_out_of_memory, out_of_memory, require_space
from uldm_core.engine.loop import do_stage
from uldm_core.engine.progress import Reporter, Silent, format_seconds
from uldm_core.engine.requirements import require_data, requirements
from uldm_core.engine.results import Results
from uldm_core.engine.run_log import RunLog
from uldm_core.engine.signals import Stop
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
from uldm_core.preflight.forecast import Forecast, describe_adjustments, forecast_of, not_reused
from uldm_core.preflight.preflight import Preflight, checked
from uldm_core.protocols import Stateful
from uldm_core.recipe import Recipe, ResolvedRecipe
from uldm_core.run_folder.accepted import EVENT as ACCEPTED
from uldm_core.run_folder.accepted import Contents, is_accepted, with_accepted_data
from uldm_core.run_folder.data import DATA_RECORD, Data
from uldm_core.run_folder.events import FILE as EVENTS
from uldm_core.run_folder.events import describe_lost, read_events
from uldm_core.run_folder.files import read_record, require, write_record, write_tensors, write_text
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.keys import require_stages, results_of, stage_keys
from uldm_core.run_folder.lock import FolderLock, lock_folder
from uldm_core.run_folder.place import folder_of
from uldm_core.run_folder.pretrained import keep_pretrained
from uldm_core.run_folder.record import StageKey, StageRecord, adjusted_from
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
    accept_data: bool = False,
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
        accept_data: keep results of images that have changed since, as long as nothing else has; the run's
            folder notes it, and its later runs keep them as well.
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
            require_data(resolved, found)
        reporter.message("\n".join([found.table(), *(f"warning: {problem}" for problem in found.problems)]))
        device = choose_device(resolved.run)
        environment = environment_of(resolved, device, command)
        log = RunLog(resolved, folder, lock, reporter, command, environment)
        _Runner(resolved, folder, device, stop, found, log).run(until, exact, accept_data)
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
    stop: Stop
    preflight: Preflight
    log: RunLog
    reporter: Reporter = field(init=False)
    store: RunComponents = field(init=False)
    data: Data = field(init=False)
    results: Results = field(init=False)
    products: dict[str, Path] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.reporter = self.log.reporter
        self.store = RunComponents.of(self.resolved, self.device)
        self.data = Data(self.store)
        self.results = Results(self.resolved, self.folder, self.log.events, self.reporter.message)

    def run(self, until: str | None, exact: bool, accept_data: bool) -> None:
        stages = list(self.resolved.stages)
        wanted = stages[: stages.index(until) + 1] if until else stages
        sweep(self.folder.path)
        for repaired in self.folder.repair():
            self.reporter.message(f"warning: {repaired}")
        keys = self._keys(accept_data)
        found = forecast_of(self.folder, self.resolved, {name: keys[name] for name in wanted})
        self._announce(found, keys, exact)
        todo = not_reused(found)
        require_space(self.folder.path, self.resolved, self.preflight, todo)
        self._require(todo)
        noted = self.log.status.is_done() and not self.log.status.accepts_more
        changed = not (noted and self.results.belong_to(keys))
        started, worked = time.monotonic(), []
        plan = {forecast.stage: forecast.does for forecast in found}
        with ExitStack() as logged:
            if changed or todo:
                logged.enter_context(self.log.watching(plan))
            self.results.settle(keys, wanted)
            if self.log.is_open:
                self.log.begin()
            self.reporter.stages(wanted)
            for name in wanted:
                self.stop.check()
                if not self.log.is_open and not all(self.results.records[each].done for each in wanted):
                    logged.enter_context(self.log.watching(plan))  # an earlier stage came out otherwise
                    self.log.begin()
                worked.append(self._stage(name, self.results.records[name]))
        seconds = format_seconds(time.monotonic() - started)
        done = f"done in {seconds}" if any(worked) else "nothing to do: every stage is done"
        self.reporter.message(f"{self.folder.path}: {done}")

    def _announce(self, found: Sequence[Forecast], keys: Mapping[str, StageKey], exact: bool) -> None:
        """Say what becomes of the stages before anything is archived, and where bits will differ."""
        lines = [forecast.announcement for forecast in found if forecast.announcement]
        past = read_events(self.folder.file(EVENTS))[0]
        made_in = checkpoint_environments(past)
        for stage in [forecast.stage for forecast in found if forecast.does == "resume"]:
            key = str(self.folder.resumed_key(stage, keys[stage]))
            before = made_in.get((stage, key)) or made_in.get((stage, "")) or self._last_environment()
            changed = differences(before, self.log.environment)
            if exact and not self.device.repeats_bits:
                changed.append("deterministic is false")
            if changed:
                what = f"stages.{stage} resumes where its bits will differ: {', '.join(changed)}"
                if exact:
                    raise MistakeError(what, hint="resume it as it was begun, or leave out --exact")
                lines.append(f"warning: {what}")
        lines += [f"warning: {text}" for text in describe_lost(past)]
        if lines:
            self.reporter.message("\n".join(lines))

    def _require(self, stages: Sequence[str]) -> None:
        """Raise ``MistakeError`` if these stages need what is not there; say what is going to be fetched."""
        with self.stop.interrupting():
            needed = requirements(self.resolved, self.preflight, stages, self.device, self.data).require()
        for line in (*needed.fetched, *(f"warning: {problem}" for problem in needed.problems)):
            self.reporter.message(line)

    def _last_environment(self) -> Mapping[str, object]:
        with suppress(MistakeError):  # of a damaged one, which is said, nothing is known
            return read_record(self.folder.file("environment.json"), dict[str, object]) or {}
        return {}

    def _keys(self, accept_data: bool) -> dict[str, StageKey]:
        """Return the stages' keys; keep the weights of other runs, and note what datasets leave out."""
        brought = keep_pretrained(self.resolved, self.folder, self.reporter.message)
        self.store.weights.update(brought)
        try:
            make_keys = partial(stage_keys, self.resolved, self.store, brought=brought, data=self.data)
            past = read_events(self.folder.file(EVENTS))[0]
            keys, kept = with_accepted_data(self.folder, make_keys, past, accept_data)
            self._note_accepted(kept, make_keys() if kept else {})
        except MistakeError as error:
            raise self.resolved.located(error) from error
        self._note_data()
        return keys

    def _note_accepted(self, kept: Mapping[str, Contents], now: Mapping[str, StageKey]) -> None:
        """Say and note which results are kept although the images have changed since."""
        for name, then in kept.items():
            self.reporter.message(f"stages.{name} is kept: its images have changed since, which was accepted")
            data = {"trained_on": then, "now": now[name].made_of["data"]}
            if not is_accepted(name, data, read_events(self.folder.file(EVENTS))[0]):
                self.log.events.append(ACCEPTED, stage=name, **data)
                self.log.status.accepts_more = True
        self.log.status.accepted = list(kept)

    def _note_data(self) -> None:
        """List the images that datasets leave out, and record what else a person should know of them."""
        found, path, record = self.data.counts(), *map(self.folder.file, ("left_out.txt", DATA_RECORD))
        every = [item for images in self.data.left_out().values() for item in images.items()]
        if every:
            write_text(path, "".join(f"{name}: {why}\n" for name, why in every))
            count = "1 image is" if len(every) == 1 else f"{len(every)} images are"
            self.reporter.message(f"{count} left out, listed in {path}")
        else:
            remove(path)
        if found:
            write_record(record, {"datasets": found})
        else:
            remove(record)

    def _stage(self, name: str, record: StageRecord) -> bool:
        """Do a stage unless it is done; return whether there was anything to do."""
        if record.done:
            self.reporter.reused(name, record.seconds, record.summary)
            self._show_adjustments(name, record)
        else:
            self._work(name, record)
        self._pass_on(name)
        self.results.archive_what_used(name, again=not record.done)
        return not record.done

    def _work(self, name: str, record: StageRecord) -> None:
        self.stop.begun = True
        folder = self.folder.stage(name)
        uses = record.key.made_of.get("from", {})
        last = folder.checkpoints.newest(lambda skipped: None) if record.adjusted else None
        adjusted = adjusted_from(last[0] if last else 0, record.adjusted)
        record = evolve(record, used={what: self.results.digests[what] for what in uses}, adjusted=adjusted)
        folder.write_record(record)
        context = self._context(name)
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
        self.log.trackers.notify(lambda tracker: None, at_once=True)  # what still waits belongs into the log
        done = folder.done(evolve(finished(summary), published=context.published))
        folder.write_record(done)
        self.log.trackers.notify(lambda tracker: tracker.stage_done(name, done.seconds, done.summary))
        context.event("stage_done", seconds=done.seconds, summary=done.summary)
        self.reporter.finished(name, done.seconds, summary)
        self._show_adjustments(name, done)

    def _context(self, name: str) -> Context:
        return Context(
            name,
            self.resolved.seed,
            self.device,
            self.folder.stage(name),
            self.products,
            self.reporter,
            self.stop,
            self.log.trackers,
            self.log.status.beat,
            self.log.events,
            self.resolved.run,
            str(self.results.records[name].key),
        )

    def _explained(self, name: str, error: BaseException) -> BaseException:
        """Return what is to be said of an error that has ended a stage."""
        if isinstance(error, MistakeError):  # of a component that its stage finishes
            return self.resolved.located(error)
        if isinstance(error, DataError):
            return RunError(f"stages.{name}: {error}")
        if is_out_of_memory(error):
            return out_of_memory(self.resolved.stages[name], self.device)
        if isinstance(error, RuntimeError) and "does not have a deterministic implementation" in str(error):
            what = str(error).partition(", but you set")[0]
            return RunError(f"stages.{name}: {what}", hint="take run.deterministic = false")
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
            self.results.digests[product] = folder.digest(record, path)


def _not_finite(components: Mapping[str, Stateful]) -> list[str]:
    return not_finite({name: component.state_dict() for name, component in components.items()})
