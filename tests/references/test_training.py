"""Averages, optimizers and schedules against torch and EDM2's formula."""

import copy

import pytest
import torch
from ema_pytorch.post_hoc_ema import sigma_rel_to_gamma
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

from uldm_core import registry
from uldm_plugins.shared.ema import EMA, power_function, warmed
from uldm_plugins.stages.averages import averages_to_keep


@pytest.mark.parametrize("decay", [warmed(0.9), power_function(0.1)], ids=["warmed", "power function"])
def test_the_average_is_that_of_swa_utils(decay):
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    ours = EMA(network, decay)
    updates = iter(range(100))

    def average(averages, current, _):
        share = 1 - decay(next(updates))
        for mean, value in zip(averages, current):
            mean.lerp_(value, share)

    theirs = AveragedModel(network, multi_avg_fn=average)
    theirs.n_averaged += 1  # else its first update is a copy, and ours has the initial weights
    for _ in range(40):
        with torch.no_grad():
            network.weight.add_(torch.randn(2, 3))
        ours.update()
        theirs.update_parameters(network)
    for mine, its in zip(ours.parameters, theirs.module.parameters(), strict=True):
        torch.testing.assert_close(mine, its.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("std", [0.05, 0.1, 0.2])
def test_the_power_function_is_edm2s(std):
    gamma = sigma_rel_to_gamma(std)
    decay = power_function(std)
    assert decay(0) == 0  # the initial weights are forgotten at once
    for updates in (1, 10, 1000):
        assert decay(updates) == pytest.approx((1 - 1 / (updates + 1)) ** (gamma + 1), rel=1e-6)


def test_the_power_functions_average_has_the_width_asked_for():
    weights = torch.ones(1, dtype=torch.float64)
    decay = power_function(0.1)
    for update in range(1, 4000):
        share = decay(update)
        weights = torch.cat([weights * share, torch.tensor([1 - share])])
    times = torch.arange(4000) / 4000
    mean = (weights * times).sum()
    assert ((weights * (times - mean).square()).sum().sqrt()).item() == pytest.approx(0.1, rel=1e-2)


@pytest.mark.parametrize("std", [0.03, 0.15])
def test_averages_of_several_widths_are_what_the_power_function_says_of_a_line(std):
    """The weight of update i of n is (i / n)^(gamma + 1) - ((i - 1) / n)^(gamma + 1)."""
    network, updates = nn.Linear(1, 1, bias=False), 200
    ema = EMA(network, averages_to_keep(0.999, None, [0.03, 0.15])[f"ema_{std}"])
    for update in range(1, updates + 1):
        nn.init.constant_(network.weight, update)
        ema.update()
    shares = (torch.arange(updates + 1) / updates) ** (sigma_rel_to_gamma(std) + 1)
    expected = (shares.diff() * torch.arange(1, updates + 1)).sum()
    assert ema.parameters[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_muon_is_torchs_on_matrices_and_adamw_elsewhere():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    theirs = copy.deepcopy(ours)
    optimizer = registry.build("optimizer", "muon", ours.parameters(), lr=1e-2)
    matrices = [theirs[2].weight]
    others = [p for p in theirs.parameters() if p.ndim != 2]
    references = [
        torch.optim.Muon(matrices, 1e-2, 0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, 1e-2, (0.9, 0.99), 1e-8, 0.01),
    ]
    for _ in range(5):
        images = torch.randn(6, 1, 4, 4)
        for network, steppers in ((ours, [optimizer]), (theirs, references)):
            for stepper in steppers:
                stepper.zero_grad()
            network(images).square().mean().backward()
            for stepper in steppers:
                stepper.step()
    for mine, its in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)


def factors(scheduler_of, steps, lr=1.0):
    """Return the learning rates that a torch scheduler sets, step by step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = scheduler_of(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps", [10, 101])
def test_one_cycle_is_torchs(steps):
    ours = registry.partial("lr_schedule", "one_cycle")(steps)

    def theirs(optimizer):
        return lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=steps + 1)  # one to spare, else it raises

    # torch lays its cycle over total_steps, the spare one included
    over_all = registry.partial("lr_schedule", "one_cycle")(steps + 1)
    assert [over_all(step) for step in range(steps)] == pytest.approx(factors(theirs, steps), abs=1e-6)
    assert ours(steps - 1) == pytest.approx(1 / 25e4)


def test_linear_warmup_is_torchs():
    ours = registry.partial("lr_schedule", "linear_warmup", warmup=20, start=0.1)(100)
    expected = factors(lambda o: lr_scheduler.LinearLR(o, start_factor=0.1, total_iters=20), 50)
    assert [ours(step) for step in range(50)] == pytest.approx(expected, abs=1e-6)


def test_cosine_is_torchs():
    ours = registry.partial("lr_schedule", "cosine")(50)
    expected = factors(lambda o: lr_scheduler.CosineAnnealingLR(o, 50), 50)
    assert [ours(step) for step in range(50)] == pytest.approx(expected, abs=1e-6)
