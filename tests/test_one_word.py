"""One recipe, one word: whatever is registered trains and samples where another component stood."""

import copy
import json
import math
from typing import get_args

import pytest

from uldm_core import registry
from uldm_core.engine.run import run
from uldm_core.errors import is_unavailable
from uldm_core.kinds import BUILTIN_KINDS
from uldm_core.recipe import Recipe
from uldm_plugins.noise_schedulers.predictions import Prediction
from uldm_plugins.stages.sample import load_images

RECIPE = {
    "uldm": 1,
    "run": {"device": "cpu"},
    "dataset": {"use": "mnist", "limit": 64},
    "autoencoder": {
        "use": "vqvae_fast",
        "quantizer": {"use": "vq_ema"},
        "encoder_channels": [8, 16],
        "decoder_channels": [8, 16],
    },
    "discriminator": {"use": "patchgan", "channels": [8, 16, 32]},
    "denoiser": {"use": "mlp", "width": 32, "hidden": 32},
    "noise_scheduler": {"use": "flow"},
    "stages": {
        "first": {
            "use": "train_autoencoder",
            "steps": 3,
            "batch_size": 8,
            "previews": 0,
            "losses": [{"use": "l1"}],
            "adversarial": {"use": "hinge", "start": 1},
        },
        "second": {"use": "train_diffusion", "steps": 3, "batch_size": 8, "previews": 0},
        "samples": {"use": "sample", "sampler": {"use": "euler", "steps": 3}, "count": 4},
    },
}

REFUSED = {("noise_scheduler/flow", "epsilon")}  # at t = 1 alpha is 0
KEPT = {"steps", "start"}  # said by the recipe, whatever the word
EVERY_DAY = {
    *("autoencoder/vqvae", "quantizer/fsq", "discriminator/patchgan_n_layers", "loss/charbonnier"),
    *(
        "adversarial_loss/lsgan",
        "latent_scaling/unit_variance",
        "timestep_weighting/min_snr",
        "denoiser/unet",
    ),
    *("noise_scheduler/cosine", "noise_scheduler/edm", "sampler/dpmpp_2m", "sampler/ddpm", "optimizer/adam"),
    *("lr_schedule/one_cycle", "dataset/synthetic", "denoiser/diffusers/unet_2d"),
    *("augmentation/compose",),
}
"""Some of each kind; the others are slow tests."""
SMALL = {"dataset/mnist": {"limit": 64}, "condition/clusters": {"classes": 8}}

PLACES = {
    "autoencoder": ("autoencoder",),
    "quantizer": ("autoencoder", "quantizer"),
    "discriminator": ("discriminator",),
    "loss": ("stages", "first", "losses", 0),
    "adversarial_loss": ("stages", "first", "adversarial"),
    "latent_scaling": ("latent_scaling",),
    "timestep_weighting": ("stages", "second", "timestep_weighting"),
    "augmentation": ("augmentation",),
    "condition": ("condition",),
    "denoiser": ("denoiser",),
    "guidance": ("guidance",),
    "noise_scheduler": ("noise_scheduler",),
    "sampler": ("stages", "samples", "sampler"),
    "optimizer": ("stages", "second", "optimizer"),
    "lr_schedule": ("stages", "second", "lr_schedule"),
    "dataset": ("dataset",),
}


def use(component):
    return registry.default().name_of(component)


def words():
    for component in registry.default().components():
        if component.kind in PLACES and component.distribution == "uldm":
            predictions = get_args(Prediction) if component.kind == "noise_scheduler" else [None]
            for prediction in predictions:
                if (component.path, prediction) in REFUSED:
                    continue
                slow = prediction not in (None, "epsilon") or component.path not in EVERY_DAY
                name = f"{use(component)} {prediction or ''}".strip()
                yield pytest.param(component, prediction, marks=[pytest.mark.slow] * slow, id=name)


def swapped(component, prediction):
    """Return the recipe with one word changed; what a component cannot do without comes from its example."""
    recipe = copy.deepcopy(RECIPE)
    if component.kind == "guidance":  # some need one
        recipe["condition"] = {"use": "clusters", "classes": 2}
    if component.kind == "dataset":  # some have small images
        recipe["discriminator"] = {"use": "patchgan_n_layers", "num_layers": 1}
    *path, last = PLACES[component.kind]
    table = recipe
    for key in path:
        table = table[key] if isinstance(key, int) else table.setdefault(key, {})
    kept = {k: v for k, v in table.get(last, {}).items() if k in KEPT} if isinstance(last, str) else {}
    inferred = next(kind.inferred for kind in BUILTIN_KINDS if kind.name == component.kind)
    example = {name: value for name, value in component.example.items() if name not in inferred}
    table[last] = {"use": use(component), **example, **SMALL.get(component.path, {}), **kept}
    if prediction:
        table[last]["prediction"] = prediction
    return recipe


def run_or_skip(recipe, out):
    try:
        return run(recipe, out=out)
    except Exception as error:
        codes = {problem.code for problem in getattr(error, "problems", ())}
        # a download or an optional library, not a fault of the component
        if is_unavailable(error) or codes == {"unavailable-file"}:
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize(("component", "prediction"), list(words()))
def test_it_trains_and_samples(component, prediction, tmp_path):
    folder = run_or_skip(Recipe.from_dict(swapped(component, prediction)), tmp_path / "run")
    images = load_images(folder / "stages/samples/artifacts/samples.npz")
    assert len(images) == 4
    logs = [folder / "stages" / stage / "metrics.jsonl" for stage in ("first", "second")]
    logged = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    assert len(logged) == 2 and all(math.isfinite(value) for row in logged for value in row.values())
