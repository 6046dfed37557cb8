"""What every component owes its users, whatever its kind, module or plain class."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uldm_core.testing.checks.module import _OneDevice
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import Broken, Skip, expect
from uldm_core.testing.isolation import changes, process_state, restored

contract = Contract()
DRAWN = frozenset({"torch's random state"})
DEPTH = 4


def _built(case: Case) -> Any:
    """Build it as its owner would; a module answers in eval mode."""
    built = case.contract.build(case)
    return built.eval() if isinstance(built, nn.Module) else built


@contract.check
def leaves_the_process_alone(case: Case) -> None:
    """Built and used, it leaves alone what all share: random states, dtype, threads, environment."""
    with restored():  # what it imports on first use may set up the process, once
        case.exercise(_built(case))
    _ = random.random(), np.random.random()  # Hypothesis seeds both with 0: who does too would not be seen
    before = process_state()
    with restored(), redirect_stdout(io.StringIO()) as printed:
        built = _built(case)
        changed = changes(before, but=DRAWN)
        torch.manual_seed(5)
        before["torch's random state"] = process_state()["torch's random state"]
        _use(case, built)
        changed += changes(before, but=DRAWN if case.contract.draws else frozenset())
    expect(not changed, f"{' and '.join(dict.fromkeys(changed))}: it changes, and is not its own")
    expect(not printed.getvalue(), f"it prints {printed.getvalue()[:60]!r} where a command's data go")


def _use(case: Case, built: Any) -> Any:
    """Exercise it without the shelter of ``case.exercise``, which puts the random state back."""
    if case.contract.exercise:
        return case.contract.exercise(case, built)
    return case.contract.call(built, *case.inputs(built))


@contract.check
def instances_independent(case: Case) -> None:
    """What one instance was used for is nothing to another: no memory is shared by way of the class."""
    first = _built(case)
    wanted = case.exercise(first)
    _built(case)
    _same(case.exercise(_built(case)), wanted, "beside another instance it answers otherwise")


@contract.check
def calls_independent(case: Case) -> None:
    """What it was asked before is nothing to what it answers now."""
    if case.contract.remembers:
        raise Skip("it changes as it is used, by design")
    built = _built(case)
    wanted = case.exercise(built)
    _same(case.exercise(built), wanted, "asked again, it answers otherwise")


def _same(actual: object, wanted: object, otherwise: str) -> None:
    one, other = list(_numbers(actual)), list(_numbers(wanted))
    same = len(one) == len(other) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)
        for a, b in zip(one, other)
    )
    expect(same, otherwise)


def _numbers(value: object) -> Iterator[Tensor]:
    """Yield every number inside nested results, as float64 tensors."""
    if isinstance(value, Tensor):
        yield value.detach().double()
    elif isinstance(value, (bool, int, float)):
        yield torch.tensor(float(value), dtype=torch.float64)
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _numbers(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)


@contract.check
def keeps_no_graph(case: Case) -> None:
    """After use it holds on to no graph: one that grows by a batch a step fills the memory."""
    built = _built(case)
    case.exercise(built)
    for place in _graphs(built, type(built).__name__):
        raise Broken(f"{place} keeps the graph of what it was used for: detach() it")


def _graphs(value: object, place: str, depth: int = DEPTH) -> Iterator[str]:
    """Yield where, inside an object, a tensor lies that has a graph behind it."""
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            yield place
    elif isinstance(value, dict):
        for key, item in list(value.items()):
            yield from _graphs(item, f"{place}[{key!r}]", depth)
    elif isinstance(value, (list, tuple, set)):
        for index, item in enumerate(value):
            yield from _graphs(item, f"{place}[{index}]", depth)
    elif depth and hasattr(value, "__dict__") and not isinstance(value, type):
        for name, item in list(vars(value).items()):
            yield from _graphs(item, f"{place}.{name}", depth - 1)


@contract.check
def works_elsewhere(case: Case) -> None:
    """Given tensors of another device it makes none on the CPU that would meet them there."""
    built = _built(case)
    if isinstance(built, nn.Module):
        raise Skip("a module moves to where its inputs are")
    case.device = "meta"
    try:
        with _OneDevice():  # type: ignore[no-untyped-call]
            case.exercise(built)
    except Broken:
        raise
    except Exception as error:  # meta tensors have no values: many calls cannot be made, and prove nothing
        expect("same device" not in str(error), f"on another device it fails: {error}")
