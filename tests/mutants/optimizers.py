"""Broken and sound optimizers."""

from __future__ import annotations

import torch
from torch.optim import SGD, Optimizer, RMSprop

from mutants.catalogue import mutant, sound


@sound("optimizer")
def momentum(parameters, /, lr: float = 0.05):
    """Torch's own descent with momentum."""
    return SGD(parameters, lr, momentum=0.9)


@sound("optimizer")
class Lion(Optimizer):
    """Signs of an average of gradients (Chen and others 2023)."""

    def __init__(self, parameters, /, lr: float = 3e-3, beta: float = 0.9):
        super().__init__(parameters, {"lr": lr, "beta": beta})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.move(parameter, group)

    def move(self, parameter, group):
        average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
        direction = average.lerp(parameter.grad, 1 - group["beta"]).sign()
        average.lerp_(parameter.grad, 0.01)
        parameter.sub_(direction, alpha=group["lr"])


@sound("optimizer")
def rms(parameters, /, lr: float = 1e-3):
    """Torch's RMSprop."""
    return RMSprop(parameters, lr)


@mutant("optimizer", killed_by="descends")
class Climbs(Lion):
    """The update is added."""

    def move(self, parameter, group):
        parameter.add_(parameter.grad, alpha=group["lr"])


@mutant("optimizer", killed_by="rate_obeyed")
class OwnRate(Lion):
    """The rate is remembered from the start: schedules change nothing."""

    def __init__(self, parameters, /, lr: float = 3e-3):
        super().__init__(parameters, lr)
        self.lr = lr

    def move(self, parameter, group):
        super().move(parameter, {**group, "lr": self.lr})


@mutant("optimizer", killed_by="rate_obeyed")
class DecayBesideTheRate(Lion):
    """Weights decay by a share that the rate does not scale."""

    def move(self, parameter, group):
        parameter.mul_(1 - 1e-3)
        super().move(parameter, group)


@mutant("optimizer", killed_by="every_parameter_moves")
class FirstGroupsFirst(Lion):
    """Only the first parameter of a group is moved."""

    def step(self, closure=None):
        for group in self.param_groups:
            with torch.no_grad():
                self.move(group["params"][0], group)


@mutant("optimizer", killed_by="every_parameter_moves")
class DecaysTheFrozen(Lion):
    """Weight decay is applied to parameters that have no gradient."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(1 - 0.01 * group["lr"])
        super().step()


@mutant("optimizer", killed_by="gradients_cleared")
class GradientsPileUp(Lion):
    """``zero_grad`` is overridden and does nothing: gradients add up."""

    def zero_grad(self, set_to_none=True):
        pass


@mutant("optimizer", killed_by="state_restored")
class AverageOutsideTheState(Lion):
    """The average of gradients is kept where ``state_dict`` does not look."""

    def __init__(self, parameters, /, lr: float = 3e-3):
        super().__init__(parameters, lr)
        self.averages = {}

    def move(self, parameter, group):
        average = self.averages.setdefault(id(parameter), torch.zeros_like(parameter))
        average.lerp_(parameter.grad, 0.1)
        parameter.sub_(average, alpha=10 * group["lr"])
