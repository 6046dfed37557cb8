"""The contract of optimizers: what trainers and resumed runs rely on."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from uldm_core.protocols import Optimizer
from uldm_core.run_folder.checkpoint import read_state, write_state
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import expect, expect_close, expect_finite

contract = Contract(
    build=lambda case: case.build([nn.Parameter(torch.ones(2, 2))]),
    exercise=lambda case, optimizer: _exercise(optimizer),
    remembers=True,
)
SHAPES = {
    "a kernel": (4, 4, 3, 3),
    "a matrix": (4, 6),
    "a vector": (6,),
    "a scalar": (),
    "one number": (1, 1),
}


def _exercise(optimizer: Optimizer) -> Tensor:
    """Take a few steps on the one parameter that it was built for."""
    (parameter,) = optimizer.param_groups[0]["params"]
    for _ in range(3):
        optimizer.zero_grad()
        parameter.square().sum().backward()
        optimizer.step()
    moved: Tensor = parameter.detach().clone()
    return moved


class _Network(nn.Module):
    """A network of all shapes that parameters come in."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Conv1d(1, 2, 2)
        self.middle = nn.Linear(4, 4)
        self.gain = nn.Parameter(torch.ones(()))
        self.last = nn.Linear(4, 2)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        features = self.kernel(x[:, None]).flatten(1)
        out: Tensor = self.last(torch.tanh(self.middle(features)) * self.gain)
        return out


def _network(case: Case) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(case.seed())
        return _Network()


def _descend(network: nn.Module, optimizer: Optimizer, data: Tensor, steps: int) -> list[float]:
    """Descend on one batch, and return the loss of each step."""
    errors = []
    for _ in range(steps):
        error = (network(data) - data[:, :2]).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    return errors


def _parameters(dtype: torch.dtype = torch.float32, value: float | None = None) -> dict[str, nn.Parameter]:
    """Return a parameter of each shape, of small numbers or all of one value."""
    generator = torch.Generator().manual_seed(3)
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return {
        name: nn.Parameter((tensor if value is None else torch.full_like(tensor, value)).to(dtype))
        for name, tensor in drawn.items()
    }


def _push(optimizer: Optimizer, parameters: dict[str, nn.Parameter], scale: float, steps: int = 3) -> None:
    """Take steps with the same gradients each time: of every sign, and so many times the usual size."""
    for _ in range(steps):
        optimizer.zero_grad()
        for index, parameter in enumerate(parameters.values()):
            generator = torch.Generator().manual_seed(index)
            gradient = torch.randn(parameter.shape, generator=generator)
            if gradient.ndim == 4:  # transposed it would point the other way
                gradient = gradient - 0.9 * gradient.transpose(0, 1)
            parameter.grad = (scale * gradient).to(parameter)
        optimizer.step()


@contract.check
def descends(case: Case) -> None:
    """A few steps lower a smooth loss."""
    network, data = _network(case), case.normal(16, 3)
    errors = _descend(network, case.build(network.parameters()), data, 30)
    expect(errors[-1] < errors[0], f"30 steps take the loss from {errors[0]:.4g} to {errors[-1]:.4g}")


@contract.check
def against_the_gradient(case: Case) -> None:
    """Parameters of every shape move against their gradient: kernels, vectors and scalars too."""
    parameters = _parameters()
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    _push(case.build(iter(parameters.values())), parameters, 1.0)
    for name, parameter in parameters.items():
        moved, gradient = parameter.detach() - before[name], parameter.grad
        expect(parameter.shape == before[name].shape, f"{name} gets the shape {list(parameter.shape)}")
        expect(gradient is not None, f"the gradient of {name} is gone after the step")
        along = (moved * gradient).sum() if gradient is not None else 0.0
        expect(along < 0, f"{name}, {list(parameter.shape)}, does not move against its gradient")


@contract.check
def takes_any_gradient(case: Case) -> None:
    """Gradients of zero, tiny and huge ones leave the parameters finite; with zero ones nothing grows."""
    for scale in (0.0, 1e-25, 1e10):
        parameters = _parameters()
        before = {name: parameter.detach().abs() for name, parameter in parameters.items()}
        _push(case.build(list(parameters.values())), parameters, scale)
        for name, parameter in parameters.items():
            expect_finite(parameter, f"with gradients of size {scale:g}, {name}")
            grown = (parameter.detach().abs() - before[name]).max().item()
            expect(scale or grown < 1e-6, f"with gradients of 0, {name} grows by {grown:.3g}")


@contract.check
def takes_bfloat16(case: Case) -> None:
    """Parameters in bfloat16 are moved, and stay finite and what they are."""
    parameters = _parameters(torch.bfloat16)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = case.build(list(parameters.values()))
    for group in optimizer.param_groups:
        group["lr"] = 0.1  # less is lost when it is rounded
    _push(optimizer, parameters, 1.0)
    for name, parameter in parameters.items():
        expect(parameter.dtype == torch.bfloat16, f"{name} becomes {parameter.dtype}")
        expect_finite(parameter, name)
    moves = [not torch.equal(parameter.detach(), before[name]) for name, parameter in parameters.items()]
    expect(any(moves), "no parameter in bfloat16 moves at a rate of 0.1")


@contract.check
def rate_obeyed(case: Case) -> None:
    """Each of ``param_groups`` has a rate ``lr`` above zero and obeys it: at 0 it alone does not move."""
    for still in range(len(case.build(list(_parameters().values())).param_groups)):
        parameters = _parameters()
        groups = (optimizer := case.build(list(parameters.values()))).param_groups
        expect(groups[still].get("lr", 0) > 0, "a parameter group has no lr above zero")
        groups[still]["lr"] = 0.0
        before = [[p.detach().clone() for p in group["params"]] for group in groups]
        _push(optimizer, parameters, 1.0)
        for index, (group, kept) in enumerate(zip(groups, before)):
            moves = [not torch.equal(p.detach(), old) for p, old in zip(group["params"], kept)]
            expect(not (index == still and any(moves)), "at a rate of 0 the parameters move")
            expect(index == still or all(moves), "a group stays where another's rate is 0")


@contract.check
def rate_may_change(case: Case) -> None:
    """A rate that a schedule changes in mid-training is obeyed from then on, but for momentum that fades."""
    parameters = _parameters()
    optimizer = case.build(list(parameters.values()))
    first = _moved(optimizer, parameters, 1)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    _push(optimizer, parameters, 1.0, steps=200)
    late = _moved(optimizer, parameters, 1)
    expect(
        late < 0.2 * first,
        f"200 steps after the rate became 0, a step moves by {late:.3g}, at first {first:.3g}",
    )


def _moved(optimizer: Optimizer, parameters: dict[str, nn.Parameter], steps: int) -> float:
    """Return how far the parameters move in so many steps, on average."""
    before = [parameter.detach().clone() for parameter in parameters.values()]
    _push(optimizer, parameters, 1.0, steps)
    moves = [(p.detach() - old).abs().mean().item() for p, old in zip(parameters.values(), before)]
    return sum(moves) / len(moves)


@contract.check
def every_parameter_moves(case: Case) -> None:
    """Every parameter with a gradient moves, one without stays, and moves once it has one."""
    network, data = _network(case), case.normal(16, 3)
    late, frozen = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, 2), requires_grad=False)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = case.build(iter([*network.parameters(), late, frozen]))
    _descend(network, optimizer, data, 3)
    for (name, parameter), kept in zip(network.named_parameters(), before, strict=True):
        expect(not torch.equal(parameter.detach(), kept), f"{name} has a gradient and does not move")
    for parameter in (late, frozen):
        expect(bool((parameter.detach() == 1).all()), "a parameter without a gradient moves")
    for _ in range(3):
        late.grad = torch.ones(2)
        optimizer.step()
    expect(bool((late.detach() < 1).all()), "a parameter whose gradient comes late does not move against it")


@contract.check
def gradients_cleared(case: Case) -> None:
    """``zero_grad`` leaves no gradient behind, whatever ``set_to_none``: the next step is its own."""
    network, data = _network(case), case.normal(16, 3)
    optimizer = case.build(network.parameters())
    for arguments in ({}, {"set_to_none": True}, {"set_to_none": False}):
        network(data).sum().backward()
        optimizer.zero_grad(**arguments)
        left = [p for p in network.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
        expect(not left, f"zero_grad leaves {len(left)} gradients")


@contract.check
def state_restored(case: Case) -> None:
    """Its state, written to a checkpoint and loaded into a new instance, continues bit for bit."""
    network, data = _network(case), case.normal(16, 3)
    optimizer = case.build(network.parameters())
    _descend(network, optimizer, data, 5)
    copy = deepcopy(network)
    resumed = case.build(copy.parameters())
    with TemporaryDirectory() as folder:
        write_state(Path(folder) / "state", {"optimizer": optimizer.state_dict()})
        resumed.load_state_dict(read_state(Path(folder) / "state")["optimizer"])
    _descend(network, optimizer, data, 5)
    _descend(copy, resumed, data, 5)
    for one, other in zip(copy.parameters(), network.parameters(), strict=True):
        expect_close(one, other, "a resumed optimizer differs", rtol=0, atol=0)
