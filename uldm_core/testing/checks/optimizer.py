"""The contract of optimizers: what trainers and resumed runs rely on."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from uldm_core.testing.case import Case
from uldm_core.testing.contract import Contract, expect, expect_close

contract = Contract(
    build=lambda case: case.build([nn.Parameter(torch.ones(2, 2))]),
    exercise=lambda case, optimizer: _exercise(optimizer),
    remembers=True,
)


def _exercise(optimizer: Any) -> Tensor:
    """Take a few steps on the one parameter that it was built for."""
    (parameter,) = optimizer.param_groups[0]["params"]
    for _ in range(3):
        optimizer.zero_grad()
        parameter.square().sum().backward()
        optimizer.step()
    return parameter.detach().clone()


def _network(case: Case) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(case.seed())
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def _descend(network: nn.Module, optimizer: Any, data: Tensor, steps: int) -> list[float]:
    """Descend on one batch, and return the loss of each step."""
    errors = []
    for _ in range(steps):
        error = (network(data) - data[:, :2]).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    return errors


@contract.check
def descends(case: Case) -> None:
    """A few steps lower a smooth loss."""
    network, data = _network(case), case.normal(16, 3)
    errors = _descend(network, case.build(network.parameters()), data, 30)
    expect(errors[-1] < errors[0], f"30 steps take the loss from {errors[0]:.4g} to {errors[-1]:.4g}")


@contract.check
def rate_obeyed(case: Case) -> None:
    """``param_groups`` hold a rate ``lr`` above zero that is obeyed: at 0 nothing moves."""
    network, data = _network(case), case.normal(16, 3)
    optimizer = case.build(network.parameters())
    for group in optimizer.param_groups:
        expect(group.get("lr", 0) > 0, "a parameter group has no lr above zero")
        group["lr"] = 0.0
    before = [parameter.detach().clone() for parameter in network.parameters()]
    _descend(network, optimizer, data, 2)
    for parameter, kept in zip(network.parameters(), before, strict=True):
        expect(torch.equal(parameter.detach(), kept), "at a rate of 0 the parameters move")


@contract.check
def every_parameter_moves(case: Case) -> None:
    """Every parameter with a gradient moves, one without stays: frozen parts stay frozen."""
    network, data = _network(case), case.normal(16, 3)
    frozen = nn.Parameter(torch.ones(2))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    _descend(network, case.build([*network.parameters(), frozen]), data, 3)
    for parameter, kept in zip(network.parameters(), before, strict=True):
        expect(not torch.equal(parameter.detach(), kept), "a parameter with a gradient does not move")
    expect(torch.equal(frozen.detach(), torch.ones(2)), "a parameter without a gradient moves")


@contract.check
def gradients_cleared(case: Case) -> None:
    """``zero_grad`` leaves no gradient behind: the next step is its own."""
    network, data = _network(case), case.normal(16, 3)
    optimizer = case.build(network.parameters())
    network(data).sum().backward()
    optimizer.zero_grad()
    left = [p for p in network.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    expect(not left, f"zero_grad leaves {len(left)} gradients")


@contract.check
def state_restored(case: Case) -> None:
    """Its state, loaded into a new instance, goes on bit for bit as if never stopped."""
    network, data = _network(case), case.normal(16, 3)
    optimizer = case.build(network.parameters())
    _descend(network, optimizer, data, 5)
    copy = deepcopy(network)
    resumed = case.build(copy.parameters())
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    _descend(network, optimizer, data, 5)
    _descend(copy, resumed, data, 5)
    for one, other in zip(copy.parameters(), network.parameters(), strict=True):
        expect_close(one, other, "a resumed optimizer goes another way", rtol=0, atol=0)
