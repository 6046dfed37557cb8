"""Broken and sound optimizers."""

from __future__ import annotations

import torch
from torch.optim import SGD, Adafactor, AdamW, Optimizer, RMSprop

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


@sound("optimizer")
class RateWithin(Lion):
    """Momentum that holds the rate itself (Sutskever and others 2013): a change is felt little by little."""

    def __init__(self, parameters, /, lr: float = 0.05):
        super().__init__(parameters, lr, 0.9)

    def move(self, parameter, group):
        velocity = self.state[parameter].setdefault("velocity", torch.zeros_like(parameter))
        velocity.mul_(group["beta"]).sub_(parameter.grad, alpha=group["lr"])
        parameter.add_(velocity)


@sound("optimizer")
class Layerwise(Lion):
    """Each layer moves by a share of its own size (LAMB, You and others 2020)."""

    def __init__(self, parameters, /, lr: float = 1e-2):
        super().__init__(parameters, lr)

    def move(self, parameter, group):
        size, length = parameter.norm(), parameter.grad.norm()
        share = torch.where((size > 0) & (length > 0), size / length, torch.ones_like(size))
        parameter.sub_(share * parameter.grad, alpha=group["lr"])


@sound("optimizer")
def decaying_adam(parameters, /, lr: float = 1e-2):
    """Torch's AdamW over its loops, with a strong decay."""
    return AdamW(parameters, lr, weight_decay=0.2, foreach=True)


@sound("optimizer")
def adafactor(parameters, /, lr: float = 1e-2):
    """Torch's Adafactor, which keeps rows and columns of matrices only."""
    return Adafactor(parameters, lr)


@mutant("optimizer", killed_by="descends")
class StepsTooFar(Lion):
    """The step is so long that it leaps over every valley."""

    def move(self, parameter, group):
        super().move(parameter, {**group, "lr": 1000 * group["lr"]})


@mutant("optimizer", killed_by="against_the_gradient")
class TransposesKernels(Lion):
    """Kernels are made matrices for the update, and made kernels again the wrong way round."""

    def move(self, parameter, group):
        if parameter.ndim == 4:
            parameter.sub_(parameter.grad.transpose(0, 1), alpha=group["lr"])
        else:
            super().move(parameter, group)


@mutant("optimizer", killed_by="takes_any_gradient")
class DividesByTheNorm(Lion):
    """The gradient is brought to length one, whatever its length."""

    def move(self, parameter, group):
        parameter.sub_(parameter.grad / parameter.grad.norm(), alpha=group["lr"])


@mutant("optimizer", killed_by="takes_any_gradient")
class GrowsForDecay(Lion):
    """Weight decay has the wrong sign."""

    def move(self, parameter, group):
        parameter.mul_(1 + 0.1 * group["lr"])
        super().move(parameter, group)


@mutant("optimizer", killed_by="takes_bfloat16")
class MovesACopy(Lion):
    """The update is done in float32, which of other parameters makes a copy."""

    def move(self, parameter, group):
        parameter.float().sub_(parameter.grad.float().sign(), alpha=group["lr"])


@mutant("optimizer", killed_by="takes_bfloat16")
class AverageInFloat32(Lion):
    """The average of gradients is in float32, and takes in no others."""

    def move(self, parameter, group):
        average = self.state[parameter].setdefault("average", torch.zeros(parameter.shape))
        average.lerp_(parameter.grad, 0.1)
        parameter.sub_(average, alpha=10 * group["lr"])


@mutant("optimizer", killed_by="against_the_gradient")
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
        parameter.mul_(1 - 1e-4)
        super().move(parameter, group)


@mutant("optimizer", killed_by="rate_obeyed")
class RateOfTheFirstGroup(Lion):
    """Matrices and all else are two groups, and the rate of the first is taken for both."""

    def __init__(self, parameters, /, lr: float = 3e-3):
        parameters = list(parameters)
        kinds = ([p for p in parameters if p.ndim == 2], [p for p in parameters if p.ndim != 2])
        super().__init__([{"params": kind} for kind in kinds if kind], lr)

    def move(self, parameter, group):
        super().move(parameter, {**group, "lr": self.param_groups[0]["lr"]})


@mutant("optimizer", killed_by="rate_may_change")
class RateOfTheFirstStep(Lion):
    """The rate is taken over into the state in the first step: a schedule changes nothing."""

    def move(self, parameter, group):
        rate = self.state[parameter].setdefault("rate", group["lr"])
        super().move(parameter, {**group, "lr": rate})


@mutant("optimizer", killed_by="every_parameter_moves")
class StateInTheFirstStep(Lion):
    """Averages are made in the first step, for the parameters that have a gradient then."""

    def step(self, closure=None):
        if not self.state:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self.state[parameter]["average"] = torch.zeros_like(parameter)
        super().step()

    def move(self, parameter, group):
        if "average" not in self.state.get(parameter, {}):
            raise KeyError("average")
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


@mutant("optimizer", killed_by="gradients_cleared")
class NothingSetToNone(Lion):
    """``zero_grad`` does not take how the gradients are to be cleared."""

    def zero_grad(self):
        super().zero_grad()


@mutant("optimizer", killed_by="state_restored")
class StateThatNoFileHolds(Lion):
    """Which parameters were seen is kept as a set, which no checkpoint holds."""

    def step(self, closure=None):
        self.param_groups[0]["seen"] = {len(self.param_groups)}
        super().step()


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
