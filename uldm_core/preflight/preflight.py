"""Before a run: shapes carried through the whole recipe, without data, weights or memory."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from attrs import asdict, define, evolve, field, frozen
from torch import Tensor, nn

from uldm_core.errors import MistakeError, Problem, Where, dotted, is_unavailable
from uldm_core.kinds import latent_size
from uldm_core.preflight import measure
from uldm_core.preflight.dry_build import (
    Clock,
    DryBuild,
    TooLongError,
    dry_build,
    first_line,
    reason,
    silence,
    untrained,
    without_values,
)
from uldm_core.preflight.inputs import Inputs
from uldm_core.recipe import ResolvedRecipe
from uldm_core.recipe.graph import trained_by
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.pretrained import misfits, pretrained_weights
from uldm_core.spec.component_spec import ComponentSpec

SECONDS = 5.0
BATCH = 2
NOT_MEASURABLE = "not measurable"


@frozen
class Row:
    """What is known of one component.

    Args:
        component: its key in the recipe, and its name.
        output: the shape of what it gives; empty if it gives no tensor.
        why: if it is not measurable, why.
        parameters: how many numbers it has.
        trainable: how many of them training changes.
        flops: operations a sample, of one call.
        memory: bytes of a training step, for what a stage trains: parameters, gradients, the optimizer's
            state, and what its forward pass keeps for a batch.
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
    """What shapes say of a recipe: a row a component, the nouns' first, and what does not fit.

    ``tried`` are the components, as they were built for it.
    """

    rows: list[Row]
    problems: list[Problem]
    tried: DryBuild

    def table(self) -> str:
        """Return the rows as aligned text."""
        head = ("component", "output", "parameters", "FLOPs a sample", "a training step")
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        return "\n".join(
            "  ".join([*map(str.ljust, line[:2], widths), *map(str.rjust, line[2:], widths[2:])]).rstrip()
            for line in lines
        )

    def to_json(self) -> list[dict[str, Any]]:
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
    """Carry shapes through a recipe: dataset, autoencoder, latents, denoiser, sampler, metrics.

    A component that cannot be run without values is not measurable, and stops nothing. Takes so many seconds
    at most, five by default; what is not measured by then is left. ``folder`` is the run's: it may have kept
    weights of other runs.
    """
    seconds = seconds or SECONDS
    clock = Clock(time.monotonic() + seconds)
    tried = dry_build(resolved, seconds=seconds / 2)
    walk = _Walk(tried, resolved, clock)
    with silence(), without_values(clock):
        rows = [walk.row(spec) for spec in _in_order(resolved)]
    of_runs = _weights_that_do_not_fit(resolved, tried, folder)
    problems = [*tried.problems, *walk.problems, *of_runs, *untrained(resolved, tried)]
    return Preflight(rows, [resolved.placed(problem) for problem in problems], tried)


def _optimizer_of(stage: ComponentSpec, noun: ComponentSpec) -> ComponentSpec | None:
    """Return the optimizer by which a stage trains a noun: ``optimizer``, or ``NOUN_optimizer``."""
    option = next((option for option, name in stage.references().items() if (name,) == noun.key), "")
    optimizer = stage.options.get(f"{option}_optimizer")
    if optimizer is None and noun.key[0] in trained_by(stage):
        optimizer = stage.options.get("optimizer")
    return optimizer if isinstance(optimizer, ComponentSpec) else None


_FINISHED_BY_OWNERS = ("optimizer", "lr_schedule")


def _in_order(resolved: ResolvedRecipe) -> Iterator[ComponentSpec]:
    """Yield the nouns, then what stands within the stages."""
    yield from resolved.components.values()
    for stage in resolved.stages.values():
        yield from (part for part in stage.parts() if part.kind.name not in _FINISHED_BY_OWNERS)


@define
class _Walk(Inputs):
    """Runs each component on what the others would give it."""

    resolved: ResolvedRecipe
    clock: Clock
    problems: list[Problem] = field(factory=list)

    def row(self, spec: ComponentSpec) -> Row:
        """Measure one component."""
        row = Row(f"{dotted(spec.key).removeprefix('stages.')}: {spec.use}")
        component = self.tried.components.get(spec.key)
        if component is None:
            why = self.tried.unmeasured.get(spec.key)
            return evolve(row, output=NOT_MEASURABLE if why else "does not fit", why=why or "")
        forward = _FORWARDS.get(spec.kind.name)
        try:
            row = self._counted(row, spec, component)
            return self._measured(row, spec, component, forward) if forward else row
        except MistakeError as error:
            self.problems += error.problems
        except (Exception, SystemExit, TooLongError) as error:
            if not _speaks_of_what_it_was_given(error):
                return evolve(row, output=NOT_MEASURABLE, why=reason(error))
            self._refused(spec, component, error)
        return evolve(row, output="does not fit")

    def _counted(self, row: Row, spec: ComponentSpec, component: Any) -> Row:
        if any(_optimizer_of(stage, spec) for stage in self.resolved.stages.values()):
            measure.thaw(component)
        counts = [
            sum(parameter.numel() for parameter in found)
            for found in (measure.parameters_of(component), measure.trainable(component))
        ]
        return evolve(row, parameters=counts[0], trainable=counts[1]) if counts[0] else row

    def _measured(self, row: Row, spec: ComponentSpec, component: Any, forward: Forward) -> Row:
        output, count = measure.flops(component, lambda: forward(self, spec, component, BATCH))
        row = evolve(row, output=_say_output(output))
        if not row.parameters:
            return row
        return evolve(row, flops=count // BATCH, memory=self._memory(spec, component, forward))

    def _memory(self, spec: ComponentSpec, component: nn.Module, forward: Forward) -> int | None:
        """Return the bytes of a training step of a noun, by the first stage that trains it."""
        for stage in self.resolved.stages.values():
            optimizer = _optimizer_of(stage, spec)
            if optimizer is not None:
                batch = stage.options.get("batch_size", BATCH)
                weights = measure.trainable(component)
                kept = measure.activations(component, partial(forward, self, spec, component, batch))
                both = measure.size_of(measure.parameters_of(component)) + measure.size_of(weights)
                return both + self._state(optimizer, weights) + kept
        return None

    def _state(self, optimizer: ComponentSpec, weights: list[nn.Parameter]) -> int:
        """Return the bytes that an optimizer keeps; where that cannot be measured, as many as Adam's."""
        try:
            return measure.optimizer_state(self.tried.components[optimizer.key], weights)
        except MistakeError:
            raise
        except Exception:
            return 2 * measure.size_of(weights)

    def _refused(self, spec: ComponentSpec, component: Any, error: BaseException) -> None:
        """Say that a component does not take what the others give it."""
        kind, latents = spec.kind.name, _shape_of(self.latents)
        channels = getattr(component, "channels", None)
        objection = first_line(error)
        if isinstance(error, RuntimeError):  # torch's own words, which name no option
            objection += _layer_of(component, error)
        what, hint = f"does not take images {_shape_of(self.images)}: {objection}", self._sizes()
        if kind == "sampler":  # which objects to the process, not to shapes
            what, hint = first_line(error), ""
        elif kind == "denoiser" and latents and type(channels) is int and channels != latents[1]:
            what = f"{spec.key[-1]} expects {channels} channels, latents have {latents[1]}"
        elif kind in ("denoiser", "quantizer", "latent_scaling"):
            what = f"does not take latents {latents}: {objection}"
        self.problems.append(Problem(Where(spec.key), what, hint, code="shape-mismatch"))

    def _sizes(self) -> str:
        shapes = {"images": _shape_of(self.images), "latents": _shape_of(self.latents)}
        return "; ".join(
            f"{name} are {_say_shape(['B', *shape[1:]])}" for name, shape in shapes.items() if shape
        )

    def predict_nothing(self, latents: Tensor, t: Tensor) -> Tensor:
        """Stand in for a denoiser, as long as there is time."""
        if time.monotonic() > self.clock.until:
            raise TooLongError
        return torch.zeros_like(latents)


Forward = Callable[[_Walk, ComponentSpec, Any, int], Any]


def _expect(spec: ComponentSpec, what: str, tensor: Any, shape: Any) -> Any:
    """Return the tensor; raises ``MistakeError`` at the component if it is not of the shape."""
    found = list(getattr(tensor, "shape", ()))
    if found != list(shape):
        what = f"{what} are {_say_shape(found)}, not {_say_shape(list(shape))}"
        raise MistakeError(Problem(Where(spec.key), what, code="shape-mismatch"))
    return tensor


def _autoencode(walk: _Walk, spec: ComponentSpec, component: Any, batch: int) -> Any:
    images = walk.images(batch)
    reconstruction, latents, _ = component(images)
    _expect(spec, "reconstructions", reconstruction, images.shape)
    side = latent_size(images.shape[-1], component.downscale)
    return _expect(spec, "latents", latents, (batch, component.latent_channels, side, side))


def _denoise(walk: _Walk, spec: ComponentSpec, component: Any, batch: int) -> Any:
    latents = walk.latents(batch)
    return _expect(spec, "predictions", component(latents, torch.zeros(batch)), latents.shape)


def _discriminate(walk: _Walk, spec: ComponentSpec, component: Any, batch: int) -> Any:
    logits = component(walk.images(batch))
    rows, columns = (*logits.shape[2:], 0, 0)[:2]
    return _expect(spec, "logits", logits, (batch, 1, rows, columns))


def _quantize(walk: _Walk, spec: ComponentSpec, component: Any, batch: int) -> Any:
    latents = torch.zeros(batch, component.dim, *walk.latents(batch).shape[2:])
    return _expect(spec, "quantized latents", component(latents)[0], latents.shape)


def _features(walk: _Walk, spec: ComponentSpec, component: Any, batch: int) -> Any:
    maps = component(walk.images(batch))
    found = [feature.shape[1] for feature in maps]
    if found != list(component.channels):
        what = f"its maps have {found} channels, and it says {list(component.channels)}"
        raise MistakeError(Problem(Where(spec.key), what, code="shape-mismatch"))
    return maps


def _distance(walk: _Walk, spec: ComponentSpec, component: Any, batch: int) -> Any:
    images = walk.images(batch)
    return _expect(spec, "losses", component(images, images), ())


def _scaled(walk: _Walk, spec: ComponentSpec, component: Any, batch: int) -> Any:
    latents = walk.latents(batch)
    return _expect(spec, "normalized latents", component.normalize(latents), latents.shape)


def _sampled(walk: _Walk, spec: ComponentSpec, component: Any, batch: int) -> Any:
    """Draw with a denoiser that predicts nothing; a step is so cheap that values are no burden."""
    process = walk.component("noise_scheduler")
    if process is None:
        raise NotImplementedError("there is no noise scheduler to sample with")
    latents = walk.latents(batch)
    with torch._C.DisableTorchFunction():  # which lets values be
        noise = torch.zeros(list(latents.shape), device="cpu")
        drawn = component(walk.predict_nothing, process, noise, torch.Generator())
    return _expect(spec, "samples", drawn, latents.shape)


def _scored(walk: _Walk, spec: ComponentSpec, component: Any, batch: int) -> Any:
    component.update(walk.images(batch).to(torch.uint8), real=False)
    return ()


def _shown(walk: _Walk, spec: ComponentSpec, component: Any, batch: int) -> Any:
    return walk.images(batch)


_FORWARDS: Mapping[str, Forward] = {
    "dataset": _shown,
    "autoencoder": _autoencode,
    "denoiser": _denoise,
    "discriminator": _discriminate,
    "quantizer": _quantize,
    "backbone": _features,
    "loss": _distance,
    "latent_scaling": _scaled,
    "sampler": _sampled,
    "metric": _scored,
}


_OF_SHAPES = re.compile(r"shape|size|dimension|channel|element|divisible", re.IGNORECASE)


def _speaks_of_what_it_was_given(error: BaseException) -> bool:
    """Whether an error objects to the input, rather than to tensors without values.

    Of torch's own errors only those that speak of shapes are believed: a recipe is refused for it.
    """
    if isinstance(error, NotImplementedError) or is_unavailable(error) or "meta" in str(error).lower():
        return False
    of_shapes = isinstance(error, RuntimeError) and _OF_SHAPES.search(first_line(error))
    return isinstance(error, ValueError) or bool(of_shapes)


def _layer_of(component: Any, error: BaseException) -> str:
    """Say in which layer of a network an error arose; empty if in none."""
    layers = component.named_modules() if isinstance(component, nn.Module) else ()
    names = {id(layer): f" (in {name}: {first_line(layer)})" for name, layer in layers if name}
    callers = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((names[id(caller)] for caller in reversed(callers) if id(caller) in names), "")


def _shape_of(make: Callable[[int], Tensor]) -> list[int]:
    """Return the shape of images or latents; empty if it is not known."""
    try:
        return list(make(BATCH).shape)
    except Exception:
        return []


def _weights_that_do_not_fit(
    resolved: ResolvedRecipe, tried: DryBuild, folder: RunFolder | None
) -> Iterator[Problem]:
    """Yield what is wrong with the weights of other runs."""
    try:
        files = pretrained_weights(resolved, folder)
    except MistakeError as error:
        yield from error.problems
        return
    for name, file in files.items():
        component = tried.components.get((name,))
        try:
            wrong = list(misfits(component, file)) if isinstance(component, nn.Module) else []
        except MistakeError as error:
            yield from error.problems
            continue
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            what = f"the weights of {resolved.components[name].source} do not fit: {wrong[0]}{more}"
            hint = "leave out use and options to take the component as that run has it"
            yield Problem(Where((name, "from")), what, hint, code="shape-mismatch")


def _say_output(output: Any) -> str:
    if isinstance(output, Tensor):
        return _say_shape(["B", *output.shape[1:]]) if output.ndim else "a number"
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        more = f" and {len(output) - 1} more" if len(output) > 1 else ""
        return _say_output(output[0]) + more
    return ""


def _say_shape(shape: list[Any]) -> str:
    return f"[{', '.join(map(str, shape))}]"


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
