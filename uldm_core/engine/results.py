"""The results in a run's folder: those of the recipe as it is now stay, others are archived."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from attrs import define, evolve, field

from uldm_core.errors import listing
from uldm_core.recipe import ResolvedRecipe
from uldm_core.run_folder.events import EventLog
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.keys import result_files
from uldm_core.run_folder.record import StageKey, StageRecord


@define
class Results:
    """The results of a run's stages.

    Args:
        resolved: the recipe.
        folder: the run's.
        events: the run's event log.
        message: called with what a person should know.
        records: of each stage, by its name.
        digests: of what the stages done so far have trained and made, by name.
    """

    resolved: ResolvedRecipe
    folder: RunFolder
    events: EventLog
    message: Callable[[str], object]
    records: dict[str, StageRecord] = field(factory=dict, init=False)
    digests: dict[str, str] = field(factory=dict, init=False)

    def belong_to(self, keys: Mapping[str, StageKey]) -> bool:
        """Whether the folder is of this very recipe, and holds no results of other keys."""
        if not self.folder.has_recipe(self.resolved.to_toml()):
            return False
        records = {name: self.folder.stage(name).record() for name in keys}
        return all(record is None or record.key.same(keys[name]) for name, record in records.items())

    def settle(self, keys: Mapping[str, StageKey], wanted: Collection[str]) -> None:
        """Leave nothing in the folder but what belongs to the recipe.

        Results of other options are archived, also those of stages that are not to be done now: they would
        be used together with what is made anew before them.
        """
        before = self.folder.copies()
        there = [name for name in keys if name not in wanted and self.folder.stage(name).record()]
        self.records = {name: self._claimed(name, key) for name, key in keys.items()}
        if gone := [name for name in there if not self.folder.stage(name).path.exists()]:
            message = f"archived, since they are of other options than the recipe has now: {listing(gone)}"
            self.message(message)
        copies = [self.folder.published(name, record) for name, record in self.records.items() if record.done]
        for said in self.folder.publish(dict(item for each in copies for item in each.items()), before):
            self.message(said)

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
            self.message(f"warning: {damage}: stages.{name} is done again, {how}")
        elif record.done and (what := folder.damage(record, folder.logs(record))):
            self.message(f"warning: {what}: it is not made again")
        record = evolve(record, key=key, done=record.done and not damage)
        if record != known or key.made_of != known.key.made_of:
            folder.write_record(record)
        return record

    def archive_what_used(self, name: str, again: bool) -> None:
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
                self.message(f"stages.{later} has to be done again: {what}; its result is kept in {kept}")
                self.records[later] = StageRecord(record.key)
                aside.add(str(record.key))
