"""What a run is going to need: files that are published, and memory. Looked for before its first step."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from attrs import frozen

from uldm_core.engine.device import Device, choose_device
from uldm_core.engine.memory import memory_of
from uldm_core.errors import MistakeError, Problem, Where
from uldm_core.preflight.preflight import Preflight, short
from uldm_core.preflight.required_files import Absent, absent_files, file_problems
from uldm_core.protocols import FitsLabels, HasSmallestCount, ReadsSplits
from uldm_core.recipe import ResolvedRecipe
from uldm_core.recipe.graph import trained_by
from uldm_core.recipe.run_options import RunOptions
from uldm_core.run_folder.data import Data
from uldm_core.spec.building import ComponentStore
from uldm_core.spec.component_spec import ComponentSpec, components_behind

NEARLY_FULL = 0.8
"""The share of the memory from which a warning is due: a step needs more than shapes tell."""


@frozen
class Requirements:
    """The files that are not here, and what is missing: those of them that cannot be fetched, and memory."""

    absent: list[Absent]
    problems: list[Problem]

    @property
    def fetched(self) -> list[str]:
        """What the run is going to fetch, a line a file."""
        files = [each.file for each in self.absent if not each.why]
        return [f"to be fetched: {file.name} from {file.url}" for file in dict.fromkeys(files)]

    def require(self) -> Requirements:
        """Return itself; raises ``MistakeError`` with everything that is missing, if anything is."""
        if any(not problem.warning for problem in self.problems):
            raise MistakeError(*self.problems)
        return self


def requirements(
    resolved: ResolvedRecipe,
    found: Preflight,
    stages: Collection[str],
    device: Device | None,
    data: Data | None = None,
) -> Requirements:
    """Return what these stages need and what of it is not there.

    Addresses of files that are not here are asked whether they have them.

    Args:
        resolved: the recipe.
        found: its preflight.
        stages: those that will be done; all that the datasets need counts in any case.
        device: of the run; None if its memory is not known.
        data: its datasets, once they are opened.
    """
    absent = absent_files(resolved, stages)
    memory = _memory_problems(resolved, found, stages, device) if device else ()
    of_data = [*_data_problems(resolved, found, data, stages)] if data else []
    return Requirements(absent, [*file_problems(resolved, absent), *of_data, *memory])


def opened_data(resolved: ResolvedRecipe) -> Data:
    """Return a recipe's datasets with their splits opened, unless they have to be fetched first.

    Raises:
        MistakeError: one cannot be opened.
    """
    data = Data(ComponentStore(resolved.components))
    datasets = [name for name, spec in resolved.components.items() if spec.kind.data]
    try:
        for name in datasets if not absent_files(resolved, ()) else ():
            data.content(name, None)
    except MistakeError as error:
        raise resolved.located(error) from error
    return data


def require_data(resolved: ResolvedRecipe, found: Preflight) -> Requirements:
    """Return what the datasets need, which are opened to know what becomes of the stages.

    Raises:
        MistakeError: some of it cannot be had; it holds everything that the whole run would miss.
    """
    needed = requirements(resolved, found, (), None)
    if needed.problems:
        requirements(resolved, found, resolved.stages, device_here(resolved.run)).require()
    return needed


def device_here(options: RunOptions) -> Device | None:
    """Return the device of a recipe's ``[run]`` table; None if this machine has none such."""
    try:
        return choose_device(options)
    except MistakeError:
        return None


def _data_problems(
    resolved: ResolvedRecipe, found: Preflight, data: Data, stages: Collection[str]
) -> Iterator[Problem]:
    """Yield what is wrong with the images of the datasets that are open."""
    yield from _split_problems(resolved, data, stages)
    yield from _label_problems(resolved, data, stages)
    yield from dict.fromkeys(_count_problems(resolved, found, data, stages))  # two may refer to one metric


def _count_problems(
    resolved: ResolvedRecipe, found: Preflight, data: Data, stages: Collection[str]
) -> Iterator[Problem]:
    """Yield what measures more images for a stage than a split has which the stage reads."""
    for name in stages:
        stage = resolved.stages[name]
        dataset = stage.references().get("dataset", "")
        opened = {split: data.splits.get((dataset, split)) for split in _reads(stage)}
        counts = {split: len(images) for split, images in opened.items() if images is not None}
        tables = map(resolved.components.__getitem__, components_behind(stage, resolved.components))
        for part in (*stage.parts(), *tables) if counts else ():
            component, split = found.tried.made.get(part.key), min(counts, key=counts.__getitem__)
            least = component.smallest_count if isinstance(component, HasSmallestCount) else 0
            if counts[split] < least:
                what = f"{part.use} needs {least} images or more, and the {split} split has {counts[split]}"
                hint = "add images, or leave it out"
                yield resolved.placed(Problem(Where(part.key), what, hint, code="too-few-images"))


def _reads(stage: ComponentSpec) -> Sequence[str]:
    """Return the splits that a stage reads, where it says which."""
    target: object = stage.component.load()
    return target.reads if isinstance(target, ReadsSplits) else ()


def _split_problems(resolved: ResolvedRecipe, data: Data, stages: Collection[str]) -> Iterator[Problem]:
    """Yield the stages that read a split of a dataset which could not be opened."""
    for name in stages:
        stage = resolved.stages[name]
        reads = _reads(stage)
        for (dataset, split), why in data.refused.items():
            if split in reads and dataset in components_behind(stage, resolved.components):
                what = f"reads the {split} split of {dataset}, which there is not: {why}"
                yield resolved.placed(Problem(Where(stage.key), what, code="missing-file"))


def _label_problems(resolved: ResolvedRecipe, data: Data, stages: Collection[str]) -> Iterator[Problem]:
    """Yield the conditions that cannot be fitted to the labels of the datasets that are open."""
    for name in stages:
        stage = resolved.stages[name]
        dataset, condition = (stage.references().get(option) for option in ("dataset", "condition"))
        fitted = condition in trained_by(stage) and dataset in data.store.built
        if condition and dataset and fitted:
            spec = resolved.components[condition]
            try:
                if isinstance(spec.component.load(), FitsLabels):
                    data.store.component(condition).check_labels(data.labels(dataset))
            except MistakeError as error:
                yield from map(resolved.placed, error.problems)
            except ValueError as error:
                yield resolved.placed(Problem(Where(spec.key), str(error), code="component-error"))


def _memory_problems(
    resolved: ResolvedRecipe, found: Preflight, stages: Collection[str], device: Device
) -> Iterator[Problem]:
    """Yield the stages whose training step needs more memory than there is, or nearly as much."""
    there, half = memory_of(device.device), device.precision is torch.bfloat16
    for name in stages if there else ():
        step, batch = found.steps.get(name), resolved.stages[name].options.get("batch_size")
        if there is None or step is None or type(batch) is not int:
            continue
        need, enough = step.bytes(batch, half=half), NEARLY_FULL * there
        if need > enough:
            fits = int((enough - step.fixed) / max(step.sample(half=half), 1.0))
            size = 1 << (fits.bit_length() - 1) if 0 < fits < batch else 0
            of = f"{short(need, 'B')} or more, and there are {short(there, 'B')}"
            what = f"a step of {batch:,} samples needs {of} ({device.device})"
            hint = f"batch_size = {size} fits" if size else "give it smaller images or networks"
            may_fit = need <= there or device.compile  # compiled networks compute some of it again
            where = Where(("stages", name, "batch_size"))
            yield resolved.placed(Problem(where, what, hint, may_fit, code="too-little-memory"))
