"""What each part of a recipe is worth: recipes/mnist_latent.toml with one thing changed after the other.

Run ``python benchmarks/ablations.py --seeds 3 --write`` to train and measure every row and to write the table
into docs/ablations.md; with the names of rows if not all are wanted, ``--list`` to see these. Rows of one
seed share a run's folder, so each trains only what no row before it has trained: the autoencoder once, and nothing
for another guidance or sampler. Stopped, it resumes; run again, it only measures. ``--quick`` does all of it
with few steps, to see that it works: its numbers mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import tomllib
import torch
from attrs import define, frozen

from uldm_core import registry
from uldm_core.recipe import Recipe
from uldm_plugins.shared.images import in_batches
from uldm_plugins.stages.evaluate import measure
from uldm_plugins.stages.latents import image_batches

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "mnist_latent.toml"
PAGE = ROOT / "docs" / "ablations.md"
WORK = Path("runs/ablations")
BEGIN, END = "<!-- ablations: begin -->", "<!-- ablations: end -->"
"""The program writes between these lines of the page, and nowhere else."""

LEFT_OUT = ("condition", "guidance", "coupling", "sampler")
"""Components of the recipe that a row is without unless it says otherwise."""
OF_TRAINING = ("held_out", "ema", "ema_stds")
"""Options of ``train_diffusion`` of which the same is true."""
TRAINED = ("train_autoencoder", "train_diffusion")
Changes = dict[str, Any]

CLUSTERS: Changes = {"condition": {"use": "clusters", "classes": 400}}
BEST: Changes = {**CLUSTERS, "guidance": {"use": "auto", "weight": 1.5}}


def _auto(weight: float) -> Changes:
    return {"guidance": {"use": "auto", "weight": weight}}


def _sampler(name: str, steps: int, **options: Any) -> Changes:
    return {"sampler": {"use": name, "steps": steps, **options}}


ROWS: dict[str, Changes | None] = {
    "the recipe as it is": None,
    "plain": {},
    "plain, auto 2": _auto(2.0),
    "plain, auto 3": _auto(3.0),
    "100 clusters": {"condition": {"use": "clusters", "classes": 100}},
    "100 clusters, auto 1.5": {"condition": {"use": "clusters", "classes": 100}, **_auto(1.5)},
    "400 clusters": CLUSTERS,
    "400 clusters, auto 1.25": {**CLUSTERS, **_auto(1.25)},
    "400 clusters, auto 1.5": BEST,
    "400 clusters, auto 2": {**CLUSTERS, **_auto(2.0)},
    "400 clusters, classifier_free 1.25": {
        **CLUSTERS,
        "guidance": {"use": "classifier_free", "weight": 1.25},
    },
    "400 clusters, classifier_free 1.5": {**CLUSTERS, "guidance": {"use": "classifier_free", "weight": 1.5}},
    "400 clusters, auto 1.5, heun 18 steps": {**BEST, **_sampler("heun", 18)},
    "400 clusters, auto 1.5, heun 5 steps": {**BEST, **_sampler("heun", 5)},
    "400 clusters, auto 1.5, dpmpp_2m 8 steps": {**BEST, **_sampler("dpmpp_2m", 8)},
    "400 clusters, auto 1.5, dpmpp_2m 4 steps": {**BEST, **_sampler("dpmpp_2m", 4)},
    "400 clusters, dpmpp_2m 4 steps": {**CLUSTERS, **_sampler("dpmpp_2m", 4)},
    "400 clusters, euler 4 steps": {**CLUSTERS, **_sampler("euler", 4)},
}
"""What is changed in each row, by its name: tables and options by their keys; None changes nothing."""

METRICS = (
    {"use": "frechet_mnist"},
    {"use": "precision_recall", "backbone": "mnist_judge"},
    {"use": "density_coverage", "backbone": "mnist_judge"},
    {"use": "nearest_neighbour", "count": 2000},
)
NUMBERS = ("frechet_mnist", "precision", "recall", "density", "coverage", "copies")
QUICK: Changes = {
    "dataset.limit": 500,
    "autoencoder.encoder_channels": [4, 8, 8],
    "autoencoder.decoder_channels": [4, 8, 8],
    "autoencoder.quantizer.codebook_size": 16,
    "denoiser.width": 16,
    "denoiser.hidden": 16,
    "stages.first.steps": 2,
    "stages.first.batch_size": 8,
    "stages.first.losses": [{"use": "l1"}],
    "stages.second.steps": 4,
    "stages.second.batch_size": 16,
    "stages.second.previews": 0,
    "stages.samples.count": 20,
}


def recipe(name: str, seed: int, quick: bool = False) -> Recipe:
    """Return the recipe of a row: the stages that train and draw, the row's changes applied."""
    tables = tomllib.loads(RECIPE.read_text("utf-8"))
    changes = ROWS[name]
    wanted = [*TRAINED, "sample", *(() if changes is not None else ("tune",))]
    tables["stages"] = {key: stage for key, stage in tables["stages"].items() if stage["use"] in wanted}
    for key in LEFT_OUT if changes is not None else ():
        tables.pop(key, None)
    for stage in tables["stages"].values() if changes is not None else ():
        for option in (*OF_TRAINING, *(LEFT_OUT if "sampler" in (changes or {}) else LEFT_OUT[:-1])):
            stage.pop(option, None)
    for key, value in {**(changes or {}), **(_that_fit(QUICK, tables) if quick else {})}.items():
        _set(tables, key.split("."), deepcopy(value))
    return Recipe.from_dict({**tables, "seed": seed}, name)


def _that_fit(changes: Changes, tables: Mapping[str, Any]) -> Changes:
    """Return the changes with clusters that so few images can fill."""
    return {**changes, **({"condition.classes": 10} if "condition" in tables else {})}


def _set(tables: dict[str, Any], key: Sequence[str], value: Any) -> None:
    for name in key[:-1]:
        tables = tables.setdefault(name, {})
    tables[key[-1]] = value


@frozen
class Result:
    """What a row came to with one seed: numbers by name, and the seconds of each stage by its component."""

    numbers: Mapping[str, float]
    seconds: Mapping[str, float]
    calls: float


@define(slots=False)
class Measuring:
    """Measures samples against the test split, which it reads once."""

    quick: bool

    @cached_property
    def metrics(self) -> list[Any]:
        """The metrics, with the real images that they compare with."""
        train = registry.build("dataset", "mnist", **({"limit": 500} if self.quick else {}))
        test, made = train.split("test"), []
        for spec in METRICS:
            options = {name: value for name, value in spec.items() if name != "use"}
            metric = registry.build("metric", spec["use"], **options)
            near = spec["use"] == "nearest_neighbour"
            for batch in image_batches(train if near else test):
                metric.update(batch, real=True)
            for batch in image_batches(test) if near else ():
                metric.update_unseen(batch)
            made.append(metric)
        return made

    def __call__(self, images: torch.Tensor) -> dict[str, float]:
        return measure(self.metrics, in_batches(images))
