"""Guidance against diffusers' guiders."""

import pytest
import torch
from diffusers.guiders import AdaptiveProjectedGuidance, AutoGuidance, ClassifierFreeGuidance
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

from uldm_core import registry
from uldm_core.testing.doubles import discrete, straight, tiny_models

WEIGHTS = (0.0, 0.5, 1.0, 1.5, 7.5)
CLASSES = 10
TIMES = (0.95, 0.6, 0.3, 0.05)
FORMULATIONS = [(False, 0), (True, 1)]
"""``use_original_formulation`` of diffusers, and how much less its scale is than our weight."""


def data_on_the_way(process, models, denoise, guider, weaker):
    """Return the data that we are led to along a few times, and those of their guider, given the data."""
    ours, theirs = [], []
    for step, time in enumerate(TIMES):
        x = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(step))
        t = torch.full((3,), time)
        better = models.predict(x, t, models.condition)
        untold = torch.full((3,), CLASSES)
        worse = models.weaker(x, t, models.condition) if weaker else models.predict(x, t, untold)
        guided, *both = (process.split(each, x, t)[0] for each in (denoise(x, t), better, worse))
        guider.set_state(step, len(TIMES), t)
        ours.append(guided)
        theirs.append(guider.forward(*both).pred)
    return torch.stack(ours), torch.stack(theirs)


def expect_same(name, guider, process, *, weaker=False, tolerance=1e-5, **options):
    models = tiny_models(torch.tensor([0, 4, 9]), CLASSES, process)
    denoise = registry.build("guidance", name, **options)(models, process)
    ours, theirs = data_on_the_way(process, models, denoise, guider, weaker)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize(("original", "less"), FORMULATIONS)
def test_classifier_free_is_diffusers_whose_original_scale_is_one_less(weight, original, less):
    guider = ClassifierFreeGuidance(weight - less, use_original_formulation=original)
    expect_same("classifier_free", guider, straight(), weight=weight, classes=CLASSES)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize(("original", "less"), FORMULATIONS)
def test_auto_is_diffusers_whose_original_scale_is_one_less(weight, original, less):
    scale = weight - less
    guider = AutoGuidance(scale, auto_guidance_layers=[0], dropout=0.1, use_original_formulation=original)
    expect_same("auto", guider, straight(), weaker=True, weight=weight)


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v", "flow"])
@pytest.mark.parametrize(
    ("weight", "eta", "momentum", "threshold"),
    [(0.5, 0.0, 0.0, 0.0), (1.0, 0.0, -0.5, 1.0), (2.0, 0.3, -0.75, 0.0), (7.5, 0.0, -0.5, 2.5)],
)
def test_adaptive_projected_is_diffusers_original_formulation(prediction, weight, eta, momentum, threshold):
    """Which is the paper's; from the prediction without condition diffusers goes another way if eta < 1."""
    guider = AdaptiveProjectedGuidance(
        weight - 1, momentum, threshold, eta=eta, use_original_formulation=True
    )
    guider.momentum_buffer = MomentumBuffer(momentum)
    options = {"weight": weight, "eta": eta, "momentum": momentum, "norm_threshold": threshold}
    process, tolerance = discrete(prediction), 1e-3 if prediction == "epsilon" else 1e-4
    expect_same("adaptive_projected", guider, process, tolerance=tolerance, **options, classes=CLASSES)


def test_adaptive_projected_without_its_three_parts_is_classifier_free():
    guider = ClassifierFreeGuidance(3.0)
    plain = {"eta": 1.0, "momentum": 0.0, "norm_threshold": 0.0}
    expect_same("adaptive_projected", guider, straight(), weight=3.0, **plain, classes=CLASSES)
