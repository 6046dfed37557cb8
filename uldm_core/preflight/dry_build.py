"""Building a recipe's components for their shapes alone: what they refuse is found before a run."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from textwrap import shorten
from typing import Any

import torch
from attrs import define, field
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from uldm_core.errors import Key, MistakeError, Problem, Where, dotted, is_unavailable
from uldm_core.recipe.graph import needs, trained_by
from uldm_core.recipe.recipe import Recipe, ResolvedRecipe, in_order
from uldm_core.registry import Registry
from uldm_core.run_folder.data import stand_in
from uldm_core.shapes import shapes_only
from uldm_core.spec.building import ComponentStore, MissingComponentError
from uldm_core.spec.component_spec import ComponentSpec

Function = Callable[..., object]
META = torch.device("meta")
MANY = 1_000_000
"""More numbers than these are not a few."""


def check(recipe: Recipe, registry: Registry | None = None) -> list[Problem]:
    """Return everything that is wrong with a recipe, each at its place; an empty list if nothing is.

    Every component whose own options are right is built for its shapes alone, so that what its constructor
    refuses is found as well. What cannot be checked because of another problem is left until that is fixed.

    Args:
        recipe: as written.
        registry: what components there are; the default one unless another is given.
    """
    resolved, problems = recipe.read(registry)
    unfit = (*problems, *resolved.document.problems)  # some of which are left out of the former
    wrong = [problem.where.key for problem in unfit if not problem.warning]
    built = dry_build(resolved, wrong=wrong)
    found = [*problems, *map(resolved.placed, built.problems)]
    if all(problem.warning for problem in found):
        found += map(resolved.placed, untrained(resolved, built))
    return in_order(found)


def dry_build(resolved: ResolvedRecipe, *, seconds: float = 2.0, wrong: Collection[Key] = ()) -> DryBuild:
    """Build every component, stage and tracker of a recipe for its shapes alone.

    Nothing is read, fetched or stored: datasets are stood in for, weights are left out.

    Args:
        resolved: the recipe.
        seconds: what is not built by then is left.
        wrong: keys of problems. A component that has one is not built, nor are those that need it.
    """
    tried = DryBuild(components=resolved.components, until=time.monotonic() + seconds, wrong=wrong)
    with silence():
        for spec in resolved.specs():
            tried.attempt(spec)
    return tried


def untrained(resolved: ResolvedRecipe, tried: DryBuild) -> Iterator[Problem]:
    """Yield the networks that some stage acts on, and that none trains."""
    used = set().union(*(needs(stage, resolved.components) for stage in resolved.stages.values()))
    trained = set().union(*(trained_by(stage) for stage in resolved.stages.values()))
    for name in sorted((used & resolved.components.keys()) - trained):
        spec, component = resolved.components[name], tried.made.get((name,))
        loaded = spec.source or spec.options.get("weights") is not None
        network = spec.kind.learned and not loaded
        weights = component.parameters() if network and isinstance(component, nn.Module) else ()
        if any(weight.requires_grad for weight in weights):
            what = "nothing trains it: it stays as it was drawn at random"
            hint = 'train it in a stage, or take it from a run: from = "runs/other"'
            yield Problem(Where((name,)), what, hint, warning=True, code="untrained")


class TooLongError(BaseException):
    """Time is up; no ``except Exception`` of a component keeps it back."""


class ShapeError(RuntimeError):
    """A torch function does not take tensors of these shapes, whatever their values are."""


def check_time(until: float) -> None:
    """Raise ``TooLongError`` if time is up, by ``time.monotonic``."""
    if time.monotonic() > until:
        raise TooLongError


_FILLS = {Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.random_, Tensor.exponential_}


class _Deadline(TorchFunctionMode):
    """At the first torch function after time is up it raises ``TooLongError``."""

    def __init__(self, until: float) -> None:
        super().__init__()
        self.until = until

    def __torch_function__(
        self,
        function: Function,
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        check_time(self.until)
        return self._call(function, args, dict(kwargs or {}))

    def _call(self, function: Function, args: Sequence[object], kwargs: dict[str, object]) -> object:
        return function(*args, **kwargs)


class _Shapes(_Deadline):
    """Keeps tensors on the meta device, wherever they are sent, and does not draw their values.

    Where a function fails on tensors without values, and on zeros too, it raises ``ShapeError``: many raise
    ``RuntimeError`` for both reasons. At the first function after time is up it raises ``TooLongError``.
    """

    def _call(self, function: Function, args: Sequence[object], kwargs: dict[str, object]) -> object:
        try:
            return self._on_meta(function, args, dict(kwargs))
        except NotImplementedError:
            raise
        except RuntimeError:
            _try_on_zeros(function, args, kwargs)
            raise

    def _on_meta(self, function: Function, args: Sequence[object], kwargs: dict[str, object]) -> object:
        fills = function in _FILLS or getattr(function, "__module__", "") == "torch.nn.init"
        given = args[0] if args else kwargs.get("tensor")
        if isinstance(given, Tensor) and given.is_meta and (fills or function is Tensor.cpu):
            return given
        if kwargs.get("device") is not None:
            kwargs["device"] = META
        if function in (torch.rand, torch.randn):
            function, kwargs = torch.empty, {name: kwargs[name] for name in kwargs if name != "generator"}
        return function(*args, **kwargs)


def _try_on_zeros(function: Function, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Try one function with values: this costs the memory of its arguments, not that of the component."""
    with torch._C.DisableTorchFunction(), torch.no_grad():  # under which tensors keep their values
        zeros = partial(torch.zeros_like, device="cpu")
        args, kwargs = tree_map_only(Tensor, zeros, (args, dict(kwargs)))
        try:
            function(*args, **kwargs)
        except RuntimeError as error:
            raise ShapeError(*error.args) from None  # with the better message of the two


@contextmanager
def without_values(until: float) -> Iterator[None]:
    """Build and run components for their shapes alone.

    Raises:
        TooLongError: time is up, by ``time.monotonic``.
    """
    with shapes_only(), META, _Shapes(until):
        yield


def deadline(until: float) -> AbstractContextManager[object]:
    """Return the context of work with values that raises ``TooLongError`` when time is up."""
    return _Deadline(until)


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


@define(kw_only=True)
class DryBuild(ComponentStore):
    """Builds a recipe's components on torch's meta device, each spec once at most.

    Args:
        until: when it ends, by ``time.monotonic``.
        wrong: keys of problems: what has one is not built, nor what needs it.
        made: what was built, by key.
        problems: what the components refuse.
        unmeasured: why a component could not be built so, though nothing is wrong with it, by key.
    """

    until: float
    wrong: Collection[Key] = ()
    made: dict[Key, Any] = field(factory=dict)
    problems: list[Problem] = field(factory=list)
    unmeasured: dict[Key, str] = field(factory=dict)
    _tried: set[Key] = field(factory=set)

    def make(self, spec: ComponentSpec, *args: Any) -> Any:
        """Return a component that could be built so; raises ``MissingComponentError`` for any other."""
        self.attempt(spec)
        if spec.key not in self.made:
            raise MissingComponentError(dotted(spec.key))
        return self.made[spec.key]

    def attempt(self, spec: ComponentSpec) -> None:
        """Build a component, what it needs first, unless that was tried before; note what comes of it."""
        if spec.key in self._tried:
            return
        self._tried.add(spec.key)
        components = [self.components[name] for name in spec.dependencies() if name in self.components]
        for needed in (*spec.parts(), *components):
            self.attempt(needed)
        if any(key[: len(spec.key)] == spec.key for key in self.wrong):
            self.unmeasured[spec.key] = "something is wrong with its options"
            return
        try:
            self.made[spec.key] = self._made(spec)
        except MissingComponentError as error:
            self.unmeasured[spec.key] = f"needs {error}, which could not be built"
        except MistakeError as error:
            if is_unavailable(error):
                self.unmeasured[spec.key] = error.problems[0].what
                return
            for problem in error.problems:
                inside = problem.where.key[: len(spec.key)] == spec.key
                self.problems.append(problem if inside else problem.within(spec.key))
        except (Exception, SystemExit, TooLongError) as error:
            self.unmeasured[spec.key] = reason(error)

    def _made(self, spec: ComponentSpec) -> object:
        if spec.kind.data:
            return stand_in(spec)
        if spec.kind.numbers:
            for name, value in spec.options.items():
                if type(value) is int and value > MANY:
                    raise NotImplementedError(f"{name} = {value} is more than can be tried out")
            return super().make(spec)
        with without_values(self.until):
            component = super().make(spec)
            return component.to(META) if isinstance(component, nn.Module) else component


def reason(error: BaseException) -> str:
    """Say why a component cannot be built or run for its shapes alone."""
    if isinstance(error, TooLongError):
        return "took too long"
    text = shorten(first_line(error), 120, placeholder=" ...")
    if isinstance(error, NotImplementedError) and text:
        return text
    return f"{type(error).__name__}: {text}".removesuffix(": ")


def first_line(text: object) -> str:
    """Return the first line of the text of an error, or of anything else."""
    return (str(text).strip().splitlines() or [""])[0]
