"""Building a recipe's components for their shapes alone: what they object to is found before a run."""

from __future__ import annotations

import logging
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from attrs import define, evolve, field, frozen
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from uldm_core.blueprint import Blueprint, Builder
from uldm_core.errors import Key, MistakeError, Problem, dotted, is_unavailable
from uldm_core.options import options_of, say_value
from uldm_core.shapes import shapes_only

if TYPE_CHECKING:
    from uldm_core.recipe.recipe import Plan

META = torch.device("meta")
COUNT = 100_000
"""Images of a dataset that is not built: more than any batch."""
NUMBERS = ("noise_scheduler", "timestep_weighting")
"""Kinds whose components are a few numbers: they are built with their values, which others ask for."""
MANY = 1_000_000
"""More numbers than these are not a few."""


@define
class Trial:
    """What came of building a plan's components on torch's meta device.

    Args:
        components: those that could be built, by key.
        problems: what components object to, located by key.
        unmeasured: why a component could not be built so, by key. Nothing is wrong with it.
    """

    components: dict[Key, Any] = field(factory=dict)
    problems: list[Problem] = field(factory=list)
    unmeasured: dict[Key, str] = field(factory=dict)


def trial(plan: Plan, *, seconds: float = 1.0) -> Trial:
    """Build every noun, stage and tracker for its shapes alone, whatever becomes of the others.

    Nothing is read, fetched or stored: datasets are stood in for, weights are left out.

    Args:
        plan: the recipe's.
        seconds: what is not built by then is left.
    """
    rehearsal = _Rehearsal(plan.nouns, clock=Clock(time.monotonic() + seconds))
    with silence():
        for blueprint in plan.blueprints():
            rehearsal.attempt(blueprint)
    return rehearsal.found


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
class _Rehearsal(Builder):
    """Builds each blueprint once at most, and goes on when one cannot be built."""

    clock: Clock = field(kw_only=True)
    found: Trial = field(factory=Trial)
    tried: set[Key] = field(factory=set)

    def noun(self, name: str) -> Any:
        return self.build(self.nouns[name])

    def build(self, blueprint: Blueprint, *args: Any) -> Any:
        self.attempt(blueprint)
        if blueprint.key not in self.found.components:
            raise _MissingError(dotted(blueprint.key))
        return self.found.components[blueprint.key]

    def attempt(self, blueprint: Blueprint) -> None:
        """Build a component, what it needs first, unless that was tried before; note what comes of it."""
        if blueprint.key in self.tried:
            return
        self.tried.add(blueprint.key)
        for needed in (*blueprint.parts(), *(self.nouns[noun] for noun in blueprint.asks())):
            self.attempt(needed)
        try:
            self.found.components[blueprint.key] = self._made(blueprint)
        except MistakeError as error:
            self._objected(blueprint, error)
        except _MissingError as error:
            self.found.unmeasured[blueprint.key] = f"needs {error}, which could not be built"
        except (Exception, SystemExit, TooLongError) as error:
            self.found.unmeasured[blueprint.key] = reason(error)

    def _made(self, blueprint: Blueprint) -> Any:
        if blueprint.kind.name == "dataset":
            return _stand_in(blueprint)
        if blueprint.kind.name in NUMBERS:
            _refuse_many(blueprint)
            with Deadline(self.clock):
                return super().build(blueprint)
        with without_values(self.clock):
            component = super().build(blueprint)
            return component.to(META) if isinstance(component, nn.Module) else component

    def _objected(self, blueprint: Blueprint, error: MistakeError) -> None:
        key = blueprint.key
        if is_unavailable(error):
            self.found.unmeasured[key] = error.problems[0].what
            return
        for problem in error.problems:
            placed = problem if problem.where.key[: len(key)] == key else problem.within(key)
            hint = problem.hint or self._options_named(blueprint, problem.what)
            self.found.problems.append(evolve(placed, hint=hint))

    def _options_named(self, blueprint: Blueprint, what: str) -> str:
        """Say each option that a message names: its value, and where that is from."""
        derived = self._surroundings(blueprint, options_of(blueprint.component.load()), {})
        written = blueprint.to_dict()
        said = []
        for name in (*blueprint.options, *(name for name in derived if name not in blueprint.options)):
            if not re.search(rf"\b{re.escape(name)}\b", what):
                continue
            if name in blueprint.options:
                origin = "" if name in blueprint.written else " (default)"
                said.append(f"{name} = {say_value(written.get(name))}{origin}")
            else:
                said.append(f"{name} is {blueprint.kind.takes[name].says}")
        return "; ".join(said)


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


def _refuse_many(blueprint: Blueprint) -> None:
    for name, value in blueprint.options.items():
        if type(value) is int and value > MANY:
            raise NotImplementedError(f"{name} = {value} is more than can be tried out")


def _stand_in(blueprint: Blueprint) -> StandIn:
    """Stand in for a dataset by what its class or its options say of its images."""
    target: Any = blueprint.component.load()

    def said(name: str) -> int:
        for value in (getattr(target, name, None), blueprint.options.get(name)):
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
