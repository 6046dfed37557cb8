"""Before a run: shapes carried through the whole recipe, without data, weights or memory."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial

from attrs import asdict, define, evolve, field, frozen
from torch import Tensor, nn

from uldm_core.errors import MistakeError, Problem, Where, dotted, is_unavailable
from uldm_core.preflight import measure
from uldm_core.preflight.dry_build import (
    DryBuild,
    ShapeError,
    TooLongError,
    deadline,
    dry_build,
    first_line,
    reason,
    silence,
    untrained,
    without_values,
)
from uldm_core.preflight.probes import Inputs
from uldm_core.protocols import HasCosts
from uldm_core.recipe import ResolvedRecipe
from uldm_core.recipe.graph import trained_by
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.pretrained import misfits, pretrained_weights
from uldm_core.spec.component_spec import ComponentSpec

SECONDS = 8.0
BATCH = 2
MOST_MEASURED = 1024
"""Samples of a training step that are measured: what more of them need is in proportion."""
NOT_MEASURABLE = "not measurable"
REFUSALS = (MistakeError, ValueError, ShapeError)
"""What is raised where shapes do not fit. Any other error may be due to tensors that have no values."""
Probe = Callable[..., object]


@frozen
class Row:
    """What is known of one component: its key and name, the shape of its output, and what it costs.

    ``why`` is the reason where it is not measurable. ``flops`` are of one call, a sample. ``memory`` is bytes
    of a training step, for what a stage trains: parameters, gradients, the state of an optimizer such as
    Adam, and what its forward pass keeps for a batch.
    """

    component: str
    output: str = ""
    why: str = ""
    parameters: int | None = None
    trainable: int | None = None
    flops: int | None = None
    memory: int | None = None


@frozen
class Preflight:
    """What shapes tell of a recipe: a row a component, those at its top first, and what does not fit.

    ``tried`` are the components, as they were built for it. ``steps`` is what the training steps of stages
    need, by name, as far as it could be measured.
    """

    rows: list[Row]
    problems: list[Problem]
    tried: DryBuild
    steps: Mapping[str, measure.StepMemory]

    def table(self) -> str:
        """Return the rows as aligned text."""
        head = ("component", "output", "parameters", "FLOPs a sample", "a training step")
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        return "\n".join(
            "  ".join([*map(str.ljust, line[:2], widths), *map(str.rjust, line[2:], widths[2:])]).rstrip()
            for line in lines
        )

    def to_json(self) -> list[dict[str, object]]:
        """Return the rows as plain values."""
        return [asdict(row) for row in self.rows]


def checked(
    resolved: ResolvedRecipe, seconds: float | None = None, folder: RunFolder | None = None
) -> Preflight:
    """Return the preflight of a recipe; raises ``MistakeError`` with everything that does not fit."""
    found = preflight(resolved, seconds, folder)
    if any(not problem.warning for problem in found.problems):
        raise MistakeError(*found.problems)
    return found


def preflight(
    resolved: ResolvedRecipe, seconds: float | None = None, folder: RunFolder | None = None
) -> Preflight:
    """Carry shapes through a recipe: dataset, autoencoder, latents, denoiser, sampler, metrics, costs.

    A component that cannot be run without values is not measurable, and stops nothing. Takes so many seconds
    at most, eight by default; what is not measured by then is left. ``folder`` is the run's: it may have kept
    weights of other runs.
    """
    tried = dry_build(resolved, seconds=seconds or SECONDS)
    walk = _Walk(Inputs(tried), resolved)
    with silence():
        with without_values(tried.until):
            rows = [walk.row(spec) for spec in _in_order(resolved)]
        with deadline(tried.until):
            rows += _costs(resolved, tried)
    of_runs = _weights_that_do_not_fit(resolved, tried, folder)
    problems = [*tried.problems, *walk.problems, *of_runs, *untrained(resolved, tried)]
    return Preflight(rows, [resolved.placed(problem) for problem in problems], tried, walk.steps)


def _costs(resolved: ResolvedRecipe, tried: DryBuild) -> Iterator[Row]:
    """Yield a row for each stage that knows what it is going to do how often."""
    for name, spec in resolved.stages.items():
        stage, row = tried.made.get(spec.key), Row(f"{name}: {spec.use}")
        if isinstance(stage, HasCosts):
            try:
                costs = stage.costs()
            except (Exception, SystemExit, TooLongError) as error:  # what is wrong the parts' own rows say
                yield evolve(row, output=NOT_MEASURABLE, why=reason(error))
            else:
                text = ", ".join(f"{count:,g} {what.replace('_', ' ')}" for what, count in costs.items())
                yield evolve(row, output=text)


def trains(stage: ComponentSpec, spec: ComponentSpec) -> bool:
    """Return whether a stage trains a component: it says so, or has an optimizer for it alone."""
    options = [option for option, name in stage.references().items() if (name,) == spec.key]
    return spec.key[0] in trained_by(stage) or any(
        f"{option}_optimizer" in stage.options for option in options
    )


def _in_order(resolved: ResolvedRecipe) -> Iterator[ComponentSpec]:
    """Yield the components at the top, then those within the stages that are whole without their owner."""
    yield from resolved.components.values()
    for stage in resolved.stages.values():
        yield from (part for part in stage.parts() if not part.partial)


@define
class _Walk:
    """Runs each component on what the others would give it."""

    inputs: Inputs
    resolved: ResolvedRecipe
    problems: list[Problem] = field(factory=list)
    steps: dict[str, measure.StepMemory] = field(factory=dict)

    def row(self, spec: ComponentSpec) -> Row:
        """Measure one component."""
        row = Row(f"{dotted(spec.key).removeprefix('stages.')}: {spec.use}")
        tried = self.inputs.tried
        if spec.key not in tried.made:
            why = tried.unmeasured.get(spec.key)
            return evolve(row, output=NOT_MEASURABLE if why else "does not fit", why=why or "")
        component = tried.made[spec.key]
        try:
            row = self._counted(row, spec, component)
            probe = spec.kind.load_probe()
            return self._measured(row, spec, component, probe) if probe else row
        except (Exception, SystemExit, TooLongError) as error:
            if not isinstance(error, REFUSALS) or is_unavailable(error):
                return evolve(row, output=NOT_MEASURABLE, why=reason(error))
            self.problems += self._refusals(spec, component, error)
        return evolve(row, output="does not fit")

    def _counted(self, row: Row, spec: ComponentSpec, component: object) -> Row:
        if any(trains(stage, spec) for stage in self.resolved.stages.values()):
            measure.thaw(component)
        counts = [
            sum(parameter.numel() for parameter in found)
            for found in (measure.parameters_of(component), measure.trainable(component))
        ]
        return evolve(row, parameters=counts[0], trainable=counts[1]) if counts[0] else row

    def _measured(self, row: Row, spec: ComponentSpec, component: object, probe: Probe) -> Row:
        output, count = measure.flops(component, partial(probe, self.inputs, component, BATCH))
        row = evolve(row, output=_format_output(output))
        if not isinstance(component, nn.Module) or not row.parameters:
            return row
        return evolve(row, flops=count // BATCH, memory=self._memory(spec, component, probe))

    def _memory(self, spec: ComponentSpec, component: nn.Module, probe: Probe) -> int | None:
        """Return the bytes of a training step of a component, by the first stage that trains it."""
        trainable = measure.size_of(measure.trainable(component))  # gradients, and two averages of them
        fixed = measure.size_of(measure.parameters_of(component)) + 3 * trainable
        found = None
        for name, stage in self.resolved.stages.items():
            batch, trained = stage.options.get("batch_size", BATCH), trains(stage, spec)
            if trained or (spec.key[:2] == stage.key and trained_by(stage)):
                few = min(batch, MOST_MEASURED)
                kept = measure.activations(component, partial(probe, self.inputs, component, few)) / few
                step = self.steps.setdefault(name, measure.StepMemory())
                step.fixed += fixed
                if trained:
                    step.trained = max(step.trained, kept)
                    found = found or fixed + round(kept * batch)
                else:
                    step.losses += kept
        return found

    def _refusals(self, spec: ComponentSpec, component: object, error: BaseException) -> Iterator[Problem]:
        """Yield why a component does not take what the others give it."""
        if isinstance(error, MistakeError):
            yield from (p if p.where.key else p.within(spec.key) for p in error.problems)
            return
        layer = _layer_of(component, error) if isinstance(error, ShapeError) else ""
        given = f"{self.inputs.name} {list(self.inputs.shape)}" if self.inputs.name else "what it is given"
        what = f"does not take {given}: {first_line(error)}{layer}"
        yield Problem(Where(spec.key), what, self._sizes(), code="shape-mismatch")

    def _sizes(self) -> str:
        """Return the shapes of images and latents, those that are known."""
        found = []
        for name, make in (("images", self.inputs.images), ("latents", self.inputs.latents)):
            with suppress(Exception):
                found.append(f"{name} are {_format_output(make(BATCH))}")
        return "; ".join(found)


def _layer_of(component: object, error: BaseException) -> str:
    """Return in which layer of a network an error was raised, for a message; empty if in none."""
    layers = component.named_modules() if isinstance(component, nn.Module) else ()
    names = {id(layer): f" (in {name}: {first_line(layer)})" for name, layer in layers if name}
    callers = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((names[id(caller)] for caller in reversed(callers) if id(caller) in names), "")


def _weights_that_do_not_fit(
    resolved: ResolvedRecipe, tried: DryBuild, folder: RunFolder | None
) -> Iterator[Problem]:
    """Yield what is wrong with the weights of other runs."""
    try:
        for name, file in pretrained_weights(resolved, folder).items():
            component = tried.made.get((name,))
            wrong = list(misfits(component, file)) if isinstance(component, nn.Module) else []
            if wrong:
                more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
                what = f"the weights of {resolved.components[name].source} do not fit: {wrong[0]}{more}"
                hint = "leave out use and options to take the component as that run has it"
                yield Problem(Where((name, "from")), what, hint, code="shape-mismatch")
    except MistakeError as error:
        yield from error.problems


def _format_output(output: object) -> str:
    if isinstance(output, Tensor):
        return f"[{', '.join(['B', *map(str, output.shape[1:])])}]" if output.ndim else "a number"
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        more = f" and {len(output) - 1} more" if len(output) > 1 else ""
        return _format_output(output[0]) + more
    return ""


def _cells(row: Row) -> tuple[str, ...]:
    return (row.component, row.output, short(row.parameters), short(row.flops), short(row.memory, "B"))


def short(number: int | None, unit: str = "") -> str:
    """Write a number as a person would: ``1.2 M``, ``34.5 kB``."""
    if number is None:
        return ""
    value, prefix = float(number), ""
    for larger in ("k", "M", "G", "T"):
        if value < 1000:
            break
        value, prefix = value / 1000, larger
    return f"{value:.{1 if prefix else 0}f} {prefix}{unit}".rstrip()
