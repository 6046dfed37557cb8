"""Building a recipe's components for their shapes alone: what they object to is found before a run."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from attrs import define, field, frozen
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from uldm_core.errors import Key, MistakeError, Problem, Where, dotted, is_unavailable
from uldm_core.recipe.graph import needs, trained_by
from uldm_core.shapes import shapes_only
from uldm_core.spec.building import Builder
from uldm_core.spec.component_spec import ComponentSpec

if TYPE_CHECKING:
    from uldm_core.recipe.recipe import ResolvedRecipe

META = torch.device("meta")
COUNT = 100_000
"""Images of a dataset that is not built: more than any batch."""
NUMBERS = ("noise_scheduler", "timestep_weighting")
"""Kinds whose components are a few numbers: they are built with their values, which others ask for."""
MANY = 1_000_000
"""More numbers than these are not a few."""


@define
class DryBuild:
    """What came of building a recipe's components on torch's meta device.

    Args:
        components: those that could be built, by key.
        problems: what components object to, located by key.
        unmeasured: why a component could not be built so, by key. Nothing is wrong with it.
    """

    components: dict[Key, Any] = field(factory=dict)
    problems: list[Problem] = field(factory=list)
    unmeasured: dict[Key, str] = field(factory=dict)


def dry_build(resolved: ResolvedRecipe, *, seconds: float = 1.0, wrong: Collection[Key] = ()) -> DryBuild:
    """Build every noun, stage and tracker for its shapes alone, whatever becomes of the others.

    Nothing is read, fetched or stored: datasets are stood in for, weights are left out.

    Args:
        resolved: the recipe.
        seconds: what is not built by then is left.
        wrong: keys of problems. A component that has one is not built, nor are those that need it.
    """
    rehearsal = _DryBuilder(resolved.components, clock=Clock(time.monotonic() + seconds), wrong=wrong)
    with silence():
        for spec in resolved.specs():
            rehearsal.attempt(spec)
    return rehearsal.found


def untrained(resolved: ResolvedRecipe, tried: DryBuild) -> Iterator[Problem]:
    """Yield the networks that some stage acts on, and that none trains."""
    used = set().union(*(needs(stage, resolved.components) for stage in resolved.stages.values()))
    trained = set().union(*(trained_by(stage) for stage in resolved.stages.values()))
    for name in sorted((used & resolved.components.keys()) - trained):
        noun, component = resolved.components[name], tried.components.get((name,))
        loaded = noun.source or noun.options.get("weights") is not None
        network = noun.kind.name in ("autoencoder", "denoiser") and not loaded
        weights = component.parameters() if network and isinstance(component, nn.Module) else ()
        if any(weight.requires_grad for weight in weights):
            what = "nothing trains it: it stays as it was drawn at random"
            hint = 'train it in a stage, or take it from a run: from = "runs/other"'
            yield Problem(Where((name,)), what, hint, warning=True, code="untrained")


class TooLongError(BaseException):
    """Time is up; no ``except Exception`` of a component keeps it back."""


@define
class Clock:
    """When time is up, by ``time.monotonic``."""

    until: float


class Deadline(TorchFunctionMode):
    """Raises ``TooLongError`` at the first torch function after time is up."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the clock and call the function."""
        started, imported = time.monotonic(), "torch._dynamo" in sys.modules
        if started > self.clock.until:
            raise TooLongError
        result = self.call(function, args, dict(kwargs or {}))
        if not imported and "torch._dynamo" in sys.modules:  # a second, for the first sum of meta tensors
            self.clock.until += time.monotonic() - started
        return result

    def call(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Call the function."""
        return function(*args, **kwargs)


_FILLS = {Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.random_, Tensor.exponential_}


class _Shapes(Deadline):
    """Keeps tensors on the meta device, wherever they are sent, and does not draw their values."""

    def call(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        fills = function in _FILLS or getattr(function, "__module__", "") == "torch.nn.init"
        given = args[0] if args else kwargs.get("tensor")
        if isinstance(given, Tensor) and given.is_meta and (fills or function is Tensor.cpu):
            return given
        if kwargs.get("device") is not None:
            kwargs["device"] = META
        if function in (torch.rand, torch.randn):
            function, kwargs = torch.empty, {name: kwargs[name] for name in kwargs if name != "generator"}
        return function(*args, **kwargs)


@contextmanager
def without_values(clock: Clock) -> Iterator[None]:
    """Build and run components for their shapes alone.

    Raises:
        TooLongError: time is up.
    """
    with shapes_only(), META, _Shapes(clock):
        yield


@contextmanager
def silence() -> Iterator[None]:
    """Keep components from warning, logging and drawing random numbers: they will, when built in earnest."""
    muted, gradients = logging.root.manager.disable, torch.is_grad_enabled()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable()
        try:
            yield
        finally:
            logging.disable(muted)
            torch.set_grad_enabled(gradients)  # a deadline may pass just as they are to be enabled again


class _MissingError(Exception):
    """A part, or a noun, could not be built; why is said there."""


@define
class _DryBuilder(Builder):
    """Builds each blueprint once at most, and goes on when one cannot be built."""

    clock: Clock = field(kw_only=True)
    wrong: Collection[Key] = field(default=(), kw_only=True)
    found: DryBuild = field(factory=DryBuild)
    tried: set[Key] = field(factory=set)

    def component(self, name: str) -> Any:
        if name not in self.components:
            raise _MissingError(name)
        return self.build(self.components[name])

    def build(self, spec: ComponentSpec, *args: Any) -> Any:
        self.attempt(spec)
        if spec.key not in self.found.components:
            raise _MissingError(dotted(spec.key))
        return self.found.components[spec.key]

    def attempt(self, spec: ComponentSpec) -> None:
        """Build a component, what it needs first, unless that was tried before; note what comes of it."""
        if spec.key in self.tried:
            return
        self.tried.add(spec.key)
        components = [self.components[noun] for noun in spec.dependencies() if noun in self.components]
        for needed in (*spec.parts(), *components):
            self.attempt(needed)
        if any(key[: len(spec.key)] == spec.key for key in self.wrong):
            self.found.unmeasured[spec.key] = "something is wrong with its options"
            return
        try:
            self.found.components[spec.key] = self._made(spec)
        except MistakeError as error:
            self._objected(spec, error)
        except _MissingError as error:
            self.found.unmeasured[spec.key] = f"needs {error}, which could not be built"
        except (Exception, SystemExit, TooLongError) as error:
            self.found.unmeasured[spec.key] = reason(error)

    def _made(self, spec: ComponentSpec) -> Any:
        if spec.kind.name == "dataset":
            return stand_in(spec)
        if spec.kind.name in NUMBERS:
            _refuse_many(spec)
            with Deadline(self.clock):
                return super().build(spec)
        with without_values(self.clock):
            component = super().build(spec)
            return component.to(META) if isinstance(component, nn.Module) else component

    def _objected(self, spec: ComponentSpec, error: MistakeError) -> None:
        key = spec.key
        if is_unavailable(error):
            self.found.unmeasured[key] = error.problems[0].what
            return
        for problem in error.problems:
            within = problem.where.key[: len(key)] == key
            self.found.problems.append(problem if within else problem.within(key))


@frozen
class StandIn:
    """A dataset of which only the shapes are known; its images are black."""

    channels: int
    size: int
    splits: tuple[str, ...]
    fingerprint: str = ""

    def __len__(self) -> int:
        return COUNT

    @property
    def labels(self) -> Tensor:
        """Zeros, int64."""
        return torch.zeros(COUNT, dtype=torch.int64)

    def images(self, indices: Tensor) -> Tensor:
        """Return zeros, uint8 [B, channels, size, size]."""
        return torch.zeros(len(indices), self.channels, self.size, self.size, dtype=torch.uint8)

    def split(self, name: str) -> StandIn:
        """Return itself."""
        return self


def _refuse_many(spec: ComponentSpec) -> None:
    for name, value in spec.options.items():
        if type(value) is int and value > MANY:
            raise NotImplementedError(f"{name} = {value} is more than can be tried out")


def stand_in(spec: ComponentSpec) -> StandIn:
    """Stand in for a dataset by what its class or its options say of its images."""
    target: Any = spec.component.load()

    def said(name: str) -> int:
        for value in (getattr(target, name, None), spec.options.get(name)):
            if type(value) is int:
                return value
        raise NotImplementedError(f"neither its class nor its options say its {name}")

    return StandIn(said("channels"), said("size"), tuple(getattr(target, "splits", ("train", "test"))))


def reason(error: BaseException) -> str:
    """Say why a component cannot be built or run for its shapes alone."""
    if isinstance(error, TooLongError):
        return "took too long"
    said = shorten(first_line(error), 120, placeholder=" ...")
    if isinstance(error, NotImplementedError) and said:
        return said
    return f"{type(error).__name__}: {said}".removesuffix(": ")


def first_line(said: object) -> str:
    """Return the first line of what an error, or anything else, says."""
    return (str(said).strip().splitlines() or [""])[0]
